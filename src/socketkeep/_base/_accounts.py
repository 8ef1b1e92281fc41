"""Users and groups of this system, by name or by number, and becoming one of them."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from socketkeep._base import _prctl

_MOST: Final = (1 << 32) - 2  # the largest there can be: the next one means "as it is"
#: capabilities(7): what a keeper that stays root needs, see docs/how-to/another-user.md.
CAP_CHOWN: Final = 0
CAP_DAC_OVERRIDE: Final = 1
CAP_FOWNER: Final = 3
CAP_KILL: Final = 5
CAP_SETGID: Final = 6
CAP_SETUID: Final = 7
CAP_SYS_PTRACE: Final = 19
_CAPABILITY_VERSION: Final = 0x20080522  # _LINUX_CAPABILITY_VERSION_3, <linux/capability.h>
_HEADER: Final = struct.Struct("Ii")
_SETS: Final = struct.Struct("6I")  # effective, permitted, inheritable: the low halves, the high


@dataclass(frozen=True, slots=True)
class Account:
    """A user to become, with its groups.

    name: as it was said.  home: "" for who has none.
    """

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str = ""

    @property
    def text(self) -> str:
        """The user as messages name it."""
        return self.name if self.name == str(self.uid) else f"{self.name} (uid {self.uid})"


def account_of(user: str, group: str) -> Account:
    """Return the account of a user, a name or a number, with its supplementary groups.

    group: in place of the user's own; "": that.  Raises ValueError.
    """
    import pwd  # for who names one

    uid = user_id(user)
    try:
        found = pwd.getpwuid(uid) if user == str(uid) else pwd.getpwnam(user)
    except KeyError:
        if not group:
            raise ValueError(
                f"no account of this system has the number {user}, and so no group is known for"
                " it: give --group, too"
            ) from None
        gid = group_id(group)
        return Account(user, uid, gid, (gid,))
    gid = group_id(group) if group else found.pw_gid
    return Account(user, uid, gid, tuple(os.getgrouplist(found.pw_name, gid)), found.pw_dir)


def user_id(text: str) -> int:
    """Return the uid of a user.  Raises ValueError when there is none of that name."""
    import pwd  # for who names one

    return _number("user", text, lambda: pwd.getpwnam(text).pw_uid)


def group_id(text: str) -> int:
    """Return the gid of a group.  Raises ValueError when there is none of that name."""
    import grp  # for who names one

    return _number("group", text, lambda: grp.getgrnam(text).gr_gid)


def _number(kind: str, text: str, look_up: Callable[[], int]) -> int:
    try:
        return look_up()
    except (KeyError, ValueError):  # the latter of a name that no database can have
        if text.isascii() and text.isdecimal() and int(text) <= _MOST:
            return int(text)
    raise ValueError(f"there is no {kind} {text!r} on this system")


def become(account: Account) -> None:
    """Be that user for good: real, effective and saved, with its groups.  Raises OSError."""
    os.setgroups(account.groups)
    os.setresgid(account.gid, account.gid, account.gid)
    os.setresuid(account.uid, account.uid, account.uid)
    # The kernel hides the /proc of who has changed its user from that user itself.
    _prctl.set_dumpable(True)


@contextmanager
def acting_as(account: Account | None) -> Iterator[None]:
    """Open files as that user while this process is root: with its rights, and no more.

    Where that user can write, a path may be a link to a file that is none of its own.
    """
    if account is None or os.geteuid() != 0:
        yield
        return
    groups, gid = os.getgroups(), os.getegid()
    os.setgroups(account.groups)
    os.setegid(account.gid)
    os.seteuid(account.uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(gid)
        os.setgroups(groups)


def keep_capabilities(kept: Collection[int]) -> None:
    """Give up all other capabilities of root, for this process and what it executes.

    Raises OSError.
    """
    _prctl.drop_bounding_set(kept)
    libc = ctypes.CDLL(None, use_errno=True)
    header = ctypes.create_string_buffer(_HEADER.pack(_CAPABILITY_VERSION, 0))
    sets = ctypes.create_string_buffer(_SETS.size)
    if libc.capget(header, sets) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    mask = sum(1 << number for number in kept)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    effective, permitted, inheritable, *highs = _SETS.unpack(sets.raw[: _SETS.size])
    left = [each & low for each in (effective, permitted, inheritable)]
    left += [each & high for each in highs]
    ctypes.memmove(sets, _SETS.pack(*left), _SETS.size)
    if libc.capset(header, sets) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
