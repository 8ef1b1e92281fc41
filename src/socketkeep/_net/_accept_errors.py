"""The errors of accept(2), parted by what they are about: the system, the listener, the peer."""

from __future__ import annotations

import errno
from typing import Final

from socketkeep._base._errors import OUT_OF_RESOURCES

_OF_THE_LISTENER: Final = (errno.EBADF, errno.EINVAL, errno.ENOTSOCK)


class Exhausted(Exception):
    """The system has no descriptor or memory for one more connection."""


def pass_over_given_up(error: OSError) -> None:
    """Return where the peer has given up, which accept(2) on Linux passes on as an error.

    Raises Exhausted; and `error` itself when the listener is none.
    """
    if error.errno in OUT_OF_RESOURCES:
        raise Exhausted(error.strerror) from error
    if error.errno in _OF_THE_LISTENER:
        raise error
