"""Sphinx's configuration."""

import sys
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

project = "Socketkeep"
author = "The Socketkeep contributors"
project_copyright = "The Socketkeep contributors"
release = version = metadata.version("socketkeep")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "docs._ext.declared",
    "docs._ext.reference",
]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "_ext", "_data"]
nitpicky = True
# Types in signatures: others' pages are not at hand, private ones have none.
nitpick_ignore_regex = [
    (
        "py:class",
        r"(anyio|asyncio|opentelemetry|ssl|socketkeep\._\w+|socket|collections|contextlib|os)\..*",
    ),
    # Aliases, where a signature cannot be resolved: `ssl` is imported for type checkers only.
    ("py:class", r"Address|Attached|HowLeft|Mode|Why"),
    # Of Channels, which is not at hand.
    ("py:exc", r"ChannelFull"),
    # What stands in backticks may be a parameter.
    ("py:obj", r".*"),
]
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False  # the signature has them
# A name in backticks leads to what has it, if there is something.
default_role = "py:obj"
# What is typed at a prompt is copied without it, and without what the command prints.
copybutton_prompt_text = "$ "
copybutton_line_continuation_character = "\\"
smartquotes = False

html_theme = "furo"
html_title = f"Socketkeep {release}"
