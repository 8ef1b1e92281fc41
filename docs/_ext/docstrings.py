"""The parts of a class's docstring: what it is, and what its attributes are."""

from __future__ import annotations

import inspect
import re
from typing import Final

_ATTRIBUTES: Final = "\n\nAttributes:\n"


def parted(kind: type) -> tuple[str, dict[str, str]]:
    """Return what the docstring says of the class, and of each attribute that it names."""
    about, _, rest = inspect.cleandoc(kind.__doc__ or "").partition(_ATTRIBUTES)
    found = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", rest, re.MULTILINE)
    return about, {name: " ".join(text.split()) for name, text in found}
