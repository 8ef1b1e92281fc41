"""A release, as its users get it: `make package`, without this checkout."""
