"""A Debian machine with a systemd of its own, as a container: systemd-nspawn boots it in a second.

It has its own processes, network (nothing but a loopback device) and files; the kernel is the
host's. Commands are run in it by joining its namespaces, so it needs neither a console nor a
network to be reached.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests import needs
from tests.real.process import Process, wait_until

from .image import CHECKOUT, Image

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

BOOT_SECONDS = 60
COMMAND_SECONDS = 60
LINES = 60

_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    # systemctl draws dots and waits for keys for a person.
    "SYSTEMD_PAGER": "cat",
    "TERM": "dumb",
}

# What the others of a checkout have made, or keep in it.
_NOT_COPIED = shutil.ignore_patterns(
    *(".git", ".venv", ".cache", ".*_cache", ".hypothesis", "__pycache__", "*.egg-info", "dist")
)


class CommandFailed(AssertionError):
    """A command in the machine ended with another status than it should."""


@dataclass(frozen=True)
class Entry:
    """An entry of the journal, see systemd.journal-fields(7)."""

    pid: int
    unit: str
    """Whose process has said it, or which one it is that systemd speaks of."""

    priority: int
    message: str

    @property
    def is_systemds(self) -> bool:
        return self.pid == 1

    @classmethod
    def of(cls, fields: dict[str, str]) -> Entry:
        pid = int(fields.get("_PID", "0"))
        unit = fields.get("UNIT" if pid == 1 else "_SYSTEMD_UNIT", "")
        return cls(pid, unit, int(fields.get("PRIORITY", "6")), str(fields.get("MESSAGE", "")))


class Machine(Process):
    """A running machine; `root` is where its files are seen from outside."""

    def __init__(self, image: Image, directory: Path) -> None:
        self.root = directory / "root"
        self.root.mkdir(mode=0o755)
        subprocess.run(
            [needs.program("tar", "tar"), "-C", self.root, "-xf", image.system, "--numeric-owner"],
            check=True,
        )
        self.hostname = f"bootserve-test-{secrets.token_hex(4)}"
        self._notices = _Notices(directory / "notify")
        self._leader = 0
        command: list[str | Path] = [
            # A test run that is killed does not leave a machine behind.
            *(needs.program("setpriv", "util-linux"), "--pdeathsig", "TERM", "--"),
            *("env", f"NOTIFY_SOCKET={self._notices.path}"),
            needs.program("systemd-nspawn", "systemd-container"),
            *("--directory", self.root, "--machine", self.hostname, "--boot"),
            *("--private-network", "--console=pipe", "--notify-ready=yes"),
            # Nothing of the host's is to be seen in there, and nothing of it in the host.
            *("--register=no", "--link-journal=no", "--resolv-conf=off", "--timezone=off"),
        ]
        if not Path("/run/systemd/system").is_dir():
            # Nobody on this host could be asked for a scope.
            command.append("--keep-unit")
        super().__init__("machine", command, directory)

    def __enter__(self) -> Self:
        try:
            with self.shown_on_failure():
                wait_until(self._has_booted, BOOT_SECONDS, "a machine that has booted")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        # Nobody reads it any more, and a machine's systemd waits for whoever does not.
        self._notices.close()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        self._notices.close()
        for path in (self.root, Path("/run/systemd/nspawn/propagate") / self.hostname):
            shutil.rmtree(path, ignore_errors=True)

    def stop(self, seconds: float = 20) -> int:
        # nspawn lets the machine shut down at the first SIGTERM, and kills it at its own end.
        status = super().stop(seconds)
        if self._leader:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._leader, signal.SIGKILL)
        return status

    def _has_booted(self) -> bool:
        if not self.running:
            raise CommandFailed(f"systemd-nspawn ended with {self._popen.returncode}")
        said = self._notices.read()
        if leader := said.get("X_NSPAWN_LEADER_PID"):
            self._leader = int(leader)
        return said.get("READY") == "1" and self._leader != 0

    # --- commands in it

    def _inside(self, command: Sequence[str]) -> list[str]:
        return [
            *(needs.program("nsenter", "util-linux"), f"--target={self._leader}"),
            *("--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd", "--"),
            *command,
        ]

    def try_to(
        self, *command: str, seconds: float = COMMAND_SECONDS
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as root, whatever its exit status will be."""
        return subprocess.run(
            self._inside(command),
            env=_ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )

    def run(self, *command: str, seconds: float = COMMAND_SECONDS) -> str:
        """Run a command as root that must succeed; what it printed."""
        done = self.try_to(*command, seconds=seconds)
        if done.returncode:
            raise CommandFailed(
                f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
            )
        return done.stdout

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        """Start a command whose output is read from pipes; the caller ends it."""
        return subprocess.Popen(
            self._inside(command),
            env=_ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    @contextlib.contextmanager
    def running_command(self, *command: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a command, which must succeed, for as long as the block lasts."""
        with self.start(*command) as process:
            try:
                yield process
                printed, complained = process.communicate(timeout=COMMAND_SECONDS)
            finally:
                process.terminate()
        if process.returncode:
            raise CommandFailed(
                f"{' '.join(command)} ended with {process.returncode}:\n"
                f"{printed.decode(errors='replace')}{complained.decode(errors='replace')}"
            )

    def network(self) -> list[str]:
        """What a program of the host's is started with to run in the machine's network."""
        return [
            *(needs.program("nsenter", "util-linux"), f"--target={self._leader}", "--net", "--")
        ]

    # --- what systemd says

    def show(self, unit: str, name: str) -> str:
        """A property of a unit, as in `systemctl show`."""
        return self.run("systemctl", "show", "--value", f"--property={name}", unit).strip()

    def cursor(self) -> str:
        """Where the journal ends now."""
        # Everything that was said before is to be in it.
        self.run("journalctl", "--sync")
        text = self.run("journalctl", "--no-pager", "--quiet", "-n", "1", "--show-cursor")
        return text.rpartition("-- cursor: ")[2].strip()

    def journal(self, unit: str, after: str) -> list[Entry]:
        """What a unit's processes have said since a cursor, and systemd of it, the oldest first."""
        self.run("journalctl", "--sync")
        # The choice is made here: journalctl would leave out the first of the chosen, where the
        # entry at the cursor is none of them.
        text = self.run(
            "journalctl", "--no-pager", "--quiet", "--all", "-o", "json", f"--after-cursor={after}"
        )
        found = (Entry.of(json.loads(line)) for line in text.splitlines())
        return [entry for entry in found if entry.unit == unit]

    def evidence_of(self, *units: str) -> str:
        """What to look at when a test has failed."""
        status = self.try_to("systemctl", "status", "--no-pager", "--full", "-n", "0", *units)
        journal = self.try_to("journalctl", "--no-pager", "--quiet", "-n", str(LINES))
        return f"--- systemctl status:\n{status.stdout}\n--- the journal's end:\n{journal.stdout}"

    # --- files in it

    def path(self, name: str) -> Path:
        """A file of the machine, seen from outside. Not for what lies below /run or /tmp."""
        return self.root / name.lstrip("/")

    def write(self, name: str, text: str) -> None:
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def write_secret(self, name: str, text: str) -> None:
        """Write a file that root alone can read, in a folder that is there."""
        path = self.path(name)
        path.touch(mode=0o600)
        path.write_text(text)

    def files(self) -> frozenset[str]:
        """Everything in its file system that lives longer than a boot, but for the journal."""
        text = self.run("find", "/", "-xdev", "-path", "/var/log/journal", "-prune", "-o", "-print")
        return frozenset(text.splitlines())

    def copy_checkout(self, name: str) -> None:
        """Copy the checkout that these tests are part of, without what was made in it."""
        shutil.copytree(CHECKOUT, self.path(name), ignore=_NOT_COPIED, symlinks=True)


class _Notices:
    """What systemd-nspawn says of a machine by sd_notify(3)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(str(path))
        self._said: dict[str, str] = {}

    def read(self) -> dict[str, str]:
        """Everything that was said so far, of each variable the last value."""
        with contextlib.suppress(BlockingIOError):
            while text := self._socket.recv(4096).decode():
                for line in text.splitlines():
                    name, _, value = line.partition("=")
                    self._said[name] = value
        return self._said

    def close(self) -> None:
        self._socket.close()
        self.path.unlink(missing_ok=True)
