"""A table of transitions as a diagram, as inline SVG.

The states stand one below the other.  A transition to the next one is the line between them; any
other goes round, down on the left and up on the right, each in a lane of its own, and is named
where it leaves.  One that stays in its state is named in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from html import escape
from typing import Final, NamedTuple, TypeVar

S = TypeVar("S", bound=Enum)
E = TypeVar("E", bound=Enum)

_BOX: Final = 244
_CLEAR: Final = 124  # between a box and the first lane: names stand there, and no line crosses them
_LANE: Final = 20
_PORT: Final = 20  # between lines at the side of a box
_GAP: Final = 40
_LINE: Final = 17
_ARROW: Final = 7


class _Edge(NamedTuple):
    start: int
    end: int
    names: str

    @property
    def side(self) -> int:
        return -1 if self.end > self.start else 1

    @property
    def length(self) -> int:
        return abs(self.end - self.start)


class _Layout:
    """Where the boxes are, and the lines' ends at their sides."""

    def __init__(self, states: list[str], edges: list[_Edge]) -> None:
        self.loops = {edge.start: f"↺ {edge.names}" for edge in edges if edge.start == edge.end}
        self.straight = [edge for edge in edges if edge.end == edge.start + 1]
        self.round = sorted(
            (each for each in edges if each.start != each.end and each not in self.straight),
            key=lambda edge: edge.length,
        )
        self.lanes = {side: [e for e in self.round if e.side == side] for side in (-1, 1)}
        self.left = _CLEAR + _LANE * len(self.lanes[-1]) + 4
        self.width = self.left + _BOX + _CLEAR + _LANE * len(self.lanes[1]) + 4
        self.boxes: list[tuple[int, int]] = []  # top and height
        self.ends: dict[tuple[int, _Edge], int] = {}
        top = 4
        for number in range(len(states)):
            ports = [self._ports(number, side) for side in (-1, 1)]
            lines = 2 if number in self.loops else 1
            height = max(_PORT * max(map(len, ports)) + 6, _LINE * lines + 18)
            self.boxes.append((top, height))
            for side in ports:
                first = top + (height - _PORT * (len(side) - 1)) // 2
                for place, edge in enumerate(side):
                    self.ends[number, edge] = first + _PORT * place
            top += height + _GAP
        self.height = top - _GAP + 4

    def _ports(self, number: int, side: int) -> list[_Edge]:
        """Return the lines at that side of a box, from above, so that as few cross as can be."""
        come = [edge for edge in self.lanes[side] if edge.end == number]
        leave = [edge for edge in self.lanes[side] if edge.start == number]
        return [*come, *reversed(leave)] if side < 0 else [*leave, *reversed(come)]


def svg(transitions: Mapping[tuple[S, E], S]) -> str:
    """Return the diagram of a table (state, event) -> state, on one line."""
    states = list(type(next(iter(transitions))[0]))
    events: dict[tuple[int, int], list[str]] = {}
    for (before, event), after in transitions.items():
        edge = (states.index(before), states.index(after))
        events.setdefault(edge, []).append(str(event.value))
    names = [str(state.value) for state in states]
    layout = _Layout(names, [_Edge(*ends, ", ".join(found)) for ends, found in events.items()])
    parts = [_box(layout, number, name) for number, name in enumerate(names)]
    parts += [_down(layout, edge) for edge in layout.straight]
    parts += [
        _round(layout, edge, lane)
        for side in (-1, 1)
        for lane, edge in enumerate(layout.lanes[side])
    ]
    told = "; ".join(
        f"{before.value}, {event.value}: {after.value}"
        for (before, event), after in transitions.items()
    )
    return (
        f'<svg viewBox="0 0 {layout.width} {layout.height}" role="img" font-size="13"'
        f' style="max-width: {layout.width}px" fill="currentColor"><title>States and events</title>'
        f"<desc>{escape(told)}</desc>{''.join(parts)}</svg>"
    )


def _box(layout: _Layout, number: int, name: str) -> str:
    top, height = layout.boxes[number]
    middle = layout.left + _BOX // 2
    loop = layout.loops.get(number)
    y = top + height // 2 + (5 if loop is None else -3)
    return (
        f'<rect x="{layout.left}" y="{top}" width="{_BOX}" height="{height}" rx="6" fill="none"'
        ' stroke="currentColor"/>'
        + _text(middle, y, name, "middle", bold=True)
        + (_text(middle, y + _LINE, loop, "middle") if loop is not None else "")
    )


def _down(layout: _Layout, edge: _Edge) -> str:
    top, height = layout.boxes[edge.start]
    middle, end = layout.left + _BOX // 2, layout.boxes[edge.end][0]
    return (
        _path(f"M{middle},{top + height} V{end}")
        + f'<path d="M{middle},{end} l-4,-{_ARROW} h8 z"/>'
        + _text(middle + 8, (top + height + end) // 2 + 4, edge.names, "start")
    )


def _round(layout: _Layout, edge: _Edge, lane: int) -> str:
    side = edge.side
    box = layout.left if side < 0 else layout.left + _BOX
    out = box + side * (_CLEAR + _LANE * lane)
    start, end = layout.ends[edge.start, edge], layout.ends[edge.end, edge]
    return (
        _path(f"M{box},{start} H{out} V{end} H{box}")
        + f'<path d="M{box},{end} l{side * _ARROW},-4 v8 z"/>'
        + _text(box + side * 8, start - 4, edge.names, "end" if side < 0 else "start")
    )


def _path(line: str) -> str:
    return f'<path d="{line}" fill="none" stroke="currentColor" opacity=".8"/>'


def _text(x: int, y: int, text: str, anchor: str, *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}"{weight}>{escape(text)}</text>'
