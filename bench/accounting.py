"""The CPU time of a server with all that it has ever started: a control group of its own.

A server that forks for every transfer and lets the kernel reap its children (in.tftpd does) has no
trace of their CPU time in any process that is left. The kernel's account of a control group has it,
in microseconds, whoever has ended meanwhile.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from bench.process import BenchError

if TYPE_CHECKING:
    from types import TracebackType

_PLACES: Final = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
"""Where version 2 is, alone or beside version 1. It counts without any controller."""
_PATIENCE: Final = 5
"""Seconds in which the last processes leave a group that is to go."""


class CpuAccount:
    """A control group, while the block lasts. It takes root.

    Raises:
        BenchError: there is none to be had.
    """

    def __enter__(self) -> Self:
        root = next((place for place in _PLACES if (place / "cgroup.controllers").exists()), None)
        if root is None:
            raise BenchError("the CPU time of servers that fork takes a cgroup file system (v2)")
        self._group = root / f"bench-{uuid.uuid4().hex[:12]}"
        try:
            self._group.mkdir()
        except OSError as error:
            raise BenchError(
                "the CPU time of servers that fork takes a control group, as root:"
                f" {root} does not give one ({error.strerror})"
            ) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                self._group.rmdir()
                return
            time.sleep(0.02)

    def enter(self, pid: int) -> None:
        """Count this process from now on, with all that it starts."""
        (self._group / "cgroup.procs").write_text(str(pid))

    def seconds(self) -> float:
        """CPU time in user and kernel mode until now."""
        for line in (self._group / "cpu.stat").read_text().splitlines():
            name, value = line.split()
            if name == "usage_usec":
                return int(value) / 1e6
        raise BenchError("the control group says nothing about its CPU time")
