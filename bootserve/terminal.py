"""The terminal that a process was started from, if there was one."""

from __future__ import annotations

import os


class Terminal:
    """Knows whether SIGHUP means what it meant first: that the terminal is gone.

    The kernel takes a terminal that hangs up from its session before it sends the signal.
    """

    def __init__(self) -> None:
        self._was_there = _is_there()

    def is_gone(self) -> bool:
        """Whether there was a terminal at the start, and now is none."""
        return self._was_there and not _is_there()


def _is_there() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
