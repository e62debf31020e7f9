"""Environment of the templates of reports and pages, and the sign of a number that they do not have.

Source: docs/experiments.md, Report.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

DASH: Final = "–"
"""Stands for a number that is undefined or unknown; `dash` in templates."""
_TEMPLATES = Path(__file__).parent / "templates"


def environment(folders: Sequence[Path] = (_TEMPLATES,)) -> Environment:
    """Return the environment of the templates in folders; HTML is escaped, and an unknown name is an error."""
    found = Environment(
        loader=FileSystemLoader(folders),
        autoescape=select_autoescape(["html.jinja"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.globals["dash"] = DASH
    return found
