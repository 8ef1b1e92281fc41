"""Numbers as arguments, and the one line that tells of a wrong one, as `serve` words its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import click


class _Bounded(click.ParamType):  # type: ignore[type-arg]  # plain in click 8.1
    """A number within bounds, both included."""

    def __init__(
        self, name: str, parse: Callable[[Any], float], expected: str, least: float, most: float
    ) -> None:
        self.name = name
        self._parse = parse
        self._least = least
        self._most = most
        bounds = f"from {least:g}" if most == math.inf else f"from {least:g} to {most:.0f}"
        self._expected = f"{expected} {bounds}"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        try:
            number = self._parse(value)
        except ValueError:
            number = math.nan
        if not self._least <= number <= self._most:
            self.fail(f"expected {self._expected}, got {str(value)!r}", param, ctx)
        return number


def whole_number(least: int, most: float = math.inf) -> click.ParamType[float]:
    """Return the type of a whole number within bounds."""
    return _Bounded("number", int, "a whole number", least, most)


def seconds(least: float, most: float) -> click.ParamType[float]:
    """Return the type of a time in seconds within bounds."""
    return _Bounded("seconds", float, "seconds", least, most)


def mistake(error: click.ClickException) -> str:
    """Return the line that tells of an argument that could not be read."""
    param = error.param if type(error) is click.BadParameter else None
    if isinstance(param, click.Option):
        return f"{param.opts[-1]}: {error.message}"
    if param is not None:
        return f"{param.human_readable_name.rstrip('.')}: {error.message}"
    return error.format_message()
