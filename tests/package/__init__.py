"""What a release has, as its users get it: `make package`, without this checkout."""
