"""What the kernel knows about sockets: their queues, and the processes that hold them."""
