"""A newcomer, over and over: how long until the first byte?

Run as a program of its own (`python -m bench.probe ADDRESS PORT PATH INTERVAL`), so that it can
have a priority of its own: it is to measure the server, not the scheduling of the load generator
on the same core. It probes from the line "go" on its standard input until that is closed, and then
prints what it has seen as JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import math
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench.load import new_socket, request
from bench.site import HOST

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

INTERVAL: Final = 0.01
"""Seconds from the start of one probe to that of the next, if the server answers in time."""

TIMEOUT: Final = 10.0
"""Seconds after which a newcomer goes away; such a probe counts as failed, and as this long."""


class Waits:
    """What a prober has seen: seconds from the call of connect() to the first byte of a body."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.failed = 0
        self.priority = ""

    def milliseconds(self, share: float) -> float:
        """The wait that `share` of the newcomers (0 to 1) did not exceed.

        While a probe waits, no other is sent; those who would have come every INTERVAL meanwhile
        are counted with what was left of its wait. Else a server that stands still for a second
        would look good, because only one probe saw it.
        """
        ordered = sorted(
            wait - late * INTERVAL
            for wait in self.seconds
            for late in range(1 + int(wait / INTERVAL))
        )
        if not ordered:
            return math.nan
        return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)] * 1000

    def figures(self) -> dict[str, float]:
        return {
            "ttfb_p50": self.milliseconds(0.5),
            "ttfb_p99": self.milliseconds(0.99),
            "ttfb_max": self.milliseconds(1),
            "probes": len(self.seconds),
            "probes_failed": self.failed,
        }


@contextlib.contextmanager
def probing(port: int, path: str) -> Iterator[Waits]:
    """Probe a server while the block runs; the result is complete behind it."""
    waits = Waits()
    command = [sys.executable, "-m", "bench.probe", HOST, str(port), path, str(INTERVAL)]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdin
            assert process.stdout
            waits.priority = process.stdout.readline().strip()
            process.stdin.write("go\n")
            process.stdin.flush()
            yield waits
            output, _ = process.communicate(timeout=TIMEOUT * 2)
        finally:
            process.kill()
    seen = json.loads(output)
    waits.seconds, waits.failed = seen["seconds"], seen["failed"]


def first_byte(address: str, port: int, asked: bytes) -> float:
    """Seconds from the call of connect() to the first byte of the answer's body."""
    with new_socket() as peer:
        peer.settimeout(TIMEOUT)
        began = time.perf_counter()
        peer.connect((address, port))
        peer.sendall(asked)
        seen = b""
        while True:
            data = peer.recv(4096)
            if not data:
                raise ConnectionResetError("closed before the first byte")
            seen += data
            head, blank, body = seen.partition(b"\r\n\r\n")
            if blank and body:
                break
        wait = time.perf_counter() - began
    if head.split(b" ", 2)[1] != b"200":
        raise ConnectionError(head.split(b"\r\n")[0].decode())
    return wait


def hurry() -> str:
    """Take the highest priority that is permitted; what it is."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
        return "real-time"
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, -20)
        return "nice -20"
    return "ordinary"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("interval", type=float)
    given = parser.parse_args(arguments)
    asked = request(given.path)
    print(hurry(), flush=True)
    sys.stdin.readline()
    gc.disable()
    seconds: list[float] = []
    failed = 0
    due = time.monotonic()
    # The standard input becomes readable when its other end is closed.
    while not select.select([sys.stdin], [], [], max(0, due - time.monotonic()))[0]:
        due = max(due + given.interval, time.monotonic())
        try:
            seconds.append(first_byte(given.address, given.port, asked))
        except OSError:
            failed += 1
            seconds.append(TIMEOUT)
    json.dump({"seconds": seconds, "failed": failed}, sys.stdout)


if __name__ == "__main__":
    main()
