"""The traceback of an error in the user's code, without the frames of ours."""

from __future__ import annotations

import os
import traceback
from typing import Final

from socketkeep._base._importing import is_standard

_SCREEN: Final = 18  # lines
_OURS: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def is_ours(frame: traceback.FrameSummary) -> bool:
    """Return whether the frame is of the server's own code."""
    return frame.filename.startswith(_OURS)


def users_traceback(error: BaseException) -> str:
    """Return the error with the frames of the user's code, ours and the importer's cut off."""
    lines = traceback.TracebackException.from_exception(error)
    _cut(lines, set())
    return "".join(lines.format()).rstrip()


def brief_traceback(error: BaseException) -> str:
    """Return `users_traceback`, what is beyond a screen left out of its middle."""
    lines = users_traceback(error).splitlines()
    if len(lines) > _SCREEN:
        begin, end = _SCREEN // 3, _SCREEN - _SCREEN // 3
        left_out = f"  ... {len(lines) - begin - end} lines, as Python itself would show them ..."
        lines[begin:-end] = [left_out]
    return "\n".join(lines)


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


def _cut(part: traceback.TracebackException, seen: set[int]) -> None:
    if id(part) in seen:
        return
    seen.add(id(part))
    kept = [frame for frame in part.stack if not _is_ours(frame)]
    part.stack = traceback.StackSummary.from_list(kept)
    for related in (part.__cause__, part.__context__, *(part.exceptions or ())):
        if related is not None:
            _cut(related, seen)
