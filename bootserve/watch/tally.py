"""What all transfers so far come to: plain sums, for `bootserve.watch.metrics`.

Rules of this module:

* A transfer costs a few additions, about a microsecond: nothing is locked, and nothing is spelt out
  before somebody asks.
* Every key is a tuple of words of our own. What clients say of themselves (names, addresses, MAC
  addresses) is in none of them, so that no client can make the sums grow in number.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
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

_UNKNOWN: Final = "unknown"
_UNSEEN: Final = "none"

Kind = tuple[str, str]
"""Protocol and architecture."""


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


class Tally:
    """An observer of the ledger that sums up. All times are in seconds, sizes in bytes."""

    def __init__(self) -> None:
        self.ends: Counter[tuple[str, str, str, str]] = Counter()
        """Transfers by protocol, architecture, last verdict, and end."""
        self.sent: Counter[Kind] = Counter()
        """What clients got in transfers that have ended."""
        self.durations: dict[Kind, Histogram] = {}
        self.first_bytes: dict[Kind, Histogram] = {}
        self.rates: dict[Kind, Histogram] = {}
        """Of transfers that came to a good end, of `MEANINGFUL` size."""
        self.pauses: Counter[str] = Counter()
        self.stalled: dict[str, float] = {}
        """By protocol: pauses, and seconds without progress."""
        self.sent_again = 0
        """Blocks of TFTP that went out more than once."""
        self.scripts = 0
        """Scripts for machines that boot."""

    @staticmethod
    def kind(transfer: Transfer) -> Kind:
        return transfer.protocol.lower(), transfer.arch or _UNKNOWN

    def began(self, transfer: Transfer) -> None:
        pass

    def boots(self, name: str) -> None:  # noqa: ARG002 (an observer's)
        self.scripts += 1

    def ended(self, transfer: Transfer, end: End, now: float) -> None:
        kind = protocol, arch = self.kind(transfer)
        self.ends[protocol, arch, transfer.verdict or _UNSEEN, end.token] += 1
        self.sent[kind] += transfer.sent
        seconds = now - transfer.started
        _of(self.durations, kind, DURATIONS).add(seconds)
        if transfer.first_byte is not None:
            _of(self.first_bytes, kind, FIRST_BYTES).add(transfer.first_byte - transfer.started)
        if end.is_whole and transfer.total >= MEANINGFUL and seconds > 0:
            _of(self.rates, kind, RATES).add(transfer.sent / seconds)
        if transfer.pauses:
            self.pauses[protocol] += transfer.pauses
        if transfer.stalled:
            self.stalled[protocol] = self.stalled.get(protocol, 0.0) + transfer.stalled
        if transfer.details:
            self.sent_again += transfer.details.get(SENT_AGAIN, 0)


def _of(histograms: dict[Kind, Histogram], kind: Kind, bounds: Sequence[float]) -> Histogram:
    found = histograms.get(kind)
    if found is None:
        found = histograms[kind] = Histogram(bounds)
    return found
