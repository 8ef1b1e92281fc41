"""The servers that these tests run against: each model, over each kind of socket."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.harness import Server, write_handler

MODELS: Final = ("fork", "prefork", "thread", "async")
#: Each model, and a sync and an async one over a Unix socket, too.
SITES: Final = (*((each, "ipv4") for each in MODELS), ("thread", "unix"), ("async", "unix"))


@dataclass(frozen=True, slots=True)
class Site:
    """A model and a kind of socket, in a directory of its own."""

    model: str
    transport: str
    directory: Path

    @property
    def is_async(self) -> bool:
        """Whether its handlers are coroutine functions."""
        return self.model == "async"

    def write(self, version: str, kind: str = "counter", *, tail: str = "") -> str:
        """Write the handler of `kind`; return the TARGET to serve."""
        return write_handler(self.directory, version, kind, is_async=self.is_async, tail=tail)

    def serve(
        self,
        target: str,
        *options: str,
        clients: int,
        spare: int = 0,
        environment: Mapping[str, str | None] | None = None,
    ) -> Server:
        """Return a server of `target` with room for `clients` and `spare` more at one time."""
        bind = "127.0.0.1:0" if self.transport == "ipv4" else f"unix:{self.directory}/listener"
        seats = clients + spare
        room = {
            "fork": ("-w", "2"),
            "prefork": ("-w", str(seats)),
            "thread": ("-w", "2", "--threads", str(seats)),
            "async": ("-w", "2"),
        }
        return Server(
            self.directory,
            target,
            *("-k", self.model, *room[self.model], *options),
            bind=[bind],
            environment=environment,
        )


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> str:
    """The worker model."""
    return str(request.param)


@pytest.fixture(params=SITES, ids="-".join)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Site:
    """Each model over IPv4, and two of them over a Unix socket."""
    model, transport = request.param
    return Site(model, transport, tmp_path)


@pytest.fixture
def tcp_site(model: str, tmp_path: Path) -> Site:
    """Each model, over IPv4."""
    return Site(model, "ipv4", tmp_path)


@pytest.fixture(params=("prefork", "async"))
def some_site(request: pytest.FixtureRequest, tmp_path: Path) -> Site:
    """A sync and an async model over IPv4, for what the keeper decides whatever the model."""
    return Site(str(request.param), "ipv4", tmp_path)
