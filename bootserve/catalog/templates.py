"""What all templates of scripts have in common, whoever reads the script."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

Raw = Markup
"""Text that is script already and is printed as it is. Jinja's own type for "already escaped"
serves: macros return it, and with it autoescaping (which is for HTML) finds nothing left to do."""

# Read now: an upgrade begins with another version's files in the place of ours.
_TEMPLATES: Final = {
    path.name: path.read_text(encoding="utf-8")
    for path in Path(__file__).with_name("scripts").glob("*.j2")
}


def environment(quote: Callable[[str], str]) -> Environment:
    """Return an environment that prints every text through ``quote``, `Raw` ones as they are."""

    def finalize(value: Any) -> Raw:
        if isinstance(value, str) and not isinstance(value, Raw):
            return Raw(quote(value))
        return Raw(value)

    return Environment(
        loader=DictLoader(_TEMPLATES),
        undefined=StrictUndefined,
        finalize=finalize,
        autoescape=True,
        keep_trailing_newline=True,
    )


def one_line(text: str) -> str:
    """Return ``text`` with nothing in it that could end a line or move a cursor."""
    return "".join(char if char.isprintable() else "?" for char in text)
