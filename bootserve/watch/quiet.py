"""Log lines that the network can cause, bounded in number."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable


class QuietLog:
    """Writes at most ``most`` lines per ``period`` seconds, and how many it left out meanwhile.

    Args:
        clock: monotonic seconds.
    """

    def __init__(
        self,
        logger: logging.Logger,
        *,
        most: int = 50,
        period: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._logger = logger
        self._most = most
        self._period = period
        self._clock = clock
        self._since = clock()
        self._count = 0

    def log(
        self, level: int, message: str, *args: object, error: BaseException | None = None
    ) -> None:
        """Log as `logging.Logger.log` does, with the traceback of ``error`` if there is one."""
        now = self._clock()
        if now - self._since >= self._period:
            left_out = self._count - self._most
            if left_out > 0:
                self._logger.warning("left out %d lines like those before", left_out)
            self._since = now
            self._count = 0
        self._count += 1
        if self._count <= self._most:
            self._logger.log(level, message, *args, exc_info=error)


def describe(error: OSError) -> str:
    """Return what went wrong, in the system's words if it has any."""
    return error.strerror or str(error) or type(error).__name__
