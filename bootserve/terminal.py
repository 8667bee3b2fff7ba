"""The terminal that a process was started from, if there was one."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

LOOK: Final = 2.0
"""Seconds from one look for the terminal to the next."""

_PATIENCE: Final = 3.0
"""Seconds from the loss of a terminal to a SIGHUP that may still tell of it."""


class Terminal:
    """Knows whether SIGHUP means what it meant first: that the terminal is gone.

    The kernel takes a terminal that hangs up from its session before it sends the signal, and
    sends it to the session's leader and the foreground. A process in the background may outlive
    its terminal without one; what it gets later is somebody's wish.

    Args:
        is_there: whether this process has a terminal now.
    """

    def __init__(self, is_there: Callable[[], bool] | None = None) -> None:
        self._is_there = is_there or _is_there
        self._is_ours = self._is_there()
        self._gone_since: float | None = None

    def is_gone(self) -> bool:
        """Whether there was a terminal a moment ago, and now is none."""
        return self._is_ours and not self._is_there()

    def is_expected(self, now: float) -> bool:
        """Look for the terminal; return whether its loss is yet to come, or to be told.

        Args:
            now: monotonic seconds.
        """
        if not self.is_gone():
            self._gone_since = None
        elif self._gone_since is None:
            self._gone_since = now
        elif now - self._gone_since >= _PATIENCE:
            self._is_ours = False
        return self._is_ours


def _is_there() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
