"""A table of transitions as a diagram: states from top to bottom, as inline SVG."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final, TypeVar

S = TypeVar("S", bound=Enum)
E = TypeVar("E", bound=Enum)

_WIDTH: Final = 640
_CENTRE: Final = 300
_BOX: Final = (120, 34)
_STEP: Final = 92

_ARROWHEAD: Final = (
    '<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8"'
    ' orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="currentColor"/></marker></defs>'
)


def svg(transitions: Mapping[tuple[S, E], S]) -> str:
    """Return the diagram of a table (state, event) -> state, on one line."""
    states = list(type(next(iter(transitions))[0]))
    events: dict[tuple[int, int], list[str]] = {}
    for (before, event), after in transitions.items():
        edge = (states.index(before), states.index(after))
        events.setdefault(edge, []).append(str(event.value))
    height = _STEP * (len(states) - 1) + _BOX[1] + 8
    parts = [_box(number, str(state.value)) for number, state in enumerate(states)]
    parts += [_edge(start, end, ", ".join(names)) for (start, end), names in events.items()]
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" style="max-width: {_WIDTH}px"'
        f' font-size="13" fill="currentColor">{_ARROWHEAD}{"".join(parts)}</svg>'
    )


def _middle(number: int) -> int:
    return number * _STEP + _BOX[1] // 2 + 4


def _box(number: int, name: str) -> str:
    width, height = _BOX
    y = _middle(number)
    return (
        f'<rect x="{_CENTRE - width // 2}" y="{y - height // 2}" width="{width}"'
        f' height="{height}" rx="6" fill="none" stroke="currentColor"/>'
        f'<text x="{_CENTRE}" y="{y + 4}" text-anchor="middle" font-weight="bold">{name}</text>'
    )


def _edge(start: int, end: int, label: str) -> str:
    width, height = _BOX
    if start == end:
        return _text(_CENTRE + width // 2 + 12, _middle(start) + 4, "start", f"↺ {label}")
    if end == start + 1:
        top, bottom = _middle(start) + height // 2, _middle(end) - height // 2
        line = f"M{_CENTRE},{top} L{_CENTRE},{bottom}"
        return _path(line) + _text(_CENTRE + 10, (top + bottom) // 2 + 4, "start", label)
    # All others bend round on the left, the further apart the further out.
    side = _CENTRE - width // 2
    out = side - 64 * abs(end - start)
    # Ends of different edges stand apart on the side of the box.
    start_y, end_y = (
        _middle(start) + (6 if end > start else -6),
        _middle(end) + (6 if start > end else -6),
    )
    line = f"M{side},{start_y} C{out},{start_y} {out},{end_y} {side},{end_y}"
    return _path(line) + _text((side + 3 * out) // 4 - 6, (start_y + end_y) // 2 + 4, "end", label)


def _path(line: str) -> str:
    return f'<path d="{line}" fill="none" stroke="currentColor" marker-end="url(#head)"/>'


def _text(x: int, y: int, anchor: str, text: str) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{text}</text>'
