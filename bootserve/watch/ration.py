"""What strangers can cause, bounded in number."""

from __future__ import annotations

import time
from collections.abc import Callable


class Ration:
    """Admits at most ``most`` per ``period`` seconds.

    Args:
        clock: monotonic seconds.
    """

    def __init__(
        self,
        *,
        most: int = 50,
        period: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most = most
        self._period = period
        self._clock = clock
        self._since = clock()
        self._count = 0

    def admits(self) -> bool:
        """Whether this one is not too many."""
        now = self._clock()
        if now - self._since >= self._period:
            self._since, self._count = now, 0
        self._count += 1
        return self._count <= self._most
