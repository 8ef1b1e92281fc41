"""WebSockets for ASGI applications, kept through reloads, upgrades and crashes."""
