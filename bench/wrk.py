"""Requests per second, by wrk, which is cheaper than any client in Python."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.peers import program
from bench.process import BenchError
from bench.site import HOST

if TYPE_CHECKING:
    from bench.peers import Server

CONNECTIONS = 32


@dataclass(frozen=True)
class Requests:
    """What wrk has counted, and what it cost the server."""

    per_second: float
    cpu_each: float
    """CPU time of the server per request, in microseconds."""
    busy: float
    """How much of its core the server used, from 0 to 1. Well below 1, wrk was the slower one, and
    the rate says less about the server than the CPU time."""
    bytes_each: float
    """Of an answer, with its header."""

    def figures(self, name: str) -> dict[str, float]:
        return {
            f"{name}_rate": self.per_second,
            f"{name}_cpu": self.cpu_each,
            f"{name}_busy": self.busy,
        }


def count(
    server: Server, path: str, seconds: int, *, found: bool = True, ranges: tuple[int, ...] = ()
) -> Requests:
    """Ask for one path over and over on 32 connections that stay open.

    Args:
        found: whether the answers must be 2xx, or must not.
        ranges: the size of the file, and of the ranges of it that are asked for.
    """
    command = [
        *(program("wrk", "wrk"), "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "10s"),
        *("-s", str(Path(__file__).with_name("wrk.lua")), f"http://{HOST}:{server.port}{path}"),
        *("--", *map(str, ranges)),
    ]
    before = server.tree.cpu_seconds()
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60)
    spent = server.tree.cpu_seconds() - before
    if done.returncode != 0:
        raise BenchError(f"wrk failed: {done.stderr.strip() or done.stdout.strip()}")
    seen = json.loads(done.stdout.strip().splitlines()[-1])
    requests = int(seen["requests"])
    wrong = seen["status"] if found else requests - seen["status"]
    if requests == 0 or wrong or seen["failed"]:
        raise BenchError(
            f"{server.peer.name} answered {path} wrongly: of {requests} requests {wrong} with"
            f" another status than expected, {seen['failed']} not at all"
        )
    return Requests(
        per_second=requests / seen["seconds"],
        cpu_each=spent / requests * 1e6,
        busy=spent / seen["seconds"],
        bytes_each=seen["bytes"] / requests,
    )
