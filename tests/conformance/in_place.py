"""Transports of ours in the place of asyncio's own, in a process that runs tests of others.

Imported by name in such a process, as a plugin of pytest's or by what runs unittest.  The little
that the tests of aiosmtpd use of pytest-mock and pkg_resources is here, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from asyncio import selector_events
from collections.abc import Iterator
from importlib.util import find_spec
from types import ModuleType
from typing import Any
from unittest import mock

import pytest

from socketkeep import AsyncConnection
from socketkeep._serve._protocols import Pump
from socketkeep._serve._transport import ConnectionTransport

made = 0  # of ours
_loops: Any = selector_events.BaseSelectorEventLoop
_theirs = _loops._make_socket_transport


class _Quick(AsyncConnection):
    """Does not wait for the peer's end: loops of tests do not run on."""

    __slots__ = ()

    async def close(self, *, linger: float = 0.0) -> None:
        await super().close(linger=0.0)


class _Transport(ConnectionTransport):
    """Tells its server at once that it has ended, as the loop's own does."""

    server: Any = None

    def _lose(self) -> None:
        super()._lose()
        if self.server is not None:
            self.server._detach(*self.told)

    @property
    def told(self) -> tuple[object, ...]:
        return (self,) if sys.version_info >= (3, 13) else ()


def _make_socket_transport(
    loop: Any,
    sock: Any,
    protocol: Any,
    waiter: asyncio.Future[None] | None = None,
    *,
    extra: Any = None,
    server: Any = None,
) -> Any:
    global made
    if not isinstance(sock, socket.socket):  # a mock
        return _theirs(loop, sock, protocol, waiter, extra=extra, server=server)
    made += 1
    transport = _Transport(_Quick(sock), protocol)
    if server is not None:
        transport.server = server
        server._attach(*transport.told)

    async def serve() -> None:
        protocol.connection_made(transport)
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        try:
            await Pump(transport).run()
        except asyncio.CancelledError:
            transport.conn.core.sock.close()
            raise
        except OSError:
            pass
        except Exception as error:
            context = {"message": "Fatal error", "exception": error, "protocol": protocol}
            loop.call_exception_handler({**context, "transport": transport})

    transport.serving = loop.create_task(serve())  # type: ignore[attr-defined]
    return transport


_loops._make_socket_transport = _make_socket_transport


class _Mocker:
    Mock = mock.Mock

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack

    def patch(self, *arguments: Any, **options: Any) -> Any:
        return self._stack.enter_context(mock.patch(*arguments, **options))

    def spy(self, owner: Any, name: str) -> Any:
        spy = mock.patch.object(owner, name, side_effect=getattr(owner, name), autospec=True)
        return self._stack.enter_context(spy)


@pytest.fixture
def mocker() -> Iterator[_Mocker]:
    with contextlib.ExitStack() as stack:
        yield _Mocker(stack)


@pytest.fixture(scope="session")
def session_mocker() -> Iterator[_Mocker]:
    with contextlib.ExitStack() as stack:
        yield _Mocker(stack)


def _resource_filename(package: Any, name: str) -> str:
    found = find_spec(package if isinstance(package, str) else package.__name__)
    assert found is not None
    return os.path.join(os.path.dirname(str(found.origin)), name)


for _name, _parts in (
    ("pytest_mock", {"MockFixture": _Mocker}),
    ("pkg_resources", {"resource_filename": _resource_filename}),
):
    sys.modules[_name] = ModuleType(_name)
    vars(sys.modules[_name]).update(_parts)


def pytest_unconfigure() -> None:
    """Say how many transports were ours."""
    print(f"ours: {made}", file=sys.stderr)
