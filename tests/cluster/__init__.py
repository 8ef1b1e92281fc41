"""Servers that are nodes of a cluster."""
