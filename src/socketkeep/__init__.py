"""Serve TCP and Unix-socket connections, and keep them when the code behind them is replaced."""

__all__: list[str] = []
