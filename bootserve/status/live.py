"""Showing it: once, or again and again until somebody presses Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Final

from rich.console import Console
from rich.live import Live

from bootserve.control import Json
from bootserve.remote import RemoteError
from bootserve.status.view import View

_GRACE: Final = 10.0
"""Seconds for which servers may be gone until it is over: a restart takes some."""

_WIDE: Final = 160
"""Columns where there is no terminal whose width would count."""

Ask = Callable[[], list[Json]]


def terminal() -> Console:
    """Standard output, with room for whole lines if it is no terminal."""
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else _WIDE
    return Console(width=width, highlight=False)


def can_watch(console: Console) -> bool:
    """Whether the same place can be written to again and again."""
    return sys.stdout.isatty() and not console.is_dumb_terminal


def show(said: list[Json], console: Console) -> None:
    """Print everything once."""
    console.print(View(said, time.time()))


def watch(said: list[Json], ask: Ask, console: Console, interval: float) -> None:
    """Show it until Ctrl-C, anew after so many seconds.

    Args:
        said: the first answers.
        ask: gets the next ones.

    Raises:
        RemoteError: there has been no server for a while.
    """
    view = View(said, time.time())
    seen = time.monotonic()
    with (
        contextlib.suppress(KeyboardInterrupt),
        _left_in_order(),
        Live(view, console=console, screen=True, auto_refresh=False) as live,
    ):
        while True:
            live.update(view, refresh=True)
            time.sleep(interval)
            try:
                said = ask()
            except RemoteError:
                if time.monotonic() - seen >= _GRACE:
                    raise
                notice = "no server is there now; this is what was last seen"
                view = View(said, time.time(), notice)
            else:
                seen = time.monotonic()
                view = View(said, time.time())


@contextlib.contextmanager
def _left_in_order() -> Iterator[None]:
    """Give the terminal back as it was when SIGTERM comes, as `timeout` sends it."""

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
