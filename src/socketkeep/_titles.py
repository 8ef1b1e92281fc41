"""Process titles, where the package setproctitle is installed."""

from __future__ import annotations


def set_title(text: str) -> None:
    """Show `text` as this process's command line in ps and top."""
    try:
        from setproctitle import setproctitle
    except ImportError:
        return
    setproctitle(f"socketkeep: {text}")
