"""Names and groups of connections, and what is pushed to them."""
