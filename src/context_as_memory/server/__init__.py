"""The explorer: walk in a world in the browser and see what it remembers (`cam explore`)."""
