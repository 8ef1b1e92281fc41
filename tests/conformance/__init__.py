"""What others wrote, run against the server: `make conformance`, in an environment of its own."""
