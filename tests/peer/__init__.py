"""What the peer of a server sees, for each model over IPv4 and over Unix sockets."""
