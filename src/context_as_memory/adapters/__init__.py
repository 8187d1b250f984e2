"""Networks of others behind our interfaces: Wan's video autoencoder, and depth from pictures."""
