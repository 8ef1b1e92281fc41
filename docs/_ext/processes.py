"""The processes of a server as a diagram, from the table of their roles."""

from __future__ import annotations

from html import escape
from typing import Final

from socketkeep._base._roles import PARTS, Part, Role

_WIDTH: Final = 700
_BOX: Final = (196, 134)
_GAP: Final = 56
_TOP: Final = 14
_ROOT_WIDTH: Final = 400
_STEP: Final = 84
_LINE: Final = 16
_HEAD: Final = (
    '<defs><marker id="processes-head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8"'
    ' markerHeight="8" orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="currentColor"/></marker>'
    "</defs>"
)


def svg() -> str:
    """Return the diagram, on one line: guard and keeper above, its children below in order."""
    (top,) = (role for role, part in PARTS.items() if part.parent is None)
    (root,) = (role for role, part in PARTS.items() if part.parent is top)
    children = [role for role, part in PARTS.items() if part.parent is root]
    width = _BOX[0] * len(children) + _GAP * (len(children) - 1) + 20
    under = _TOP + _BOX[1] + _STEP // 2  # the upper edge of the root
    row = under + _BOX[1] + _STEP
    places = {role: 10 + number * (_BOX[0] + _GAP) for number, role in enumerate(children)}
    left = (width - _ROOT_WIDTH) // 2
    parts = [
        _box(top, PARTS[top], left, _TOP, _ROOT_WIDTH),
        _path(f"M{width // 2},{_TOP + _BOX[1]} V{under}"),
        _box(root, PARTS[root], left, under, _ROOT_WIDTH),
    ]
    for role in children:
        part, x = PARTS[role], places[role]
        middle = x + _BOX[0] // 2
        bend = under + _BOX[1] + _STEP // 2
        parts.append(_path(f"M{width // 2},{under + _BOX[1]} V{bend} H{middle} V{row}"))
        if part.made_by is not None and part.made_by is not root:
            maker = places[part.made_by] + _BOX[0] + 6
            level = row + _BOX[1] // 2
            parts.append(_path(f"M{maker},{level} H{x}", dashed=True))
            parts.append(_text((maker + x) // 2, level - 8, "forks", "middle", "italic"))
        parts.append(_box(role, part, x, row, _BOX[0]))
    height = row + _BOX[1] + 16
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" style="max-width: {_WIDTH}px"'
        f' aria-labelledby="processes-title processes-desc" font-size="12.5"'
        f' fill="currentColor"><title id="processes-title">The processes of a server</title>'
        f'<desc id="processes-desc">{escape(_described())}</desc>{_HEAD}{"".join(parts)}</svg>'
    )


def _described() -> str:
    return " ".join(
        f"{role.value}: {part.number}; "
        + (f"a child of the {part.parent.value}; " if part.parent is not None else "")
        + f"{' '.join(part.does)}; {', '.join(_has(part))}."
        for role, part in PARTS.items()
    )


def _has(part: Part) -> list[str]:
    return [
        "has the user's code" if part.user_code else "no user code",
        "has the listeners" if part.listeners else "no listener of yours",
    ]


def _box(role: Role, part: Part, x: int, y: int, width: int) -> str:
    """Thick where the user's code runs; doubled where there is one for each of something."""
    behind = ""
    if " a " in part.number:
        behind = (
            f'<path d="M{x + 6},{y + _BOX[1]} v6 h{width} v-{_BOX[1]} h-6" fill="none"'
            ' stroke="currentColor" opacity=".5"/>'
        )
    thick = ' stroke-width="2.5"' if part.user_code else ""
    rectangle = (
        f'<rect x="{x}" y="{y}" width="{width}" height="{_BOX[1]}" rx="6" fill="none"'
        f' stroke="currentColor"{thick}/>'
    )
    lines = [
        rectangle,
        _text(x + width // 2, y + 20, role.value, "middle", "bold"),
        _text(x + width // 2, y + 20 + _LINE, part.number, "middle", "italic"),
    ]
    for number, line in enumerate((*part.does, *_has(part))):
        lines.append(_text(x + width // 2, y + 58 + number * _LINE, line, "middle"))
    return behind + "".join(lines)


def _path(line: str, *, dashed: bool = False) -> str:
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return (
        f'<path d="{line}" fill="none" stroke="currentColor"{dash}'
        ' marker-end="url(#processes-head)"/>'
    )


def _text(x: int, y: int, text: str, anchor: str = "start", style: str = "") -> str:
    look = {"bold": ' font-weight="bold"', "italic": ' font-style="italic" opacity=".8"'}
    more = look.get(style, "")
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}"{more}>{escape(text)}</text>'
