"""The traceback of an error in the user's code, without the frames of ours."""

from __future__ import annotations

import os
import traceback
from typing import Final

from socketkeep._base._importing import is_standard

#: Frames of a stack that are shown on a terminal.
_OUTERMOST: Final = 2
_INNERMOST: Final = 4
_OURS: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def is_ours(frame: traceback.FrameSummary) -> bool:
    """Return whether the frame is of the server's own code."""
    return frame.filename.startswith(_OURS)


class _Brief(traceback.StackSummary):
    """A stack of which the outermost and the innermost frames are shown."""

    def format(self, **how: object) -> list[str]:
        frames = super().format(**how)
        left_out = len(frames) - _OUTERMOST - _INNERMOST
        if left_out > 1:
            frames[_OUTERMOST:-_INNERMOST] = [f"  ... {left_out} frames more ...\n"]
        return frames


def users_traceback(error: BaseException) -> str:
    """Return the error with the frames of the user's code, ours and the importer's cut off."""
    return _formatted(error, traceback.StackSummary)


def brief_traceback(error: BaseException) -> str:
    """Return `users_traceback` for a terminal: of many frames only the first and the last."""
    return _formatted(error, _Brief)


def _formatted(error: BaseException, shown: type[traceback.StackSummary]) -> str:
    lines = traceback.TracebackException.from_exception(error)
    _cut(lines, shown, set())
    return "".join(lines.format()).rstrip()


def users_place(error: BaseException) -> str:
    """Return where in the user's code an error came up, as FILE:LINE; "" when it is not known."""
    # Of a time limit's two: where the handler was when it passed, then where the limit stands.
    for each in (error.__cause__, error):
        for frame in reversed(traceback.extract_tb(each.__traceback__) if each else []):
            if not _is_ours(frame) and not is_standard(frame.filename):
                return f"{frame.filename}:{frame.lineno}"
    return ""


def _is_ours(frame: traceback.FrameSummary) -> bool:
    """Tell whether a frame is of this package or of the import machinery."""
    return (
        frame.filename.startswith((_OURS, "<frozen importlib"))
        or f"{os.sep}importlib{os.sep}__init__.py" in frame.filename
    )


def _cut(
    part: traceback.TracebackException, shown: type[traceback.StackSummary], seen: set[int]
) -> None:
    if id(part) in seen:
        return
    seen.add(id(part))
    part.stack = shown(frame for frame in part.stack if not _is_ours(frame))
    for related in (part.__cause__, part.__context__, *(part.exceptions or ())):
        if related is not None:
            _cut(related, shown, seen)
