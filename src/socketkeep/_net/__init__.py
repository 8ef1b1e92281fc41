"""Listening, connecting and serving."""
