"""The optional parts of the installed package, and how the packages of one are installed."""

from __future__ import annotations

import re


def install_extra(extra: str) -> str:
    """Return what to do to have an extra, as a clause.

    It names the packages that the extra needs, each with its version, and not Socketkeep itself: an
    index need not have it, or may have another's under its name.
    """
    told = f"install the extra {extra!r} of socketkeep"
    needed = _packages_of(extra)
    return f"{told} (pip install {' '.join(needed)})" if needed else told


def _packages_of(extra: str) -> list[str]:
    from importlib.metadata import PackageNotFoundError, requires  # for who lacks something

    try:
        declared = requires("socketkeep") or ()
    except PackageNotFoundError:  # it is imported from its sources
        return []
    found = []
    for text in declared:
        package, _, marker = text.partition(";")
        if re.search(rf"extra\s*==\s*['\"]{extra}['\"]", marker):
            found.append(f"'{''.join(package.split())}'")
    return found
