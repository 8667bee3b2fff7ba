"""A real systemd-journald of a test's own, in a mount namespace, and what it has understood."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.family import DEADLINE, wait_until
from tests.needs import file, program

# Nothing of this host's: neither the kernel's log, nor audit, nor a limit by its configuration.
_CONFIGURATION = """
[Journal]
Storage=volatile
ReadKMsg=no
Audit=
RateLimitIntervalSec=0
ForwardToSyslog=no
ForwardToKMsg=no
ForwardToConsole=no
ForwardToWall=no
"""

_START = """
set -e
mount --bind "$1" /run
mount --bind "$1/machine-id" /etc/machine-id
exec "$2"
"""

Record = dict[str, bytes]


@dataclass(frozen=True)
class Journald:
    """``run`` is what it takes for /run."""

    process: subprocess.Popen[bytes]
    run: Path
    journalctl: str

    @property
    def path(self) -> Path:
        return self.run / "systemd/journal/socket"

    @property
    def inside(self) -> list[str]:
        """A command line that starts another one where this is the host's journald."""
        namespace = f"--mount=/proc/{self.process.pid}/ns/mnt"
        return [program("nsenter", "util-linux"), namespace, "--"]

    def records(self, *matches: str) -> list[Record]:
        """What it has stored, in its order; ``matches`` as journalctl takes them."""
        done = subprocess.run(
            [
                *(self.journalctl, "--directory", str(self.run / "log/journal")),
                *("--quiet", "--all", "--output=json", *matches),
            ],
            capture_output=True,
            timeout=DEADLINE,
            check=True,
        )
        return [
            {name: _bytes(value) for name, value in json.loads(line).items()}
            for line in done.stdout.splitlines()
        ]

    def wait_for(self, number: int, *matches: str) -> list[Record]:
        """The same, when there are so many."""
        wait_until(lambda: len(self.records(*matches)) >= number)
        return self.records(*matches)

    def stream(self) -> socket.socket:
        """What systemd makes a service's standard error (sd_journal_stream_fd(3))."""
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        stream.connect(str(self.run / "systemd/journal/stdout"))
        # Identifier, unit, priority, whether there are prefixes of levels, where else to.
        stream.sendall(b"bootserve\n\n6\n1\n0\n0\n0\n")
        return stream


def _bytes(value: Any) -> bytes:
    """Read a value as journalctl writes it: what is no text is a list of bytes."""
    return value.encode() if isinstance(value, str) else bytes(value)


@contextlib.contextmanager
def journald() -> Iterator[Journald]:
    """Start one; it needs root."""
    if os.geteuid() != 0:
        pytest.skip("a journald of its own needs root: run the tests as root")
    journalctl = program("journalctl", "systemd")
    daemon = file("/lib/systemd/systemd-journald", "systemd")
    file("/etc/machine-id", "systemd")
    unshare = program("unshare", "util-linux")
    # The path of a socket has 107 characters at most.
    run = Path(tempfile.mkdtemp(prefix="journald-"))
    try:
        run.chmod(0o755)
        (run / "machine-id").write_text(os.urandom(16).hex() + "\n")
        (run / "systemd/journald.conf.d").mkdir(parents=True)
        (run / "systemd/journald.conf.d/test.conf").write_text(_CONFIGURATION)
        (run / "log/journal").mkdir(parents=True)
        process = subprocess.Popen(
            [unshare, "--mount", "sh", "-c", _START, "sh", str(run), str(daemon)],
            stdin=subprocess.DEVNULL,
        )
        started = Journald(process, run, journalctl)
        try:
            wait_until(lambda: started.path.is_socket() or process.poll() is not None)
            assert process.poll() is None, "journald has ended"
            yield started
        finally:
            process.kill()
            process.wait()
    finally:
        shutil.rmtree(run)
