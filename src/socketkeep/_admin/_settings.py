"""The settings of the process that shows a server over HTTP, and the token that it asks for."""

from __future__ import annotations

import os

import msgspec

from socketkeep._base._address import InetAddress, parse_bind
from socketkeep._base._mistakes import OptionError
from socketkeep._config._server_options import ServeConfig, option


class HttpSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of the pages: what they show, and where.

    door: the descriptor over which the ends of connections to the keeper are sent; -1, from a
    keeper that has none: by the path of the control socket.
    """

    config: ServeConfig
    control: str
    door: int = -1


def admin_token(config: ServeConfig) -> str:
    """Return the token of `--admin`, "" when there is none.

    Raises OptionError: both a token and a file are given, or the file has none that will do.
    """
    return _token("admin", config.admin_token, config.admin_token_file)


def push_token(config: ServeConfig) -> str:
    """Return the token of pushes over HTTP, "" when there are none.  Raises as `admin_token`."""
    return _token("push", config.push_token, config.push_token_file)


def _token(of: str, given: str, path: str) -> str:
    if not path:
        return given
    if given:
        raise OptionError(f"give --{of}-token or --{of}-token-file, not both")
    source = f"--{of}-token-file {path}"
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            token = file.read(4096).strip()
    except OSError as error:
        raise OptionError(f"{source}: {os.strerror(error.errno or 0)}") from None
    if not token:
        raise OptionError(f"{source}: the file is empty")
    checked: str = option(f"{of}_token").from_text(token, source)
    return checked


def check_admin(config: ServeConfig) -> None:
    """Raise OptionError when `--admin` would let in who should not be."""
    if not config.admin:
        return
    if push_token(config) and push_token(config) == admin_token(config):
        raise OptionError("--push-token is the token of --admin: who looks on is not to push")
    address = parse_bind(config.admin)
    assert isinstance(address, InetAddress)
    if not admin_token(config) and not is_loopback(address.host):
        raise OptionError(
            f"--admin {config.admin} can be reached from other machines: give a token"
            " (--admin-token-file FILE, or SOCKETKEEP_ADMIN_TOKEN), or listen on 127.0.0.1"
        )


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can mean itself by `host`."""
    if host.lower().rstrip(".") == "localhost":
        return True
    import ipaddress  # every server loads this module

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
