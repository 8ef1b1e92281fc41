"""The decorator of a public function or method that the next major version no longer has."""

from __future__ import annotations

# Type checkers know the decorator by that name alone, and have its types with them.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing_extensions import deprecated
else:
    import functools
    import warnings
    from collections.abc import Callable
    from typing import Any

    def deprecated(message: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Have each call warn with DeprecationWarning, at the line that calls.

        message: what to use in its place, and which version no longer has it.  A property is
        deprecated by its function, a class by its ``__init__``.  A coroutine function warns when it
        is called, not when it is awaited, and is then a function that returns a coroutine.
        """

        def mark(function: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(function)
            def called(*arguments: Any, **named: Any) -> Any:
                warnings.warn(message, DeprecationWarning, stacklevel=2)
                return function(*arguments, **named)

            called.__deprecated__ = message
            return called

        return mark


__all__ = ["deprecated"]
