"""The structs that messages are: msgspec's, or their plain twins in a template and its workers."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from socketkeep._base import _msgpack

#: Whether this process has the plain ones: it is a template, or comes of one.
PLAIN: Final = (
    getattr(getattr(sys.modules["__main__"], "__spec__", None), "name", "")
    == "socketkeep._worker.__main__"
)

if TYPE_CHECKING or not PLAIN:
    from msgspec import Struct
    from msgspec.structs import astuple, replace

    _msgpack.use_msgspec()
else:
    from socketkeep._base._plain_structs import Struct, astuple, replace

__all__ = ["PLAIN", "Struct", "astuple", "replace"]
