"""What all transfers so far come to: plain sums, for `bootserve.watch.metrics`.

Rules of this module:

* A transfer costs a few additions, about a microsecond: nothing is locked, and nothing is spelt out
  before somebody asks.
* Every key is made of words of our own. What clients say of themselves (names, addresses, MAC
  addresses) is in none of them, so that no client can make the sums grow in number.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

from bootserve.watch.ledger import SENT_AGAIN, End, Transfer

DURATIONS: Final = (
    *(0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
    *(60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 14400.0),
)
FIRST_BYTES: Final = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 60.0)
RATES: Final = (1e3, 1e4, 1e5, 3e5, 1e6, 3e6, 1e7, 3e7, 1e8, 3e8, 1e9, 3e9, 1e10)
"""The upper bounds of histograms, in seconds and bytes per second."""

MEANINGFUL: Final = 1 << 20
"""Bytes from which on the rate of a transfer says something of a client's line."""

_WHOLE: Final = frozenset(end for end in End if end.is_whole)


class Histogram:
    """How often values fell between bounds, and their sum.

    Args:
        bounds: ascending; each belongs to what is below it.
    """

    __slots__ = ("_bounds", "_counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def up_to(self) -> list[tuple[float | None, int]]:
        """Return how many values there were up to each bound; up to ``None``: in all."""
        found: list[tuple[float | None, int]] = []
        total = 0
        for bound, count in zip((*self._bounds, None), self._counts, strict=True):
            total += count
            found.append((bound, total))
        return found


class Sums:
    """What the transfers of one protocol and architecture that have ended come to."""

    __slots__ = (
        "durations",
        "ends",
        "first_bytes",
        "pauses",
        "rates",
        "sent",
        "sent_again",
        "stalled",
    )

    def __init__(self) -> None:
        self.ends: dict[tuple[str, End], int] = {}
        """How many, by the last verdict before the end, empty if there was none, and by the end."""
        self.sent = 0
        """Bytes that clients got."""
        self.durations = Histogram(DURATIONS)
        self.first_bytes = Histogram(FIRST_BYTES)
        self.rates = Histogram(RATES)
        """Of those that came to a good end, of `MEANINGFUL` size."""
        self.pauses = 0
        self.stalled = 0.0
        """Pauses, and seconds without progress."""
        self.sent_again = 0
        """Blocks of TFTP that went out more than once."""


class Tally:
    """An observer of the ledger that sums up. All times are in seconds, sizes in bytes."""

    def __init__(self) -> None:
        self.kinds: dict[tuple[str, str], Sums] = {}
        """By protocol and architecture, as transfers have them."""
        self.scripts = 0
        """Scripts for machines that boot."""

    def began(self, transfer: Transfer) -> None:
        pass

    def boots(self, name: str) -> None:  # noqa: ARG002 (an observer's)
        self.scripts += 1

    def ended(self, transfer: Transfer, end: End, now: float) -> None:
        kind = transfer.protocol, transfer.arch
        sums = self.kinds.get(kind)
        if sums is None:
            sums = self.kinds[kind] = Sums()
        how = transfer.verdict, end
        sums.ends[how] = sums.ends.get(how, 0) + 1
        sent = transfer.sent
        # What a look has seen was told already, and may not be taken back.
        sums.sent += sent if sent >= transfer.seen else transfer.seen
        started = transfer.started
        seconds = now - started
        sums.durations.add(seconds)
        first_byte = transfer.first_byte
        if first_byte is not None:
            sums.first_bytes.add(first_byte - started)
        if transfer.total >= MEANINGFUL and seconds > 0 and end in _WHOLE:
            sums.rates.add(sent / seconds)
        if transfer.looked_at:
            sums.pauses += transfer.pauses
            sums.stalled += transfer.stalled
        if transfer.details:
            sums.sent_again += transfer.details.get(SENT_AGAIN, 0)
