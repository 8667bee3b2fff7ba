"""What log lines say besides their text: which event it was, and its particulars by name.

Outputs that know no fields never ask for them, so a line may carry many at the price of none.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from enum import Enum
from functools import partial
from typing import ParamSpec

Fields = Mapping[str, object]
"""Names in lower case, with what they are: strings, which may come from the network as they are,
and are escaped where they go out; numbers; an `Event` as ``event``. Those that are empty or
``None`` are left out."""

_Parameters = ParamSpec("_Parameters")


class Event(Enum):
    """Events that others may wait for; the value is the journal's MESSAGE_ID, for ever."""

    TRANSFER = "76e08a86a8f6493c879ca0ef0a5b1844"
    """A transfer has come to its end, whichever."""

    BOOT = "fe07a76ac3aa4e918390ecfc61563ac4"
    """A machine gets the script that it boots with."""

    LOOP = "10f7781eecb14df886b5a425a8f32b2d"
    """A machine is in a restart loop."""


def with_fields(
    fields: Callable[_Parameters, Fields],
    *args: _Parameters.args,
    **kwargs: _Parameters.kwargs,
) -> dict[str, Callable[[], Fields]]:
    """Return the ``extra`` of a log line whose fields are ``fields(*args)``, if they are wanted."""
    return {"fields": partial(fields, *args, **kwargs)}


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    """Return what a line says besides its text, without what is empty."""
    fields: Callable[[], Fields] | None = getattr(record, "fields", None)
    if fields is None:
        return {}
    return {name: value for name, value in fields().items() if value is not None and value != ""}
