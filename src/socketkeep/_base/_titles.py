"""Process titles, where the package setproctitle is installed."""

from __future__ import annotations

from socketkeep._base._roles import Role


def set_title(role: Role, more: str = "") -> None:
    """Show the role, and `more` behind it, as this process's command line in ps and top."""
    try:
        from setproctitle import setproctitle
    except ImportError:
        return
    setproctitle(f"socketkeep: {role.value} {more}".rstrip())
