"""A service manager as sd_notify(3) has it: a datagram socket, and who may say what on it.

It judges messages by the process id that the kernel puts on each, against the main process, which
is the first one until that one names another. Former ones may do that as well, and nothing else:
systemd would take more from them with NotifyAccess=all, but it would be wrong.
"""

from __future__ import annotations

import array
import contextlib
import socket
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.family import DEADLINE, Family, family

_UCRED = struct.Struct("=iII")

CONFIG = """
[http]
listen = ["127.0.0.1:0"]
[tftp]
listen = ["127.0.0.1:0"]
[service]
runtime_dir = "run"
"""

# As systemd does it between fork() and execve().
LAUNCHER = """
import os, sys
pid = str(os.getpid())
os.environ["SYSTEMD_EXEC_PID"] = pid
if sys.argv[1]:
    os.environ["NOTIFY_SOCKET"] = sys.argv[1]
if sys.argv[2]:
    os.environ.update(WATCHDOG_USEC=sys.argv[2], WATCHDOG_PID=pid)
os.execv(sys.argv[3], sys.argv[3:])
"""


@dataclass(frozen=True)
class Message:
    """One datagram: who sent it, and its assignments."""

    pid: int
    fields: dict[str, str]
    is_from_main: bool


@dataclass
class Manager:
    """Receives what the processes of one service say."""

    sock: socket.socket
    address: str
    main: int | None = None
    former: set[int] = field(default_factory=set)
    refused: list[Message] = field(default_factory=list)
    """What was not for its sender to say."""

    def receive(self) -> Message:
        """Wait for the next message."""
        data, control, _, _ = self.sock.recvmsg(4096, socket.CMSG_SPACE(_UCRED.size))
        [(_, _, credentials)] = control
        pid, _, _ = _UCRED.unpack(bytes(array.array("B", credentials)))
        if self.main is None:
            self.main = pid
        lines = data.decode().split("\n")
        assert all("=" in line for line in lines), lines
        fields = dict(line.split("=", 1) for line in lines)
        message = Message(pid, fields, pid == self.main)
        is_an_elders = pid in self.former and fields.keys() == {"MAINPID"}
        if not (message.is_from_main or is_an_elders):
            self.refused.append(message)
        elif "MAINPID" in fields:
            self.former.add(self.main)
            self.main = int(fields["MAINPID"])
        return message

    def wait_for(self, name: str, value: str = "", *, pid: int | None = None) -> Message:
        """Wait for a message that assigns this variable something that contains this value."""
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end:
            message = self.receive()
            if pid not in (None, message.pid):
                continue
            if name in message.fields and value in message.fields[name]:
                return message
        raise AssertionError(f"nobody said {name}={value}")

    def forget(self) -> None:
        """Throw away what waits."""
        self.sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                self.receive()
        self.sock.settimeout(DEADLINE)


@contextlib.contextmanager
def manager(address: str) -> Iterator[Manager]:
    """Listen at an address as NOTIFY_SOCKET has it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(DEADLINE)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        sock.bind(address.replace("@", "\0"))
        yield Manager(sock, address)


@contextlib.contextmanager
def service(
    folder: Path, notify_socket: str, watchdog: float | None = None, config: str = CONFIG
) -> Iterator[Family]:
    """Start a server as systemd does.

    Args:
        watchdog: WatchdogSec=, in seconds.
    """
    microseconds = "" if watchdog is None else str(int(watchdog * 1_000_000))
    launcher = (sys.executable, "-c", LAUNCHER, notify_socket, microseconds)
    with family(folder, config, launcher=launcher) as found:
        yield found
