"""Which part of a file a request asks for, and whether it wants it at all. Pure.

Conditional requests (RFC 9110, section 13) and ranges (section 14), in the order of section 13.2.2.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime

CONDITIONS = (
    "if-match",
    "if-none-match",
    "if-modified-since",
    "if-unmodified-since",
    "if-range",
    "range",
)
"""The names of the headers that `evaluate` looks at."""

_ENTITY_TAG = re.compile(r'(W/)?("[^"]*")')
_BYTE_RANGE = re.compile(r"(-?\d{1,19})?-(-?\d{1,19})?", re.ASCII)
_TWO_TO_32 = 1 << 32


@dataclass(frozen=True, slots=True)
class Validators:
    """What identifies the bytes of one file: a strong entity tag, and seconds since the epoch."""

    etag: str
    modified: int

    @property
    def last_modified(self) -> str:
        return formatdate(self.modified, usegmt=True)


@dataclass(frozen=True, slots=True)
class Answer:
    """The status, and for 200 and 206 the bytes to send: ``length`` of them from ``start``."""

    status: int
    start: int = 0
    length: int = 0


def evaluate(headers: Mapping[str, str], validators: Validators, size: int) -> Answer:
    """Decide what a GET or HEAD gets.

    Args:
        headers: the request's, names in lower case, repeated ones joined by commas.
        size: of the whole file, in bytes.
    """
    whole = Answer(200, 0, size)
    if "if-match" in headers:
        if not _matches(headers["if-match"], validators.etag, weakly=False):
            return Answer(412)
    elif "if-unmodified-since" in headers:
        date = _date(headers["if-unmodified-since"])
        if date is not None and validators.modified > date:
            return Answer(412)
    if "if-none-match" in headers:
        if _matches(headers["if-none-match"], validators.etag, weakly=True):
            return Answer(304)
    elif "if-modified-since" in headers:
        date = _date(headers["if-modified-since"])
        if date is not None and validators.modified <= date:
            return Answer(304)
    if "range" in headers and _if_range(headers.get("if-range"), validators):
        return _range(headers["range"], size) or whole
    return whole


def _matches(field: str, etag: str, *, weakly: bool) -> bool:
    if field.strip() == "*":
        return True
    return any(tag == etag and (weakly or not weak) for weak, tag in _ENTITY_TAG.findall(field))


def _date(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None


def _if_range(field: str | None, validators: Validators) -> bool:
    if field is None:
        return True
    if '"' in field:
        return field.strip() == validators.etag
    return _date(field) == validators.modified


def _range(field: str, size: int) -> Answer | None:
    """Return 206 or 416, or ``None`` where the whole file is the right answer.

    Units other than bytes and lists of ranges are ignored, as section 14.2 permits. What is
    malformed is refused: a client that asked for a part could not use the whole.
    """
    unit, equals, specifier = field.partition("=")
    if unit.strip().lower() != "bytes" or not equals or "," in specifier:
        return None
    match = _BYTE_RANGE.fullmatch(specifier.strip())
    if match is None:
        return Answer(416)
    first, last = match.groups()
    if not first:
        # The last n bytes.
        count = max(int(last), 0) if last else 0
        return (
            Answer(206, max(size - count, 0), min(count, size)) if count and size else Answer(416)
        )
    start = _unsigned(int(first))
    end = _unsigned(int(last)) if last else size - 1
    if not 0 <= start <= end or start >= size:
        return Answer(416)
    return Answer(206, start, min(end, size - 1) - start + 1)


def _unsigned(number: int) -> int:
    """Repair an offset that a 32-bit iPXE has printed as a negative number."""
    return number + _TWO_TO_32 if -(_TWO_TO_32 >> 1) <= number < 0 else number
