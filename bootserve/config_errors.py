"""What is wrong with a configuration, in sentences: where it was set, its key, a remedy."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

ENV_PREFIX = "BOOTSERVE_"

Location = tuple[int | str, ...]
"""A place in the tree of settings, as pydantic names it."""


class ConfigError(Exception):
    """The configuration cannot be used; each problem is one sentence for the operator."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a hint in brackets at the known word that is closest to ``word``, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


_PLAIN = {
    "tuple_type": "must be a list, in TOML [ ... ]",
    "dict_type": "must be a table, in TOML [section] or { ... }",
    "model_type": "must be a table, in TOML [section] or { ... }",
    "string_type": "must be text, in TOML in quotes",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "too_short": "must name at least 1",
}
"""pydantic's commonest complaints in the words of somebody who edits a TOML file."""

_FLAGS = {("http", "listen"): "--http", ("tftp", "listen"): "--tftp", ("assets", "roots"): "--root"}


def explain(
    error: ValidationError,
    config: Path | None,
    flags: Mapping[str, Any],
    keys_at: Callable[[Location], list[str]],
) -> list[str]:
    """Return a sentence for each thing that is wrong: where the value came from, its key, why.

    Args:
        config: the TOML file, if there was one.
        flags: the tree that the command line gave.
        keys_at: the keys that may stand at a place in the tree, for suggestions.
    """
    problems = []
    items = error.errors(include_url=False, include_context=False)
    for item in items:
        if item["type"] == "too_short" and any(other["loc"][:-1] == item["loc"] for other in items):
            continue  # pydantic does not count what is wrong
        loc = tuple(part for part in item["loc"] if not _is_type_tag(part))
        where = _origin(loc, config, flags)
        message = item["msg"].removeprefix("Value error, ")
        message = message.replace("Input should be ", "must be ")
        if item["type"] == "extra_forbidden":
            hint = did_you_mean(str(loc[-1]), keys_at(loc[:-1]))
            message = f"unknown key{hint}; remove or rename it"
        message = _PLAIN.get(item["type"], message)
        key = _key(loc)
        for line in message.split("\n"):
            if key:
                problems.append(f"{where}: {key}: {line}")
            else:
                # A problem between several keys begins with the one to change.
                first = tuple(re.match(r"[\w.]*", line)[0].split("."))  # type: ignore[index]
                problems.append(f"{_origin(first, config, flags)}: {line}")
    return list(dict.fromkeys(problems))


def _is_type_tag(part: int | str) -> bool:
    """Whether ``part`` is pydantic's name of a union's branch rather than a key of ours."""
    return isinstance(part, str) and bool(
        re.search(r"[\[\]()]", part) or part in ("str", "is-empty")
    )


def _key(loc: Location) -> str:
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _origin(loc: Location, config: Path | None, flags: Mapping[str, Any]) -> str:
    if len(loc) >= 2:
        section, key = str(loc[0]), str(loc[1])
        if key in (flags.get(section) or {}):
            return _FLAGS.get((section, key), "command line")
        variable = f"{ENV_PREFIX}{section}_{key}".upper()
        if variable in (name.upper() for name in os.environ):
            return variable
    return str(config) if config else "configuration"
