"""bootserve as a service of the machine: installed from the checkout, with something to serve."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.real.process import wait_until

from .client import Download, fetch

if TYPE_CHECKING:
    from collections.abc import Callable

    from .image import Image
    from .machine import Machine

UNIT = "bootserve.service"
SOCKET = "bootserve.socket"
SECRET = "/etc/bootserve/secrets/token"
CONFIG = "/etc/bootserve/bootserve.toml"
ASSETS = "/var/lib/bootserve"

SOURCE = "/root/bootserve"
_WHEELS = "/root/wheels"

# More than the pipe, curl and the kernel's buffers on both sides hold together: a client that
# reads nothing holds the server back.
LARGE = 128 << 20
SMALL = 3 << 20

_WARNING = 4

SECONDS = 60
INSTALL_SECONDS = 300


@dataclass
class Service:
    """What is installed in a machine."""

    machine: Machine
    config: str = ""
    """The configuration as it was installed."""
    files_before: frozenset[str] = frozenset()
    """What was there before anything was installed."""
    digests: dict[str, str] = field(default_factory=dict)

    # --- installing

    def bring_source(self, image: Image) -> None:
        """Copy the checkout and what it needs into the machine, which has no network."""
        self.machine.copy_checkout(SOURCE)
        shutil.copytree(image.wheels, self.machine.path(_WHEELS))
        self.files_before = self.machine.files()

    def edit_source(self, name: str, old: str, new: str) -> None:
        path = self.machine.path(f"{SOURCE}/{name}")
        text = path.read_text()
        assert old in text, name
        path.write_text(text.replace(old, new, 1))

    def make(self, target: str, *variables: str) -> str:
        return self.machine.run(
            *("env", "PIP_NO_INDEX=1", f"PIP_FIND_LINKS={_WHEELS}"),
            *("make", "-C", SOURCE, target, *variables),
            seconds=INSTALL_SECONDS,
        )

    def put(self, name: str, data: bytes) -> None:
        """Put a file below the asset root."""
        path = self.machine.path(f"{ASSETS}/{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self.digests[name] = hashlib.sha256(data).hexdigest()

    def configure(self, more: str) -> None:
        """Add to the configuration as it was installed."""
        self.machine.write(CONFIG, f"{self.config}\n{more}")

    def rest(self) -> None:
        """Back to the start: the configuration as it was installed, sockets, and no process."""
        self.machine.path(SECRET).unlink(missing_ok=True)
        self.machine.write(CONFIG, self.config)
        self.machine.run("systemctl", "stop", SOCKET, UNIT)
        self.machine.run("systemctl", "reset-failed")
        self.machine.run("systemctl", "start", SOCKET)

    # --- being its client

    def download(self, name: str) -> Download:
        return Download(self.machine, f"http://127.0.0.1/boot/{name}")

    def serves(self, name: str) -> bool:
        """Whether a file comes as it is."""
        return fetch(self.machine, f"http://127.0.0.1/boot/{name}") == self.digests[name]

    def serves_by_tftp(self, name: str) -> bool:
        return fetch(self.machine, f"tftp://127.0.0.1/{name}") == self.digests[name]

    # --- its process

    def main_pid(self) -> int:
        return int(self.machine.show(UNIT, "MainPID"))

    def restarts(self) -> int:
        """How often systemd has started it again by itself."""
        return int(self.state("NRestarts"))

    def reload_alone(self) -> None:
        """Let another process take over, and wait until it is the only one."""
        old = self.main_pid()
        self.machine.run("systemctl", "reload", UNIT)
        self.wait(lambda: not self.is_alive(old), "the end of the process that was replaced")

    def is_alive(self, pid: int) -> bool:
        """Whether a process of the machine is there, by its number in there."""
        return self.machine.try_to("test", "-d", f"/proc/{pid}").returncode == 0

    def listens(self, pid: int) -> bool:
        """Whether a process has a listening socket, its own or systemd's."""
        tables = self.machine.run("cat", "/proc/net/tcp", "/proc/net/tcp6")
        rows = [line.split() for line in tables.splitlines()]
        held = self.machine.run("ls", "-l", f"/proc/{pid}/fd")
        # Columns of proc_net_tcp(5): the state, of which 0A is LISTEN, and the inode.
        return any(f"socket:[{row[9]}]" in held for row in rows if row[3] == "0A")

    def state(self, name: str) -> str:
        """A property of the service, as in `systemctl show`."""
        return self.machine.show(UNIT, name)

    def wait_state(self, name: str, wanted: str, seconds: float = SECONDS) -> None:
        wait_until(lambda: self.state(name) == wanted, seconds, f"{name}={wanted} of {UNIT}")

    def wait(self, condition: Callable[[], bool], what: str, seconds: float = SECONDS) -> None:
        wait_until(condition, seconds, what)

    def wait_said(self, words: str, after: str) -> None:
        """Wait until it has said something since a cursor."""
        self.wait(lambda: words in self.said(after), f"{words!r} in the journal of {UNIT}")

    def said(self, after: str) -> str:
        """What its processes have said, and systemd of it, since a cursor."""
        return "\n".join(entry.message for entry in self.machine.journal(UNIT, after))

    def said_by_processes(self, after: str) -> list[list[str]]:
        """What each of its processes has said since a cursor, the oldest process first."""
        found: dict[int, list[str]] = {}
        for entry in self.machine.journal(UNIT, after):
            if not entry.is_systemds:
                found.setdefault(entry.pid, []).append(entry.message)
        return list(found.values())

    def complaints(self, after: str) -> list[str]:
        """What systemd itself has warned of since a cursor."""
        return [
            entry.message
            for entry in self.machine.journal(UNIT, after)
            if entry.is_systemds and entry.priority <= _WARNING
        ]
