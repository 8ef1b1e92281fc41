"""What the kernel says about sockets, against real ones."""
