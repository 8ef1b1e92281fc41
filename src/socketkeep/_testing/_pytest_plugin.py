"""The pytest plugin: its option, and nothing else until that is given."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--socket-leaks``."""
    parser.getgroup("socketkeep").addoption(
        "--socket-leaks",
        action="store_true",
        help="fail each test that leaves a socket open, or one in a child process; "
        "with where it was opened",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Begin to watch, if that is wanted."""
    if config.getoption("socket_leaks"):
        from socketkeep._testing._socket_leaks import SocketLeaks

        config.pluginmanager.register(SocketLeaks(config), "socketkeep-socket-leaks")
