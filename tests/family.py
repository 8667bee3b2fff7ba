"""A server together with the processes that replace it, and how to end them all.

Successors are no children of the test: the whole family has a session of its own, which is killed.
Its output goes to files, because a successor would hold a pipe open.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

DEADLINE = 60


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    """Whether a process lives; one that waits to be reaped does not."""
    try:
        state = _stat(pid)[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def parent(pid: int) -> int:
    return int(_stat(pid)[1])


def _stat(pid: int) -> list[str]:
    """The fields of proc_pid_stat(5) from the state on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def descriptors(pid: int) -> list[str]:
    """What kinds of descriptors a process has open."""
    kinds = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            kinds.append(re.sub(r"\[.*", "", os.readlink(entry)))
    return sorted(kinds)


def upgrade(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run ``bootserve upgrade`` for servers whose runtime directory is ``run`` in ``folder``."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "bootserve", "upgrade"),
            *("--runtime-dir", str(folder / "run"), *args),
        ],
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE,
        check=False,
    )


@dataclass
class Family:
    """``process`` is the first one; the others are known by their numbers."""

    process: subprocess.Popen[bytes]
    folder: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def banner(self) -> str:
        return (self.folder / "stdout").read_text()

    def log(self) -> str:
        return (self.folder / "stderr").read_text()

    def wait_for_log(self, words: str) -> None:
        wait_until(lambda: words in self.log())

    def ports(self) -> tuple[int, int]:
        """HTTP's and TFTP's first ports on 127.0.0.1, as the last banner says."""
        banner = self.banner().rpartition("\nbootserve 0.")[2]
        http = re.findall(r"^HTTP .*?http://127\.0\.0\.1:(\d+)", banner, re.MULTILINE)
        tftp = re.findall(r"^TFTP .*?tftp://127\.0\.0\.1:(\d+)", banner, re.MULTILINE)
        return int(http[0]), int(tftp[0])

    def upgrade(self, *args: str) -> subprocess.CompletedProcess[str]:
        return upgrade(self.folder, *args)

    def replace(self) -> int:
        """Upgrade, which must succeed, and return the new process's number."""
        done = self.upgrade()
        assert done.returncode == 0, (done, self.log())
        found = re.fullmatch(r"pid (\d+) has taken over from pid \d+\n", done.stdout)
        assert found, done
        return int(found[1])

    def hang_up(self, pid: int | None = None) -> None:
        os.kill(pid or self.pid, signal.SIGHUP)

    def successor(self) -> int:
        """The child of the first process, if it has just one."""
        threads = Path(f"/proc/{self.pid}/task").iterdir()
        [pid] = [pid for thread in threads for pid in (thread / "children").read_text().split()]
        return int(pid)

    def leave(self) -> int:
        """Wait until the first process has ended, and return its exit status."""
        return self.process.wait(DEADLINE)


@contextlib.contextmanager
def family(
    folder: Path,
    config: str,
    *args: str,
    launcher: Sequence[str] = (),
    pass_fds: Sequence[int] = (),
    is_ready: bool = True,
) -> Iterator[Family]:
    """Start ``bootserve serve`` with a configuration file in ``folder``.

    Args:
        launcher: a command line that becomes the one behind it.
    """
    (folder / "bootserve.toml").write_text(config)
    with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
        process = subprocess.Popen(
            [
                *(*launcher, sys.executable, "-m", "bootserve", "serve"),
                *("--config", str(folder / "bootserve.toml"), *args),
            ],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            pass_fds=pass_fds,
            start_new_session=True,
        )
    found = Family(process, folder)
    try:
        if is_ready:
            wait_until(lambda: "is ready" in found.banner() or process.poll() is not None)
            assert process.poll() is None, found.log()
        yield found
    finally:
        # Nobody else can have got the number meanwhile: its first process is ours to reap.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
