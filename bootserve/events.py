"""What log lines say besides their text: which event it was, and its particulars by name.

Outputs that know no fields never ask for them, so a line may carry many at the price of none.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from enum import Enum
from typing import TypeVarTuple

Fields = Mapping[str, object]
"""Names in lower case, with what they are: strings, which may come from the network as they are,
and are escaped where they go out; numbers; an `Event` as ``event``. Those that are empty or
``None`` are left out."""

_Args = TypeVarTuple("_Args")


class Event(Enum):
    """Events that others may wait for; the value is the journal's MESSAGE_ID, for ever."""

    TRANSFER = "76e08a86a8f6493c879ca0ef0a5b1844"
    """A transfer has come to its end, whichever."""

    BOOT = "fe07a76ac3aa4e918390ecfc61563ac4"
    """A machine gets the script that it boots with."""

    LOOP = "10f7781eecb14df886b5a425a8f32b2d"
    """A machine is in a restart loop."""


def with_fields(make: Callable[[*_Args], Fields], *args: *_Args) -> dict[str, object]:
    """Return the ``extra`` of a log line whose fields are ``make(*args)``, if they are wanted."""
    return {"fields": (make, args)}


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    """Return what a line says besides its text, without what is empty."""
    found: tuple[Callable[..., Fields], tuple[object, ...]] | None
    found = getattr(record, "fields", None)
    if found is None:
        return {}
    make, args = found
    return {name: value for name, value in make(*args).items() if value is not None and value != ""}
