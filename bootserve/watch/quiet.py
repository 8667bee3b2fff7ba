"""Log lines that the network can cause, bounded in number."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Final

import anyio

_LOOK: Final = 1.0
"""Seconds between two looks for periods that have ended."""


class QuietLog:
    """Writes at most ``most`` lines per ``period`` seconds, and how many it left out meanwhile.

    The number comes with the first line after the period or, where `keep_telling` runs, at its end.

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
        self,
        level: int,
        message: str,
        *args: object,
        error: BaseException | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> None:
        """Log as `logging.Logger.log` does, with the traceback of ``error`` if there is one."""
        if not self._logger.isEnabledFor(level):
            # What nobody would see takes no other line's place, and is not missed.
            return
        now = self._clock()
        if now - self._since >= self._period:
            self.tell()
            self._since = now
            self._count = 0
        self._count += 1
        if self._count <= self._most:
            self._logger.log(level, message, *args, exc_info=error, extra=extra)
        elif self._count == self._most + 1:
            _owing.append(self)

    @property
    def is_due(self) -> bool:
        """Whether the period has ended in which lines were left out."""
        return self._clock() - self._since >= self._period

    def tell(self) -> None:
        """Write how many lines were left out and not told so far."""
        left_out = self._count - self._most
        if left_out > 0:
            self._logger.warning("left out %d lines like those before", left_out)
            self._count = self._most
            _owing.remove(self)


_owing: list[QuietLog] = []
"""Those that have left something out and not told so, each once."""


def tell_all() -> None:
    """Have every log tell what it left out, whether its period has ended or not."""
    for quiet in list(_owing):
        quiet.tell()


async def keep_telling() -> None:
    """Have every log tell what it left out when its period has ended, until cancelled."""
    while True:
        await anyio.sleep(_LOOK)
        for quiet in [quiet for quiet in _owing if quiet.is_due]:
            quiet.tell()


def describe(error: OSError) -> str:
    """Return what went wrong, in the system's words if it has any."""
    return error.strerror or str(error) or type(error).__name__
