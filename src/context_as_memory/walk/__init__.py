"""A walk into a picture: what is asked for (`request`), the loop (`generate`), and what is left behind (`recorder`)."""
