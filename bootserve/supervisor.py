"""Whoever waits for the end of this process, and would take it for the server's.

An upgrade ends the process that a service manager or a container has started. A systemd service of
``Type=notify`` can be told of the new one (sd_notify(3)); others end with their main process, and
a container ends with its PID 1, or with the only child of an init that is made for containers.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bootserve.notify import WATCHDOG_PID, socket_name, watchdog_time
from bootserve.successor import MAIN_VARIABLE
from bootserve.text import as_word

EXEC_PID: Final = "SYSTEMD_EXEC_PID"
"""Names the process that systemd has started (systemd.exec(5)); `bootserve._launch` keeps it up.
systemd before 248 does not set it, but the watchdog's variable, which says the same."""

_INITS: Final = frozenset(("tini", "docker-init", "dumb-init", "catatonit"))
"""What PID 1 is called (proc_pid_comm(5)) if it is known to end with the child that it has started.
Of others nothing is known: whatever starts servers may be PID 1, and it adopts orphans."""

_PATIENCE: Final = 1.0
"""Seconds for the service manager to take a message."""


@dataclass(frozen=True, slots=True)
class Supervisor:
    """Who has started this server; to be looked at before a parent may have ended.

    Args:
        init: what PID 1 is called, if it has started this process itself.
        has_started_us: whether systemd says that this is its service's main process.
        notify_socket: where sd_notify(3) messages go, or empty.
        watchdog: seconds after which systemd ends this process if it hears nothing, if it does.
    """

    pid: int
    init: str = ""
    has_started_us: bool = False
    notify_socket: str = ""
    watchdog: float | None = None

    @classmethod
    def of_this_process(
        cls, *, has_predecessor: bool, environ: Mapping[str, str] = os.environ
    ) -> Supervisor:
        # A successor's parent ends, and then it is PID 1's child, but nothing depends on it.
        is_child_of_init = os.getppid() == 1 and not has_predecessor
        pid = os.getpid()
        return cls(
            pid,
            _name_of_init() if is_child_of_init else "",
            str(pid) in (environ.get(EXEC_PID), environ.get(WATCHDOG_PID)),
            environ.get("NOTIFY_SOCKET", ""),
            watchdog_time(environ, pid),
        )

    def repeats(self, number: int) -> bool:
        """Whether this signal may come again without anybody's impatience.

        systemd sends SIGTERM to every process of a service that stops, and once more to those that
        are left when the main one has gone (systemd.kill(5)): older ones, which still drain.
        """
        return self.has_started_us and number == signal.SIGTERM

    @property
    def what_cuts(self) -> str:
        """What a person has to do, after the first signal, for transfers to be cut off."""
        return "SIGINT" if self.has_started_us else "a second signal"

    def why_not(self) -> str | None:
        """Why this process must not leave to another one; ``None`` if it may."""
        if self.pid == 1:
            return (
                "as PID 1 of a container this process cannot leave without ending the container;"
                " start a new container instead"
            )
        if self.has_started_us and not self.notify_socket:
            return (
                "as the main process of a systemd service this process cannot leave without ending"
                " the service; set Type=notify in the unit, so that systemd follows, or restart it"
            )
        if self.init in _INITS:
            return (
                f"PID 1, {as_word(self.init)}, has started this process and ends the container when"
                " it leaves; start a new container instead"
            )
        return None

    def tell_ready(self) -> None:
        """Say that the service is up; raises OSError."""
        if self.notify_socket:
            _notify(self.notify_socket, "READY=1")

    @contextlib.contextmanager
    def succession(self) -> Iterator[dict[str, int]]:
        """Hold a successor's tongue until `tell_successor` has been called; raises OSError.

        Returns what is to be handed over to it: descriptors by the variables that tell of them.
        """
        if not self.notify_socket:
            yield {}
            return
        reading, writing = os.pipe()
        try:
            yield {MAIN_VARIABLE: reading}
        finally:
            os.close(reading)
            os.close(writing)

    def tell_successor(self, pid: int) -> None:
        """Say which process is the service's from now on; raises OSError."""
        if self.has_started_us:
            _notify(self.notify_socket, f"MAINPID={pid}")


def _name_of_init() -> str:
    try:
        return Path("/proc/1/comm").read_text().strip()
    except OSError:
        return "init"


def _notify(address: str, message: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(_PATIENCE)
        sock.connect(socket_name(address))
        sock.sendall(message.encode())
