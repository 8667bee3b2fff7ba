"""How an operator writes how fast, and how much at once: ``10Mbit/s``, ``256KiB``, ``off``."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Final

from pydantic import BeforeValidator

OFF: Final = 0
"""A pace or window that is set, to no limit."""

_LEAST_PACE: Final = 8_000 // 8
_MOST_PACE: Final = 400_000_000_000 // 8
_LEAST_WINDOW: Final = 4 << 10
_MOST_WINDOW: Final = 64 << 20

_SI: Final = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
_BINARY: Final = {"ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}
_PREFIXES: Final = {**_SI, **_BINARY}
_NUMBER = r"(\d{1,15}(?:\.\d{1,9})?) *"
_PREFIX = r"([kKmMgG]?i?)"
_PACE = re.compile(_NUMBER + _PREFIX + r"([bB]it|B)/s", re.ASCII)
_WINDOW = re.compile(rf"{_NUMBER}(?:{_PREFIX}B)?", re.ASCII)


def parse_pace(value: object) -> int:
    """Return a pace in bytes per second, or `OFF`.

    ``bit`` and ``B`` are told apart, and so are ``k`` (1000) and ``Ki`` (1024).

    Raises:
        ValueError: it is none, or not within 8 kbit/s and 400 Gbit/s.
    """
    if value == "off":
        return OFF
    match = _PACE.fullmatch(value) if isinstance(value, str) else None
    factor = _PREFIXES.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise ValueError(
            f'{value!r} is not a pace; write it like "10Mbit/s" (bits), "1MB/s" or "512KiB/s"'
            ' (bytes), or "off"'
        )
    pace = int(Decimal(match[1]) * factor / (1 if match[3] == "B" else 8))
    if not _LEAST_PACE <= pace <= _MOST_PACE:
        raise ValueError(
            f'{value!r} is out of range; a pace lies between 8kbit/s and 400Gbit/s, or is "off"'
        )
    return pace


def parse_window(value: object) -> int:
    """Return a window in bytes, or `OFF`.

    Raises:
        ValueError: it is none, or not within 4 KiB and 64 MiB.
    """
    if value == "off":
        return OFF
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    match = _WINDOW.fullmatch(text)
    factor = _PREFIXES.get((match[2] or "").lower()) if match else None
    if match is None or factor is None:
        raise ValueError(
            f'{value!r} is not a window; write it like "256KiB" or "1MB", as a number of bytes,'
            ' or "off"'
        )
    window = int(Decimal(match[1]) * factor)
    if not _LEAST_WINDOW <= window <= _MOST_WINDOW:
        raise ValueError(
            f'{value!r} is out of range; a window lies between 4KiB and 64MiB, or is "off"'
        )
    return window


Pace = Annotated[int, BeforeValidator(parse_pace)]
Window = Annotated[int, BeforeValidator(parse_window)]


def describe_pace(pace: int | None) -> str:
    """Return a pace as a person would write it, and `parse_pace` read it: ``10 Mbit/s``."""
    if not pace:
        return "off"
    bits = Decimal(pace * 8)
    for prefix in ("G", "M", "k"):
        count = bits / _SI[prefix.lower()]
        if count >= 1 and count == round(count, 3):
            return f"{count.normalize():f} {prefix}bit/s"
    return f"{bits} bit/s"


def describe_window(window: int | None) -> str:
    """Return a window as a person would write it, and `parse_window` read it: ``64 KiB``."""
    if not window:
        return "off"
    for prefix in ("Mi", "Ki"):
        count, rest = divmod(window, _BINARY[prefix.lower()])
        if not rest:
            return f"{count} {prefix}B"
    return f"{window} B"
