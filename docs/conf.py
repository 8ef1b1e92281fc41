"""Sphinx's configuration."""

import sys
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

project = "Socketkeep"
author = "The Socketkeep contributors"
project_copyright = "The Socketkeep contributors"
release = version = metadata.version("socketkeep")

extensions = ["myst_parser", "sphinx.ext.autodoc", "docs._ext.declared"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "_ext", "_data"]
nitpicky = True
# Types in signatures: others' pages are not at hand, private ones have none.
nitpick_ignore_regex = [
    ("py:class", r"(anyio|asyncio|ssl|socketkeep\._\w+|socket|collections|contextlib|os)\..*"),
    # Aliases, where a signature cannot be resolved: `ssl` is imported for type checkers only.
    ("py:class", r"Address|Attached|HowLeft|Mode|Why"),
]
autodoc_preserve_defaults = True
smartquotes = False

html_theme = "furo"
html_title = f"Socketkeep {release}"
