"""`socketkeep top`: a running server, live in the terminal."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import click
import msgspec

from socketkeep._admin._client import ControlError, ask, find_control
from socketkeep._admin._feed import Feed, Frame
from socketkeep._admin._reports import LiveReport
from socketkeep._cli._exit import DONE, USAGE, Failure
from socketkeep._cli._numbers import seconds, whole_number
from socketkeep._cli._say import say
from socketkeep._cli._server import which_server
from socketkeep._cli._top_screen import ASCII_MARKS, Marks, TopScreen, summary

_MOST: Final = 2000
_ENTER: Final = "\x1b[?1049h\x1b[?25l"  # the other screen, without a cursor
_LEAVE: Final = "\x1b[?25h\x1b[?1049l"
_HOME: Final = "\x1b[H"
_TO_END_OF_LINE: Final = "\x1b[K"
_TO_END: Final = "\x1b[J"


@click.command()
@which_server
@click.option(
    "--interval",
    metavar="SECONDS",
    type=seconds(0.1, 3600),
    default=1.0,
    help="Time between two looks.  [default: 1]",
)
@click.option(
    "-n",
    "--iterations",
    metavar="NUMBER",
    type=whole_number(1),
    help="Look so often, then end.  [default: until q or Ctrl-C]",
)
def top(control: str, name: str, interval: float, iterations: int | None) -> int:
    """Show a running server live: its seats, and the connections in them and on the move.

    A dot is a connection, in the colour of the generation that serves it; one that has just moved
    is marked.  q and Ctrl-C end it.  Without a terminal it prints a line each time, and one for
    each event.
    """
    try:
        path = find_control(control, name)
    except ControlError as error:
        raise Failure(error.message, error.code) from None
    feed = Feed()

    def look() -> Frame:
        return feed.look(_ask(path), time.time())

    if sys.stdout.isatty():
        return _show(look, interval, iterations)
    return _print(look, interval, iterations)


def _ask(path: str) -> LiveReport:
    try:
        done = ask(path, "live", {"most": _MOST})
        if done.exit == USAGE:
            raise Failure(
                "the server is of an earlier version, which this cannot show:"
                " socketkeep status --watch, or socketkeep upgrade"
            )
        if done.error:
            raise Failure(done.error, done.exit)
        return msgspec.convert(done.result, LiveReport)
    except ControlError as error:
        raise Failure(error.message, error.code) from None
    except msgspec.ValidationError as error:
        raise Failure(
            f"the server's answer cannot be read ({error}): it is of another version"
        ) from None


def _show(look: Callable[[], Frame], interval: float, iterations: int | None) -> int:
    screen = TopScreen(Marks() if _can_write(Marks()) else ASCII_MARKS)
    lines: list[str] = []
    frame = look()  # a server that is not there is told of on the screen that there is
    with _terminal() as keys:
        while True:
            width, height = shutil.get_terminal_size()
            lines = screen.lines(frame, time.monotonic(), width, height)
            sys.stdout.write(
                _HOME + "\r\n".join(line + _TO_END_OF_LINE for line in lines) + _TO_END
            )
            sys.stdout.flush()
            if iterations is not None:
                iterations -= 1
                if not iterations:
                    break
            if keys(interval):
                break
            frame = look()
    for line in lines:  # the last look stays
        sys.stdout.write(line + "\n")
    return DONE


def _print(look: Callable[[], Frame], interval: float, iterations: int | None) -> int:
    told = 0
    while True:
        frame = look()
        for happening in frame.happenings:
            if happening.number > told:
                told = happening.number
                say(f"{_clock()} {happening.text}")
        say(f"{_clock()} {summary(frame)}")
        if iterations is not None:
            iterations -= 1
            if not iterations:
                return DONE
        time.sleep(interval)


def _clock() -> str:
    return time.strftime("%H:%M:%S")


def _can_write(marks: Marks) -> bool:
    try:
        (marks.waits + marks.works + marks.moved + marks.parked).encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def _terminal() -> Iterator[Callable[[float], bool]]:
    """Have a screen of its own; yields what waits so long for the key that ends it."""
    keyboard = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else -1
    with contextlib.ExitStack() as stack:
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        stack.callback(signal.signal, signal.SIGTERM, before)
        if keyboard >= 0:
            import termios
            import tty

            stack.callback(
                termios.tcsetattr, keyboard, termios.TCSADRAIN, termios.tcgetattr(keyboard)
            )
            tty.setcbreak(keyboard)
        stack.callback(_write, _LEAVE)
        _write(_ENTER)
        try:
            yield lambda seconds: _ended(keyboard, seconds)
        except KeyboardInterrupt:
            return


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _ended(keyboard: int, seconds: float) -> bool:
    """Wait so long; return whether q was pressed."""
    if keyboard < 0:
        time.sleep(seconds)
        return False
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        readable, _, _ = select.select([keyboard], [], [], left)
        if readable:
            keys = os.read(keyboard, 64)
            if not keys or b"q" in keys or b"Q" in keys:
                return True
    return False
