"""Inspection of sockets, by what the kernel knows: their queues, and their holders."""
