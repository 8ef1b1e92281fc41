"""Sockets in a forked child: it keeps those that it was given, and lets go of the rest.

fork(2) duplicates every descriptor, and a connection ends only with its last one: a child that does
not know of a connection keeps it from ending.  So each of the library's sockets is known here by a
weak reference, and a hook that Python calls in every forked child (os.register_at_fork) closes
those that the child was not given.  Only the child's descriptor is closed: no FIN, no shutdown, and
nothing is taken out of an event loop, whose epoll the parent shares.

The hook runs however the fork comes about: os.fork, multiprocessing, a pool.  Where a program is
executed (subprocess, multiprocessing's spawn and forkserver) there is nothing to do: Python's
sockets are close-on-exec (PEP 446).
"""

from __future__ import annotations

# For pthread_sigmask without the wrapper in `signal`: that makes an enumeration's member of each of
# the 60 signals in a mask, which takes longer than the fork.
import _signal  # type: ignore[import-not-found]
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Final, Literal, NoReturn, Protocol, TypeAlias
from weakref import ref

from socketkeep._base._errors import Closed, Released, translate

#: "none": the child lets go.  "given": it is the child's alone from here on.  "shared": both have
#: it, because `fork` was told so.
Fate: TypeAlias = Literal["none", "given", "shared"]


class Forkable(Protocol):
    """A socket of the library's, as far as a fork concerns it: a connection or a listener."""

    def _after_fork(self, fate: Fate, why: Released) -> socket.socket | None:
        """In the child: let go, for `why`, or be fit for use and return the socket."""

    def _claimed(self, operation: str) -> AbstractContextManager[None]:
        """Keep other threads off, or raise: the error of a socket that is over, or Busy."""

    def _give_up(self, reason: str = "") -> None:
        """Close this process's descriptor, and no more than that."""


class _Giving(threading.local):
    """The sockets that the fork which this thread is making gives, by id."""

    given: frozenset[int] = frozenset()
    fate: Fate = "given"


_owners: Final[set[ref[Forkable]]] = set()
_crews: Final[list[Iterable[Forkable]]] = []
_guarded: Final[set[ref[socket.socket]]] = set()
_exempt: Final[set[ref[socket.socket]]] = set()
_giving: Final = _Giving()
_ALL_SIGNALS: Final = frozenset(map(int, signal.valid_signals()))
_BLOCK: Final = int(signal.SIG_BLOCK)
_SET_MASK: Final = int(signal.SIG_SETMASK)

# The set's own method takes a reference out when its object goes: no code of Python's runs for it.
_forget_owner: Final = _owners.discard
_forget_guarded: Final = _guarded.discard
_forget_exempt: Final = _exempt.discard


def own(owner: Forkable) -> None:
    """Have `owner` told of every fork, in the child."""
    _owners.add(ref(owner, _forget_owner))


def owners_of() -> tuple[set[ref[Forkable]], Callable[[ref[Forkable]], None]]:
    """Return where `own` puts a weak reference, and what that calls when its object goes."""
    return _owners, _forget_owner


def disown(owner: Forkable) -> ref[Forkable]:
    """Take `own` back; return what stands for it among the owners, to be put there again."""
    owned = ref(owner, _forget_owner)
    _owners.discard(owned)
    return owned


def own_all(crew: Iterable[Forkable]) -> None:
    """Have all who are in `crew` at a fork told of it: what `own` does, for less memory of each.

    crew: a view of a dict, say; held until `disown_all`.
    """
    _crews.append(crew)


def disown_all(crew: Iterable[Forkable]) -> None:
    """Take `own_all` back."""
    _crews[:] = [each for each in _crews if each is not crew]


def guard(sock: socket.socket) -> None:
    """Close `sock` in every child that is not given it."""
    _guarded.add(ref(sock, _forget_guarded))


def unguard(sock: socket.socket) -> None:
    """Leave `sock` to the children again."""
    _guarded.discard(ref(sock))


def exempt(sock: socket.socket) -> None:
    """Leave `sock` to every child, whatever guards it now or later."""
    _exempt.add(ref(sock, _forget_exempt))


def let_go_of() -> tuple[set[ref[Forkable]], list[Iterable[Forkable]], set[ref[socket.socket]]]:
    """Return what the hook goes by, for who forks without it: owners, crews, guarded sockets."""
    return _owners, _crews, _guarded


def is_guarded(sock: socket.socket) -> bool:
    """Return whether a child that is not given `sock` lets go of it."""
    return ref(sock) in _guarded


