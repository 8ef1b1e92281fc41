"""Checks for what would keep a server from working and can be known before it starts."""

from __future__ import annotations

import errno
import importlib.util
import os
import resource
import sys
from collections.abc import Callable
from functools import partial
from typing import Final

import socketkeep
from socketkeep._admin._settings import check_admin
from socketkeep._base._accounts import Account, become
from socketkeep._base._mistakes import OptionError
from socketkeep._cli._exit import DONE, FAILED, USAGE, Failure
from socketkeep._cli._kernel import missing, wrong_system
from socketkeep._config._address_lists import read_lists
from socketkeep._config._capacity import check_descriptors
from socketkeep._config._listener_options import parse_listener, tls_settings, unix_owner
from socketkeep._config._rights import account_to_become
from socketkeep._config._server_options import ServeConfig, listener_settings

#: With fewer than so many nothing is served at all.
_FEWEST_DESCRIPTORS: Final = 32


def preflight(config: ServeConfig) -> None:
    """Raise Failure, with a line that says what to mend, when the server could not work."""
    _check_system()
    _check_extras(config)
    account = account_to_become(config)
    check_admin(config)
    _check_listeners(config)
    try:
        read_lists(config)
    except OptionError as error:
        raise Failure(str(error), USAGE) from None
    if account is None:
        _check_log_file(config.log_file)
    else:
        _as_user(account, partial(_check_as_user, account, config))
    _check_some_descriptors()
    check_descriptors(config.max_connections)


def _check_system() -> None:
    wrong = wrong_system()
    if wrong:
        raise Failure(wrong, FAILED)
    for each in missing():
        raise Failure(str(each), FAILED)


def _check_extras(config: ServeConfig) -> None:
    for flag, wanted, extra, packages in (
        ("--loop uvloop", config.loop == "uvloop", "uvloop", ("uvloop",)),
        ("--reload", config.reload, "watchfiles", ("watchfiles",)),
        ("--admin", bool(config.admin), "admin", ("h11", "prometheus_client")),
        ("--cluster", bool(config.cluster), "cluster", ("nats", "nkeys")),
    ):
        missing = [name for name in packages if importlib.util.find_spec(name) is None]
        if wanted and missing:
            from socketkeep._base._extras import install_extra  # for who lacks one

            named = missing[0].replace("_", "-")
            raise Failure(f"{flag} needs the package {named}: {install_extra(extra)}", USAGE)


def _check_listeners(config: ServeConfig) -> None:
    """Refuse what would be read as a promise: that only some may send what nobody looks for."""
    for text in config.bind:
        given = parse_listener(text).given
        if "proxy-from" in given and given.get("proxy", config.proxy_protocol) == "off":
            raise Failure(
                f"--bind: {text}: proxy-from means nothing there while no PROXY header is expected:"
                " add proxy=on",
                USAGE,
            )
        at_once = "tls" in given and not given.get("start-tls", False)
        if at_once and given.get("proxy", config.proxy_protocol) != "off":
            raise Failure(
                f"--bind: {text}: a PROXY header before TLS is not read: end TLS at the proxy, or"
                " add proxy=off",
                USAGE,
            )
        if "tls" in given:
            _check_tls(text)
    for text, said in zip(config.bind, listener_settings(config, len(config.bind)), strict=True):
        try:
            unix_owner(said)
        except OptionError as error:
            raise Failure(f"--bind: {text}: {error}", USAGE) from None


def _check_tls(text: str) -> None:
    from socketkeep._edge._certificates import BadTls, check_tls  # ssl is for who uses it

    said = tls_settings(parse_listener(text).given)
    assert said is not None
    try:
        check_tls(said)
    except BadTls as error:
        raise Failure(f"--bind: {text}: {error}", USAGE) from None


def _as_user(account: Account, check: Callable[[], None]) -> None:
    """Do a check as another user, in a process of its own.  Raises Failure, as `check` does."""
    read, write = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        code, text = FAILED, ""
        try:
            become(account)
            check()
            code = DONE
        except Failure as failure:
            code, text = failure.code, failure.message
        except OSError as error:
            text = f"--user: cannot become {account.text}: {error.strerror}"
        finally:
            os.write(write, text.encode())
            os._exit(code)
    os.close(write)
    with open(read, "rb") as file:
        text = file.read().decode()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code != DONE:
        raise Failure(text or f"--user: cannot become {account.text}: it ended by {code}", code)


def _check_as_user(account: Account, config: ServeConfig) -> None:
    for path in (sys.executable, os.__file__, socketkeep.__file__):
        try:
            os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            raise Failure(
                f"--user: {account.text} cannot read {path}, by which the server runs:"
                f" {error.strerror} (install it where every user may read)",
                USAGE,
            ) from None
    _check_log_file(config.log_file, f", as {account.text}")


def _check_log_file(path: str, who: str = "") -> None:
    if not path:
        return
    try:
        # Without waiting: a named pipe that nobody reads yet would be waited for.
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o666))
    except OSError as error:
        if error.errno == errno.ENXIO:
            return  # such a pipe: lines are dropped, and counted, until somebody reads it
        raise Failure(
            f"--log-file: cannot append to {path}{who}: {os.strerror(error.errno or 0)}", USAGE
        ) from None


def _check_some_descriptors() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < _FEWEST_DESCRIPTORS:
        raise Failure(
            f"a process may have {hard} file descriptors here, and the server needs"
            f" {_FEWEST_DESCRIPTORS} at least: raise the limit (ulimit -Hn, or"
            " LimitNOFILE= in a systemd unit)"
        )
