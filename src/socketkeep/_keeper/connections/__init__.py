"""The connections that the keeper moves, parks and holds."""