def drop(sock: socket.socket) -> None:
    """Close the descriptor now, though a file made of it (makefile) is still open."""
    fd = sock.detach()
    if fd >= 0:
        try:
            os.close(fd)
        except OSError:
            return  # it was closed by its number


def fork(give: Iterable[Forkable | socket.socket] = (), *, keep: bool = False) -> int:
    """Fork; the child keeps of the library's sockets those in `give`, and this process lets go.

    The child goes on with the same objects, where the parent stood: mode, state and unread bytes
    are theirs as they were.  An async connection is used there on a loop of the child's own
    (asyncio.run).  In the parent they say `Released` from here on, so that each has one user; a
    plain socket is closed.

    Signals are held back over the fork, in both processes.  The child is not waited for: that is
    the caller's, as after os.fork.  Not promised: that threads of the parent, or their locks, are
    there in the child; os.fork has none of them either.  After an error nothing was forked and all
    is as before.

    Args:
        give: Open connections, sync or async, listeners and plain sockets.
        keep: The parent keeps them too; each process then sees the bytes that it happens to
            receive.

    Returns:
        The child's pid, and 0 in the child, as os.fork does.

    Raises:
        OutOfResources: The system has no process or memory for it.
        Closed: One of them is closed.
        Released: This process has let go of one of them.
        Busy: Another thread or task is receiving or sending on one of them.
    """
    given = list(give)
    with ExitStack() as claims:
        for item in given:
            if not isinstance(item, socket.socket):
                claims.enter_context(item._claimed("fork"))
            elif item.fileno() < 0:
                raise Closed(operation="fork")
        try:
            with signals_blocked():
                pid = fork_keeping(given, fate="shared" if keep else "given")
        except OSError as error:
            raise translate(error, operation="fork") from error
        if pid == 0:
            claims.pop_all()  # the locks in the child are new ones
            return 0
    if not keep:
        for item in given:
            if isinstance(item, socket.socket):
                drop(item)
            else:
                item._give_up(f"failed: it was given to process {pid} by a fork")
    return pid


def fork_keeping(kept: Sequence[Forkable | socket.socket], *, fate: Fate = "given") -> int:
    """Fork so that the child keeps what is `kept`; the parent's handles are left to the caller."""
    _giving.given, _giving.fate = frozenset(map(id, kept)), fate
    try:
        return os.fork()
    finally:
        _giving.given = frozenset()


def leave(status: int) -> NoReturn:
    """End a forked process, and write out what it has printed.

    Not sys.exit: exit handlers and buffers are the parent's, and would run twice.  Whatever the
    code has put in the place of the standard streams: None, closed ones, its own.
    """
    try:
        try:
            sys.stdout.flush()
        finally:
            sys.stderr.flush()
    finally:
        os._exit(status)


@contextmanager
def signals_blocked() -> Iterator[set[int]]:
    """Block all signals over a fork, in both processes; yields the mask from before.

    One that came between the fork and the child's handlers would be lost, or act twice.
    """
    before = block_signals()
    try:
        yield before
    finally:
        restore_signals(before)


def block_signals() -> set[int]:
    """Block all signals; return the mask from before."""
    before: set[int] = _signal.pthread_sigmask(_BLOCK, _ALL_SIGNALS)
    return before


def restore_signals(before: set[int]) -> None:
    """Set the mask that `block_signals` has returned."""
    _signal.pthread_sigmask(_SET_MASK, before)


def _in_child() -> None:
    given, fate = _giving.given, _giving.fate
    kept = set(given)
    owners = [owner for each in _owners if (owner := each()) is not None]
    for crew in _crews:
        owners += crew
    if owners:
        why = Released(
            f"failed: this process was forked by process {os.getppid()}, which has not given it "
            "away: make it with inherit=True, or fork with socketkeep.fork(give=[...])"
        )
        _owners.clear()
        _crews.clear()
        for owner in owners:
            sock = owner._after_fork(fate if id(owner) in given else "none", why)
            if sock is not None:
                kept.add(id(sock))
                own(owner)
    wakeup = _take_wakeup_fd() if _guarded else -1
    for sock_ref in tuple(_guarded):
        sock = sock_ref()
        if sock is not None and id(sock) not in kept and sock_ref not in _exempt:
            if sock.fileno() == wakeup:
                wakeup = -1
            drop(sock)
            _guarded.discard(sock_ref)
    if wakeup >= 0:
        signal.set_wakeup_fd(wakeup)


def _take_wakeup_fd() -> int:
    # A signal writes to this number: closed, it may soon be another file's.
    try:
        return signal.set_wakeup_fd(-1)
    except ValueError:  # not the main interpreter: it has none
        return -1


os.register_at_fork(after_in_child=_in_child)
