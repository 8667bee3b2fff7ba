"""What systemd is told while a server runs: how it is, and that its watchdog is fed.

These are sd_notify(3)'s STATUS=, STOPPING= and WATCHDOG=; READY= and MAINPID= are the
`bootserve.supervisor`'s. With NotifyAccess=main, systemd takes them from the service's main process
only and complains of any other. So a new process keeps silent until the one that it replaces has
named it, and that one says nothing afterwards; both go by the order in which systemd receives.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import anyio

from bootserve.endpoint import Endpoint, as_configured

TICK: Final = 2.0
"""Seconds between two looks, at most."""

WATCHDOG_PID: Final = "WATCHDOG_PID"
"""Names the process that systemd expects to feed its watchdog (sd_watchdog_enabled(3))."""

_SHARE: Final = 1 / 3
"""Of the time after which systemd ends us: two messages may come late or get lost."""


@dataclass(frozen=True, slots=True)
class Report:
    """How a process is."""

    status: str
    """For a person; one line."""

    is_sound: bool = True
    """Whether it does its work, however slowly: a process that does not is ended by systemd."""

    is_stopping: bool = False


def watchdog_time(environ: Mapping[str, str], pid: int) -> float | None:
    """Return the seconds after which systemd ends this process if it hears nothing, if it does so.

    See sd_watchdog_enabled(3).
    """
    if environ.get(WATCHDOG_PID, str(pid)) != str(pid):
        return None
    text = environ.get("WATCHDOG_USEC", "")
    # int() takes no more than some thousand digits.
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) > 0):
        return None
    return int(text) / 1_000_000


def socket_name(address: str) -> str:
    """Return NOTIFY_SOCKET as connect() takes it: ``@`` stands for an abstract name's zero byte."""
    return "\0" + address[1:] if address.startswith("@") else address


def what_is_served(doors: Mapping[str, Iterable[Endpoint]]) -> str:
    """Return the addresses of each door: ``HTTP on *:80, TFTP on *:69``."""
    return ", ".join(
        f"{name} on {' and '.join(places)}"
        for name, endpoints in doors.items()
        if (places := as_configured(endpoints))
    )


def what_goes_on(transfers: int, clients: int, silent: int) -> str:
    """Return how much is in flight: ``12 transfers to 9 clients, 1 silent``."""
    if not transfers:
        return "idle"
    text = f"{_count(transfers, 'transfer')} to {_count(clients, 'client')}"
    return f"{text}, {silent} silent" if silent else text


def what_is_left(transfers: int) -> str:
    """Return what a process that leaves waits for: ``draining, 3 transfers to go``."""
    return f"draining, {_count(transfers, 'transfer')} to go"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


class Notices:
    """Decides what is to be told when.

    Args:
        watchdog: seconds after which systemd ends us without a word; ``None``: it does not.
    """

    def __init__(self, watchdog: float | None) -> None:
        self._period = None if watchdog is None else watchdog * _SHARE
        self._fed = -math.inf
        self._status = ""
        self._has_said_stopping = False

    @property
    def interval(self) -> float:
        """Seconds until the next look."""
        return TICK if self._period is None else min(TICK, self._period)

    def tell(self, report: Report, now: float, send: Callable[[str], bool]) -> None:
        """Send what is news. What could not be sent is news again at the next look.

        Args:
            now: monotonic seconds.
            send: takes a message and returns whether it was delivered.
        """
        is_leaving = report.is_stopping and not self._has_said_stopping
        has_changed = report.status != self._status
        # The next look may come late by as much as it takes to be too late.
        is_due = self._period is not None and now - self._fed >= self._period - self.interval / 2
        feeds = is_due and report.is_sound
        lines = ["STOPPING=1"] * is_leaving
        lines += [f"STATUS={report.status}"] * has_changed
        lines += ["WATCHDOG=1"] * feeds
        if lines and send("\n".join(lines)):
            self._status = report.status
            self._has_said_stopping |= is_leaving
            self._fed = now if feeds else self._fed


class Notifier:
    """Tells systemd, from the event loop and without ever waiting for it.

    Args:
        address: of NOTIFY_SOCKET; empty if there is nobody to tell.
        watchdog: see `Notices`.
        may_begin: a descriptor that shows its end when this process is the service's main one; it
            is this object's from now on. ``None``: it is already.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        address: str,
        watchdog: float | None = None,
        may_begin: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address = socket_name(address)
        self._notices = Notices(watchdog)
        self._may_begin = may_begin
        self._clock = clock
        self._report: Callable[[], Report] | None = None
        # Opened now: when descriptors run short it is too late, and the watchdog would not know.
        self._socket: socket.socket | None = None
        if address:
            with contextlib.suppress(OSError):
                self._socket = socket.socket(
                    socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK
                )

    async def run(self, report: Callable[[], Report]) -> None:
        """Tell what ``report`` returns, again and again, until cancelled or `resign` is called."""
        if self._socket is None:
            return
        await self._is_main()
        self._report = report
        while self._socket is not None:
            self.look()
            await anyio.sleep(self._notices.interval)

    def look(self) -> None:
        """Tell now what is news, if it is for this process to tell."""
        if self._report is not None and self._socket is not None:
            self._notices.tell(self._report(), self._clock(), self._send)

    def resign(self) -> None:
        """Say nothing from now on: another process is the service's main one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def close(self) -> None:
        """Free what is held."""
        self.resign()
        if self._may_begin is not None:
            os.close(self._may_begin)
            self._may_begin = None

    async def _is_main(self) -> None:
        if self._may_begin is not None:
            await anyio.wait_readable(self._may_begin)
            os.close(self._may_begin)
            self._may_begin = None

    def _send(self, message: str) -> bool:
        if self._socket is None:
            return False
        try:
            self._socket.sendto(message.encode(), self._address)
        except OSError:
            # Its queue is full, or it is starting again; there will be another look.
            return False
        return True
