"""What a server and its service manager say to each other."""
