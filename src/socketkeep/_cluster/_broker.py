"""The way to a broker, and the reasons for which one is not reached, in words."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import urlsplit

import nats.errors
from nats.aio.client import Client

from socketkeep._config._server_options import ServeConfig

_CONNECT: Final = 3  # seconds for one server
_PATIENCE: Final = 15.0  # and for all of them
_CLOSING: Final = 1.0


class Unusable(Exception):
    """The cluster cannot be joined now.  refused: somebody has said no, and will again."""

    def __init__(self, text: str, *, refused: bool = False) -> None:
        super().__init__(text)
        self.refused = refused


def address_of(url: str) -> str:
    """Return a server's address without what stands there of credentials."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or 4222}"


def tls_of(config: ServeConfig) -> ssl.SSLContext | None:
    """Return how TLS is spoken; None: as the client does by itself.  Raises Unusable."""
    if not (config.cluster_ca or config.cluster_certificate or "tls://" in config.cluster):
        return None
    try:
        context = ssl.create_default_context(cafile=config.cluster_ca or None)
    except (OSError, ssl.SSLError) as error:
        raise Unusable(f"--cluster-ca {config.cluster_ca}: {reason_of(error)}") from None
    if config.cluster_certificate:
        try:
            context.load_cert_chain(config.cluster_certificate, config.cluster_key or None)
        except (OSError, ssl.SSLError) as error:
            path = config.cluster_certificate
            raise Unusable(f"--cluster-certificate {path}: {reason_of(error)}") from None
    return context


def credentials_of(config: ServeConfig) -> dict[str, str]:
    """Return who this is, as the client takes it.  Raises Unusable."""
    path = config.cluster_credentials
    if not path:
        return {}
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            text = file.read(65536)
    except OSError as error:
        raise Unusable(f"--cluster-credentials {path}: {error.strerror}") from None
    if "-----BEGIN" in text:
        return {"user_credentials": path}
    if text.strip().startswith("S"):
        return {"nkeys_seed": path}
    raise Unusable(f"--cluster-credentials {path}: expected a .creds file, or the seed of an NKey")


async def connect(
    config: ServeConfig,
    label: str,
    lease: float,
    on_closed: Callable[[], Awaitable[None]],
    on_error: Callable[[Exception], Awaitable[None]],
) -> Client:
    """Connect to one of the servers.  Raises Unusable.

    What comes after its end is not the client's to mend: it would send later what waits, and a push
    is for now.
    """
    last: list[Exception] = []

    async def noted(error: Exception) -> None:
        last.append(error)
        await on_error(error)

    client = Client()
    more: dict[str, Any] = dict(credentials_of(config))
    tls = tls_of(config)
    if tls is not None:
        more["tls"] = tls
    try:
        async with asyncio.timeout(_PATIENCE):
            await client.connect(
                servers=config.cluster.split(","),
                name=f"socketkeep {label}",
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                connect_timeout=_CONNECT,
                ping_interval=max(1, int(lease / 5)),
                max_outstanding_pings=2,
                no_echo=True,
                error_cb=noted,
                closed_cb=on_closed,
                **more,
            )
    except Exception as error:
        await _give_up(client)
        cause = error
        if isinstance(error, nats.errors.NoServersError) and last:
            cause = last[-1]
        raise _unusable(cause, config) from None
    return client


async def _give_up(client: Client) -> None:
    """Close a client that has not connected; after a failed handshake it would wait for ever."""
    try:
        async with asyncio.timeout(_CLOSING):
            await client.close()
    except Exception:  # whatever it is, the connection is of no use
        return


def _unusable(error: Exception, config: ServeConfig) -> Unusable:
    servers = ", ".join(map(address_of, config.cluster.split(",")))
    text = reason_of(error)
    if "uthorization" in text or "uthentication" in text:
        return Unusable(
            f"the broker refuses the credentials ({servers}): see --cluster-credentials, or give"
            " user and password in the URL",
            refused=True,
        )
    return Unusable(f"no broker can be reached ({servers}): {text}")


def reason_of(error: BaseException) -> str:
    """Return why something failed, in a line."""
    if isinstance(error, TimeoutError) and not str(error).strip():
        return "it does not answer"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    text = str(error).strip() or type(error).__name__
    return text.removeprefix("nats: ").strip("'").splitlines()[0][:200]
