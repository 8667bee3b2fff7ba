"""What the server agrees to of the options in a request (RFC 2347). Pure.

An option that is unknown, unreadable or out of its range is ignored, as RFC 2347 says of unknown
ones: the client then gets what it would get from a server without that option.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

DEFAULT_BLKSIZE = 512
MIN_BLKSIZE = 8
MAX_BLKSIZE = 65464
"""Bytes; the limits of RFC 2348, section 2."""

MAX_WINDOWSIZE = 64
"""Blocks. At 1468 bytes this is 92 KiB in flight: 90 MB/s through a round trip of 1 ms, and still
less than the receive queue of the smallest network card or firmware that asks for so much."""

OVERHEAD = {4: 20 + 8 + 4, 6: 40 + 8 + 4}
"""Bytes of a DATA packet beside its block, by IP version: IP, UDP and TFTP headers."""

MAX_WINDOW_BYTES = 128 * 1024
"""Bytes in flight, for large blocks. A window has to fit well into the default socket buffer of
Linux (208 KiB, which the kernel fills with its own overhead too), or its end is lost each time."""

_MOST_DIGITS = 19  # of a 64-bit size


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for one transfer.

    ``blksize`` in bytes (8 to 65464), ``windowsize`` in blocks (1 to 64), ``timeout`` in seconds
    (1 to 255) or ``None`` if the client left it to us. ``accepted`` are the options of the OACK,
    spelled as the client spelled them; without any there is no OACK. ``rollover`` is the number on
    the wire, 0 or 1, that follows 65535.
    """

    blksize: int = DEFAULT_BLKSIZE
    windowsize: int = 1
    timeout: int | None = None
    accepted: tuple[tuple[str, str], ...] = ()
    rollover: int = 0
    is_lowered_to_fit: bool = False
    """Whether the client asked for larger blocks than reach it in one piece."""

    @property
    def modulus(self) -> int:
        """After how many blocks their numbers on the wire begin again."""
        return 65536 - self.rollover


def negotiate(
    asked: Sequence[tuple[str, str]],
    *,
    tsize: int | None,
    max_blksize: int = MAX_BLKSIZE,
    max_windowsize: int = MAX_WINDOWSIZE,
    rollover: int = 0,
) -> Terms:
    """Decide on the options of a read request.

    Args:
        asked: names in any case and values, in the order of the request; of a name given twice
            the first counts.
        tsize: bytes that will be sent, or ``None`` if that is not to be told (netascii: what the
            client stores is not what is sent).
        max_blksize: bytes, what goes through to this client in one piece; 512 are always sent to
            one that does not ask for less.
        max_windowsize: blocks.
        rollover: 0 or 1, for clients that do not ask for either (``rollover`` is an option of
            tftpd-hpa, in no RFC).
    """
    values: dict[str, str] = {}
    for name, value in asked:
        values.setdefault(name.lower(), value)
    numbers = {name: number for name, value in values.items() if (number := _number(value)) >= 0}

    answers: dict[str, int] = {}
    is_lowered = False
    if (blksize := numbers.get("blksize", 0)) >= MIN_BLKSIZE:
        most = max(min(max_blksize, MAX_BLKSIZE), DEFAULT_BLKSIZE)
        is_lowered = blksize > most < MAX_BLKSIZE
        answers["blksize"] = blksize = min(blksize, most)
    else:
        blksize = DEFAULT_BLKSIZE
    if 1 <= (windowsize := numbers.get("windowsize", 0)) <= 65535:
        fitting = max(1, MAX_WINDOW_BYTES // blksize)
        answers["windowsize"] = min(windowsize, max_windowsize, fitting)
    if 1 <= (timeout := numbers.get("timeout", 0)) <= 255:
        answers["timeout"] = timeout
    if "tsize" in numbers and tsize is not None:
        answers["tsize"] = tsize
    if (asked_rollover := numbers.get("rollover", -1)) in (0, 1):
        answers["rollover"] = rollover = asked_rollover
    return Terms(
        blksize=blksize,
        windowsize=answers.get("windowsize", 1),
        timeout=answers.get("timeout"),
        accepted=_in_the_clients_words(asked, answers),
        rollover=rollover,
        is_lowered_to_fit=is_lowered,
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
