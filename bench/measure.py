"""The measurements. Each starts a server afresh: none finds what another has left behind."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import random
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import wrk
from bench.disk import SlowDisk, evict
from bench.load import BEHIND, Fleet, download, fetch
from bench.peers import BOOTSERVE, NGINX, Peer, Server, running
from bench.probe import probing
from bench.process import OTHERS, SETTLE, BenchError, busy_seconds
from bench.site import GIGABYTE, MISSING, Site

Figures = dict[str, float]
RANGE: Final = 65536


@dataclass(frozen=True)
class Crowd:
    """Slow clients."""

    count: int
    rate: float
    """Bytes per second of each."""
    tick: float
    """Seconds between two reads of one: the load generator cannot visit 10,000 as often as 2000."""
    buffer: int
    """SO_RCVBUF of each, in bytes; the kernel doubles it for its own needs."""
    arrival: float
    """Seconds over which they arrive."""
    steady: float
    """Seconds of the steady state, in which newcomers are timed."""
    patience: float
    """Seconds that the last of them get to end after it."""


@dataclass(frozen=True)
class Scale:
    """How much is measured; durations in seconds."""

    rounds: int
    connections: int
    cpu: float
    slow: Crowd
    many: Crowd
    requests: int
    """Whole seconds: wrk takes no others."""
    throttle: int
    """Bytes per second of the slow disk."""


@dataclass
class Bench:
    """Where and how it is measured."""

    site: Site
    directory: Path
    """For the servers' own files."""
    core: int
    """The servers'; this program runs on the others."""
    scale: Scale
    disk: SlowDisk | None
    notes: list[str]
    """Sentences for the report, about what was out of the ordinary."""
    turn: int = 0
    """The round."""

    def note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)
            print(f"  note: {sentence}", flush=True)

    @contextlib.contextmanager
    def _serving(
        self,
        name: str,
        peer: Peer,
        site: Site | None = None,
        entering: Callable[[int], None] | None = None,
    ) -> Iterator[Server]:
        """Run a server while the block runs, and see that it has its core to itself."""
        with running(peer, site or self.site, self.directory, self.core, entering) as server:
            busy, began = busy_seconds(self.core), time.monotonic()
            spent = server.tree.cpu_seconds()
            yield server
            took = time.monotonic() - began
            alien = busy_seconds(self.core) - busy - (server.tree.cpu_seconds() - spent)
        if alien > OTHERS * took:
            self.note(
                f"round {self.turn}: something else took {alien / took:.0%} of the servers' core"
                f" during {name} of {peer.name}; do not trust it"
            )

    def verify(self, peer: Peer) -> None:
        """See that a server sends the right bytes; not measured."""
        size = self.site.sizes.middle
        with running(peer, self.site, self.directory, self.core) as server:
            digest = hashlib.sha256(server.fetch("/boot/middle")).hexdigest()
            if digest != self.site.sample:
                raise BenchError(f"{peer.name} sends other bytes than those in the file")
            first = random.Random(1).randrange(size - RANGE)  # noqa: S311
            part = server.fetch("/boot/middle", f"Range: bytes={first}-{first + RANGE - 1}")
            with (self.site.files / "middle").open("rb") as file:
                file.seek(first)
                if part != file.read(RANGE):
                    raise BenchError(f"{peer.name} sends another range than the one asked for")
            status, _ = fetch(server.port, f"/boot/{MISSING}")
            if status != 404:
                raise BenchError(f"{peer.name} answers {status} for a file which is not there")

    def cpu(self, peer: Peer) -> Figures:
        """CPU time and throughput of a few fast downloads from the page cache."""
        figures: Figures = {}
        with self._serving("cpu", peer) as server:
            for name in ("middle", "large"):
                before, began = server.tree.cpu_seconds(), time.monotonic()
                path = f"/boot/{name}"
                total = download(server.port, path, self.scale.connections, self.scale.cpu)
                took = time.monotonic() - began
                time.sleep(SETTLE)
                spent = server.tree.cpu_seconds() - before
                figures[f"cpu_{name}"] = spent / (total / GIGABYTE)
                figures[f"throughput_{name}"] = total / GIGABYTE / took
        return figures

    def slow(self, peer: Peer) -> Figures:
        return self._crowd(peer, "slow", self.scale.slow)

    def many(self, peer: Peer) -> Figures:
        return self._crowd(peer, "many", self.scale.many)

    def _crowd(self, peer: Peer, name: str, crowd: Crowd) -> Figures:
        """Slow clients until each has its file; meanwhile newcomers, and the server's memory."""
        path = f"/boot/{name}"
        with (
            self._serving(name, peer) as server,
            contextlib.closing(
                Fleet(server.port, path, crowd.rate, crowd.tick, crowd.buffer)
            ) as fleet,
            _without_collection(),
        ):
            server.fetch(path)
            time.sleep(SETTLE)
            idle = server.tree.anonymous_bytes()
            fleet.start(crowd.count, crowd.arrival)
            with probing(server.port, path) as waits:
                fleet.run(crowd.steady)
            present = fleet.in_flight
            memory = server.tree.anonymous_bytes() - idle
            unfinished = fleet.finish(crowd.patience)
        if waits.priority == "ordinary":
            self.note("the prober had no priority: its waits include those for the load's core")
        if fleet.worst_lateness > BEHIND * crowd.tick:
            self.note(
                f"round {self.turn}: the load generator fell behind by"
                f" {fleet.worst_lateness:.1f} s during {name} of {peer.name}; do not trust it"
            )
        return {
            "cuts": fleet.cut,
            "unfinished": unfinished,
            "in_flight": present,
            "memory": memory / max(1, present) / 1000,
            "duration": statistics.median(fleet.durations or [float("nan")]),
            "lateness": fleet.worst_lateness * 1000,
            **waits.figures(),
        }

    def script(self, peer: Peer) -> Figures:
        """Requests for a boot script, and for nothing."""
        with self._serving("script", peer) as server:
            figures = wrk.count(server, peer.script, self.scale.requests).figures("script")
            if peer in (NGINX, BOOTSERVE):
                missing = f"/boot/{MISSING}"
                answers = wrk.count(server, missing, self.scale.requests, found=False)
                figures |= answers.figures("missing")
        return figures

    def ranges(self, peer: Peer) -> Figures:
        """Requests for 64 KiB at varying places of a file in the page cache."""
        with self._serving("ranges", peer) as server:
            answers = wrk.count(
                server,
                "/boot/middle",
                self.scale.requests,
                ranges=(self.site.sizes.middle, RANGE),
            )
        if not RANGE < answers.bytes_each < RANGE + 2000:
            raise BenchError(f"{peer.name} answered ranges with {answers.bytes_each:.0f} bytes")
        return answers.figures("range")

    def cold(self, peer: Peer) -> Figures:
        """A download from a slow disk, and what those wait who ask for a script meanwhile."""
        if self.disk is None:
            raise BenchError("there is no slow disk")
        site = Site(self.disk.root / "site", self.site.sizes)
        if not site.root.exists():
            site.make("middle")
            shutil.copy(self.site.script, site.script)
        with self._serving("cold", peer, site, self.disk.enter) as server:
            evict(site.files / "middle")
            with probing(server.port, peer.script) as waits:
                began = time.monotonic()
                total = download(server.port, "/boot/middle", 1, 0)
                took = time.monotonic() - began
        return {"cold_rate": total / 1e6 / took, **waits.figures()}

    def measurement(self, name: str) -> Callable[[Peer], Figures]:
        return {
            "cpu": self.cpu,
            "slow": self.slow,
            "many": self.many,
            "script": self.script,
            "ranges": self.ranges,
            "cold": self.cold,
        }[name]


MEASUREMENTS: Final = ("cpu", "slow", "many", "script", "ranges", "cold")


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """No pauses of our own garbage collection in the block."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
