"""A server as a process tree: started on its own core, looked at from outside, and ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

POLL = 0.02  # seconds
PATIENCE = 20  # seconds in which a server must answer, and in which it must end
OTHERS = 0.15
"""How much of the servers' core others may use: the kernel's own threads take some percent."""
SETTLE = 0.1
"""Seconds after a load in which a server comes to rest before its CPU time is read."""


class BenchError(Exception):
    """Something that the person who runs the benchmark has to know; the text is a sentence."""


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Return as soon as `condition` holds; fail when `seconds` have passed without it."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise BenchError(f"not within {seconds:g} s: {what}")
        time.sleep(POLL)


class Tree:
    """A process with its descendants, ended with the `with` block."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        log: Path,
        core: int,
        environment: Mapping[str, str],
        entering: Callable[[int], None] | None = None,
    ) -> None:
        """Start it.

        Args:
            log: the file that takes its standard output and error.
            core: the only one it may run on, with everything that it starts.
            entering: called in the new process with its id, before the program runs.
        """
        self._log = log

        def prepare() -> None:
            os.sched_setaffinity(0, {core})
            if entering:
                entering(os.getpid())

        with log.open("wb") as output:
            self._popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                preexec_fn=prepare,  # this program has no threads
                # Ctrl-C is for us; and what a server starts can be ended as one group.
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._popen.terminate()
            self._popen.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            pass
        finally:
            # Its children too, also those of a process that has ended without them.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._popen.pid, signal.SIGKILL)
            self._popen.wait()

    def must_run(self) -> None:
        """Raise an error with the end of its log if it has ended."""
        if self._popen.poll() is not None:
            text = self._log.read_text(errors="replace").strip().splitlines()
            raise BenchError("\n".join(["the server has ended:", *text[-10:]]))

    def cpu_seconds(self) -> float:
        """CPU time of all its threads, past ones included, in user and kernel mode.

        The kernel's clock of each process, in nanoseconds. It counts what the network stack does
        in the process's name, as utime and stime do, but not in ticks of 10 ms.
        """
        total = 0
        for pid in self._pids():
            with contextlib.suppress(OSError):
                total += time.clock_gettime_ns(_cpu_clock(pid))
        return total / 1e9

    def anonymous_bytes(self) -> int:
        """Resident memory of its own: heap and stacks, without files and shared pages."""
        total = 0
        for pid in self._pids():
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                    if line.startswith("RssAnon:"):
                        total += int(line.split()[1]) * 1024
        return total

    def _pids(self) -> list[int]:
        found = [self._popen.pid]
        for pid in found:  # grows while it is walked
            with contextlib.suppress(OSError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    found += [int(word) for word in (task / "children").read_text().split()]
        return found


def busy_seconds(core: int) -> float:
    """For how long a core has done anything at all since the machine started, in ticks of 10 ms."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, *words = line.split()
        if name == f"cpu{core}":
            user, nice, system, _idle, _wait, irq, softirq, steal = map(int, words[:8])
            ticks = user + nice + system + irq + softirq + steal
            return ticks / os.sysconf("SC_CLK_TCK")
    raise BenchError(f"/proc/stat says nothing about core {core}")


def _cpu_clock(pid: int) -> int:
    """What clock_getcpuclockid(3) returns."""
    return (~pid << 3) | 2  # CPUCLOCK_SCHED, linux/posix-timers_types.h
