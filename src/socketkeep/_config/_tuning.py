"""Options of the kernel's that connections have from the listener which accepts them (tcp(7))."""

from __future__ import annotations

import math
import socket
from typing import Final

from socketkeep._config._listener_settings import ListenerSettings

_TCP_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)
_MOST_MILLISECONDS: Final = 2**31 - 1
_MOST_BUFFER: Final = 2**30


#: The bit of net.ipv4.tcp_fastopen without which no listener takes data with a SYN.
_SERVES: Final = 2


def fastopen_disabled() -> str:
    """Return what net.ipv4.tcp_fastopen is where it leaves Fast Open to clients alone, "" else."""
    try:
        with open("/proc/sys/net/ipv4/tcp_fastopen") as file:
            text = file.read().strip()
    except OSError:
        return ""
    return "" if text.isdigit() and int(text) & _SERVES else text


def tune(
    listener: socket.socket, settings: ListenerSettings, before: ListenerSettings | None = None
) -> None:
    """Set a listener's options, which Linux gives to each socket that is accepted from it.

    So no connection costs a system call for them, whichever process accepts it.  before: what was
    set; what is not wanted any more is taken back, but for the sizes of buffers, which cannot be.
    """
    if listener.family not in _TCP_FAMILIES:
        return  # what is accepted from a Unix socket has nothing of it
    for option, size in (
        (socket.SO_RCVBUF, settings.rcvbuf),
        (socket.SO_SNDBUF, settings.sndbuf),
    ):
        if size:
            # The kernel doubles it for its own accounts (socket(7)), and bounds it.
            listener.setsockopt(socket.SOL_SOCKET, option, min(size, _MOST_BUFFER))
    if settings.tcp_keepalive != "off":
        idle, interval, count = map(int, settings.tcp_keepalive.split(":"))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, interval)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, count)
    elif before is not None and before.tcp_keepalive != "off":
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 0)
    if settings.tcp_fastopen or (before is not None and before.tcp_fastopen):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, settings.tcp_fastopen)
    if settings.tcp_user_timeout or (before is not None and before.tcp_user_timeout):
        milliseconds = min(_MOST_MILLISECONDS, math.ceil(settings.tcp_user_timeout * 1000))
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
