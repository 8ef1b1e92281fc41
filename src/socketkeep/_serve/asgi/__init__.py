"""ASGI applications, by HTTP/1.1."""
