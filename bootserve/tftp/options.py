"""What the server agrees to of the options in a request (RFC 2347). Pure.

An option that is unknown, unreadable or out of its range is ignored, as RFC 2347 says of unknown
ones: the client then gets what it would get from a server without that option.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bootserve.catalog.assets import READ_SIZE

DEFAULT_BLKSIZE = 512
MIN_BLKSIZE = 8
MAX_BLKSIZE = 65464
"""Bytes; the limits of RFC 2348, section 2."""

MAX_WINDOWSIZE = 64
"""Blocks. At 1468 bytes this is 92 KiB in flight: 90 MB/s through a round trip of 1 ms, and still
less than the receive queue of the smallest network card or firmware that asks for so much."""

MAX_WINDOW_BYTES = READ_SIZE // 2
"""Bytes in flight, for large blocks. A window has to fit well into the default socket buffer of
Linux (208 KiB, which the kernel fills with its own overhead too), or its end is lost each time;
and into what is read ahead of a cold file."""

_MOST_DIGITS = 19  # of a 64-bit size


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for one transfer.

    ``blksize`` in bytes (8 to 65464), ``windowsize`` in blocks (1 to 64), ``timeout`` in seconds
    (1 to 255) or ``None`` if the client left it to us. ``accepted`` are the options of the OACK,
    spelled as the client spelled them; without any there is no OACK.
    """

    blksize: int = DEFAULT_BLKSIZE
    windowsize: int = 1
    timeout: int | None = None
    accepted: tuple[tuple[str, str], ...] = ()


def negotiate(asked: Sequence[tuple[str, str]], *, tsize: int | None) -> Terms:
    """Decide on the options of a read request.

    Args:
        asked: names in any case and values, in the order of the request; of a name given twice
            the first counts.
        tsize: bytes that will be sent, or ``None`` if that is not to be told (netascii: what the
            client stores is not what is sent).
    """
    values: dict[str, str] = {}
    for name, value in asked:
        values.setdefault(name.lower(), value)
    numbers = {name: number for name, value in values.items() if (number := _number(value)) >= 0}

    answers: dict[str, int] = {}
    if (blksize := numbers.get("blksize", 0)) >= MIN_BLKSIZE:
        answers["blksize"] = blksize = min(blksize, MAX_BLKSIZE)
    else:
        blksize = DEFAULT_BLKSIZE
    if 1 <= (windowsize := numbers.get("windowsize", 0)) <= 65535:
        fitting = max(1, MAX_WINDOW_BYTES // blksize)
        answers["windowsize"] = min(windowsize, MAX_WINDOWSIZE, fitting)
    if 1 <= (timeout := numbers.get("timeout", 0)) <= 255:
        answers["timeout"] = timeout
    if "tsize" in numbers and tsize is not None:
        answers["tsize"] = tsize
    return Terms(
        blksize=blksize,
        windowsize=answers.get("windowsize", 1),
        timeout=answers.get("timeout"),
        accepted=_in_the_clients_words(asked, answers),
    )


def _number(value: str) -> int:
    """Return the decimal number that ``value`` is, or -1."""
    if value.isascii() and value.isdigit() and len(value) <= _MOST_DIGITS:
        return int(value)
    return -1


def _in_the_clients_words(
    asked: Sequence[tuple[str, str]], answers: dict[str, int]
) -> tuple[tuple[str, str], ...]:
    left = dict(answers)
    return tuple((name, str(left.pop(name.lower()))) for name, _ in asked if name.lower() in left)
