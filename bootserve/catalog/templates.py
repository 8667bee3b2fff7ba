"""What all templates of scripts have in common, whoever reads the script."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

Raw = Markup
"""Text that is script already and is printed as it is. Jinja's own type for "already escaped"
serves: macros return it, and with it autoescaping (which is for HTML) finds nothing left to do."""


def environment(quote: Callable[[str], str]) -> Environment:
    """Return an environment that prints every text through ``quote``, `Raw` ones as they are."""

    def finalize(value: Any) -> Raw:
        if isinstance(value, str) and not isinstance(value, Raw):
            return Raw(quote(value))
        return Raw(value)

    return Environment(
        loader=PackageLoader("bootserve.catalog", "scripts"),
        undefined=StrictUndefined,
        finalize=finalize,
        autoescape=True,
        keep_trailing_newline=True,
    )


def one_line(text: str) -> str:
    """Return ``text`` with nothing in it that could end a line or move a cursor."""
    return "".join(char if char.isprintable() else "?" for char in text)
