"""One connection: its core, and the sync and the async shell over it."""
