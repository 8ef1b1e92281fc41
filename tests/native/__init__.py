"""The compiled core beside its twin in Python; what has a subject of its own is tested there."""
