"""Code that was not written for Socketkeep: what its clients see, and what it is given."""
