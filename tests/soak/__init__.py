"""Servers under all that happens to them in a year, for as long as one likes: see `__main__.py`."""
