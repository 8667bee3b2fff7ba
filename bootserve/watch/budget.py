"""Descriptors: how many are in use and by whom, and who gets one when they run short. Pure.

Every connection, open file and TFTP transfer takes a descriptor, and a process may have only so
many (RLIMIT_NOFILE, getrlimit(2)). They are counted here as they come and go: asking /proc takes
one, and is impossible when it matters most.

Rules of this module:

* *Idle pays for pressure, transfers never do.* The doors close what is idle while `is_short`; a
  transfer that has begun is never ended for want of descriptors.
* Three lines, from the top: up to the **limit** there is a spare for what is open for a moment
  (directories on the way to a file, a reading thread's copy). Up to the **ceiling** connections are
  accepted. Up to the **admission** line big files are begun; what lies between is the reserve. Half
  of it is for smaller files, as firmware fetches them; in the rest scripts, health and refusals
  still get through.
* Whoever is refused is told when to come back: after the time that those before it will take, at
  the rate at which this many transfers at once, of the duration that they have had of late, come to
  their ends. Spread out, so that a rack that was refused together does not come back together.
"""

from __future__ import annotations

import heapq
import math
import random
import time
from collections import deque
from collections.abc import Callable
from typing import Final

TRIFLE: Final = 64 << 10
"""Bytes up to which an answer is never refused: the kernel takes all of it at once."""

BIG_FILE: Final = 2 << 20
"""Bytes from which on a file may not be begun on what is reserved. Firmware's own HTTP client,
which fetches iPXE, does not come back after a refusal; iPXE, which fetches kernels, does."""

HEALTHY_SHARE: Final = 0.8
"""The share of the limit up to which the process is healthy."""

_SPARE: Final = (8, 256)
_RESERVE: Final = (8, 1024)
"""Descriptors at least and at most, of a 16th of the limit, and of an eighth of what is left."""

_MEMORY: Final = 60.0
_MOST_ENDS: Final = 256
"""Seconds, and number, of ends of transfers from which their duration is told."""

_UNKNOWN_WAIT: Final = 5.0
_LONGEST_WAIT: Final = 60.0
"""Seconds to wait when nothing has ended so far, and at most."""

_MOST_REFUSED: Final = 16_384
"""Refused clients that are counted as waiting; it only bounds memory."""


class Budget:
    """The descriptors of one process. Used on the event loop's thread alone.

    Args:
        limit: descriptors that the process may have; ``None``: as many as it likes.
        base: those in use before the first client: listening sockets, log, the event loop's own.
        clock: monotonic seconds.
        spread: returns a number from 0 up to, not including, 1.
    """

    def __init__(
        self,
        limit: int | None = None,
        base: int = 0,
        *,
        clock: Callable[[], float] = time.monotonic,
        spread: Callable[[], float] = random.random,
    ) -> None:
        self.limit = limit
        self.base = base
        self.connections = 0
        """Of the HTTP door. It counts them here itself."""
        self.transfers = 0
        """Files beyond a trifle that the HTTP door is sending."""
        self.refused = 0
        """Requests that were told to come back, in the process's life."""
        self.spare = 0
        """Descriptors that are kept for what is open for a moment."""
        self.ceiling: float = math.inf
        self.admission: float = math.inf
        if limit is not None:
            self.spare = _within(limit // 16, _SPARE)
            # A limit too small for anything must let one client in at a time all the same.
            self.ceiling = max(limit - self.spare, base + 2)
            reserve = _within(int(self.ceiling - base) // 8, _RESERVE)
            # Health is red before work is refused, and before the idle have to go.
            unhealthy = int(HEALTHY_SHARE * limit) + max(3, limit // 32)
            admission = min(max(self.ceiling - reserve, unhealthy), self.ceiling - 1)
            self.admission = max(admission, base + 1)
        self._clock = clock
        self._spread = spread
        self._gauges: list[Callable[[], int]] = []
        self._ends: deque[tuple[float, float]] = deque(maxlen=_MOST_ENDS)
        self._begun = 0.0
        """The sum of the times at which those that are running were begun."""
        self._returns: list[float] = []
        self._on_free: list[Callable[[], None]] = []

    # --- counting ----------------------------------------------------------------------------

    def count(self, gauge: Callable[[], int]) -> None:
        """Count what somebody else keeps count of: ``gauge`` says how many descriptors that is."""
        self._gauges.append(gauge)

    @property
    def in_use(self) -> int:
        """Descriptors that are open now."""
        return self._shared + self.connections

    @property
    def _shared(self) -> int:
        return self.base + sum(gauge() for gauge in self._gauges)

    # --- decisions ---------------------------------------------------------------------------

    @property
    def may_accept(self) -> bool:
        """Whether one more connection, or TFTP transfer, may come in."""
        return self.in_use < self.ceiling

    def may_begin(self, size: int = BIG_FILE) -> bool:
        """Whether an answer of so many bytes may be begun; who is idle is no reason against it."""
        line = self.admission
        if size < BIG_FILE and self.limit is not None:
            line += (self.ceiling - self.admission) // 2
        return size <= TRIFLE or self._shared + self.transfers < line

    @property
    def is_short(self) -> bool:
        """Whether the idle are to go."""
        return self.in_use > self.admission

    @property
    def is_healthy(self) -> bool:
        return self.limit is None or self.in_use <= HEALTHY_SHARE * self.limit

    # --- transfers ---------------------------------------------------------------------------

    def begin(self) -> float:
        """A file is begun; return when, for `end`."""
        now = self._clock()
        self.transfers += 1
        self._begun += now
        return now

    def end(self, begun: float, *, is_whole: bool = True) -> None:
        """It has come to its end, with all that was asked for or without."""
        self.transfers -= 1
        self._begun = self._begun - begun if self.transfers else 0.0
        if is_whole:
            now = self._clock()
            self._ends.append((now, now - begun))

    def refuse(self) -> int:
        """Refuse a request; return after how many seconds, at least 1, its client is to ask again.

        Clients come back as often as it takes; each is counted as waiting until its time has come.
        """
        now = self._clock()
        self.refused += 1
        while self._returns and self._returns[0] <= now:
            heapq.heappop(self._returns)
        wait = self._expected_wait(now, len(self._returns) + 1)
        wait *= 0.75 + self._spread() / 2
        if len(self._returns) < _MOST_REFUSED:
            heapq.heappush(self._returns, now + wait)
        return max(1, math.ceil(wait))

    def _expected_wait(self, now: float, waiting: int) -> float:
        while self._ends and now - self._ends[0][0] > _MEMORY:
            self._ends.popleft()
        duration = now - self._begun / self.transfers if self.transfers else 0.0
        if self._ends:
            mean = sum(seconds for _, seconds in self._ends) / len(self._ends)
            duration = max(duration, mean)
        places = max(self.admission - self._shared, 1)
        wait = waiting * duration / places
        return min(wait if self._ends else max(wait, _UNKNOWN_WAIT), _LONGEST_WAIT)

    # --- waiting for a descriptor ------------------------------------------------------------

    def on_free(self, callback: Callable[[], None]) -> None:
        """Call back, once, when something is given back."""
        if callback not in self._on_free:
            self._on_free.append(callback)

    def freed(self) -> None:
        """Something that is counted has been given back."""
        if self._on_free:
            callbacks, self._on_free = self._on_free, []
            for callback in callbacks:
                callback()


def _within(value: int, bounds: tuple[int, int]) -> int:
    return min(max(value, bounds[0]), bounds[1])
