"""What one process says of itself: its health, the transfers in flight, the last that have ended.

One JSON object, the same for `bootserve status` and ``GET /transfers.json``. It is made piece by
piece: with ten thousand transfers it has megabytes, and nobody's download is to wait for it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Final

import anyio.lowlevel

from bootserve import __version__
from bootserve.watch.health import Health
from bootserve.watch.ledger import RECENT, Ledger, Transfer
from bootserve.watch.report import entry

_PER_TURN: Final = 64
"""Entries, some 5 us each, that are written down before others get their turn of the loop."""

USUAL_RECENT: Final = 10
"""Transfers that have ended which are told of if nobody says how many."""


def checked_recent(value: object) -> int:
    """Return how many transfers that have ended are asked for.

    Args:
        value: as it came from outside; ``None`` if nothing was said.

    Raises:
        ValueError: it is no whole number from 0 to `RECENT`.
    """
    if value is None:
        return USUAL_RECENT
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 9:
        value = int(value)
    if type(value) is not int or not 0 <= value <= RECENT:
        raise ValueError(f"`recent` must be a whole number from 0 to {RECENT}")
    return value


class Status:
    """Tells of one process.

    Args:
        state: in a word, where the process is in its life.
        http, tftp: the addresses that it was opened on.
        wall: seconds since 1970.
    """

    def __init__(
        self,
        ledger: Ledger,
        health: Health,
        *,
        state: Callable[[], str] = lambda: "serving",
        http: Sequence[str] = (),
        tftp: Sequence[str] = (),
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._ledger = ledger
        self._health = health
        self._state = state
        self._http = list(http)
        self._tftp = list(tftp)
        self._wall = wall
        self._born = ledger.now()

    async def pieces(self, recent: int = USUAL_RECENT) -> AsyncGenerator[bytes, None]:
        """Return the text of the object, ASCII without a newline, in pieces of some 30 kB.

        Others get their turn of the event loop between two of them.

        Args:
            recent: how many of the transfers that have ended, at most; the latest come first.
        """
        uptime = self._ledger.now() - self._born
        head = {
            "pid": os.getpid(),
            "version": __version__,
            "state": str(self._state()),
            "started": round(self._wall() - uptime, 3),
            "uptime": round(uptime, 3),
            "http": self._http,
            "tftp": self._tftp,
            # A process that drains says so in its state; that is no fault of its health.
            "health": self._health.report(is_ready=False)[1],
        }
        yield json.dumps(head)[:-1].encode() + b', "transfers": ['
        told: set[int] = set()
        async for piece in self._list(self._ledger.live, told):
            yield piece
        yield b'], "recent": ['
        # Taken now, it has those that have ended while the others were written down, once.
        ended = [each for each in reversed(self._ledger.recent) if each.number not in told]
        async for piece in self._list(ended[:recent]):
            yield piece
        yield b"]}"

    async def _list(
        self, transfers: Sequence[Transfer], told: set[int] | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Write transfers down.

        Args:
            told: leave out those that have ended by their turn, and add the others' numbers here.
        """
        comma = b""
        for first in range(0, len(transfers), _PER_TURN):
            batch = transfers[first : first + _PER_TURN]
            if told is not None:
                batch = [transfer for transfer in batch if transfer.ended is None]
                told.update(transfer.number for transfer in batch)
            now, wall = self._ledger.now(), self._wall()
            if batch:
                found = [entry(transfer, now, wall) for transfer in batch]
                yield comma + json.dumps(found)[1:-1].encode()
                comma = b", "
            await anyio.lowlevel.checkpoint()
