"""The measurements. Each starts a server afresh: none finds what another has left behind."""

from __future__ import annotations

import contextlib
import hashlib
import math
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.distance import Distance
from bench.process import SETTLE, BenchError, busy_seconds
from bench.site import GIGABYTE, MEGABYTE, write_file
from bench.tftp import load
from bench.tftp.load import HERE, Where
from bench.tftp.order import Order, Outcome
from bench.tftp.peers import READY, READY_SIZE, Peer, running

Figures = dict[str, float]
BUSY: Final = 0.9
"""Use of the clients' core above which it may be them who are measured."""
DELAY: Final = 1e-3
RATE: Final = 125e6
"""Of the line between two hosts: seconds one way, and bytes per second."""
REPETITIONS: Final = 10
"""How often a rack of clients comes for the measurement of memory."""
_LOOK: Final = 0.1
"""Seconds between two looks at a server's memory."""
LARGEST_WINDOW: Final = 64
LOCKSTEP: Final = 1


@dataclass(frozen=True)
class Case:
    """Some clients, and what they ask for."""

    kind: str
    clients: int
    blksize: int
    windowsize: int

    @property
    def name(self) -> str:
        """What its samples are filed under."""
        return f"{self.kind} {self.clients} {self.blksize} {self.windowsize}"


WINDOWS: Final = (LOCKSTEP, 4, 16, 44, LARGEST_WINDOW)
SINGLE: Final = (
    *(Case("single", 1, blksize, LOCKSTEP) for blksize in (512, 1432)),
    *(Case("single", 1, 1468, windowsize) for windowsize in WINDOWS),
)
# What iPXE asks for, and what UEFI might.
CROWD: Final = (
    *(Case("crowd", clients, 1432, LOCKSTEP) for clients in (50, 200)),
    *(Case("crowd", clients, 1468, 16) for clients in (50, 200)),
    *(Case("crowd", 200, 1468, windowsize) for windowsize in (44, LARGEST_WINDOW)),
)
FAR: Final = tuple(Case("far", 1, 1468, windowsize) for windowsize in WINDOWS)
MEMORY: Final = Case("memory", 200, 1468, 16)
CASES: Final = (*SINGLE, *CROWD, *FAR, MEMORY)
MEASUREMENTS: Final = ("single", "crowd", "far", "memory")


@dataclass(frozen=True)
class Scale:
    """How much is measured; sizes in bytes, durations in seconds."""

    rounds: int
    large: int = 32 * MEGABYTE
    """The file of a single client: fewer than 65536 blocks, also of 512 bytes."""
    crowd: int = 200 * MEGABYTE
    """What all clients of a crowd get together."""
    seconds: float = 1.5
    """For which a single client begins again."""
    limit: float = 30
    """After which a crowd's transfers have failed."""
    repetitions: int = REPETITIONS


@dataclass
class Bench:
    """Where and how it is measured."""

    root: Path
    directory: Path
    """For the servers' own files."""
    core: int
    """The servers'; this program runs on the others."""
    others: int
    """One of these others: it carries packets over a distance, too."""
    scale: Scale
    notes: list[str] = field(default_factory=list)
    """Sentences for the report, about what was out of the ordinary."""
    windowless: list[str] = field(default_factory=list)
    """The servers that answer as if nobody had asked for a window."""
    turn: int = 0
    """The round."""

    def note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)
            print(f"  note: {sentence}", flush=True)

    def make_files(self) -> None:
        self.root.mkdir()
        write_file(self.root / READY, READY_SIZE)
        write_file(self.root / "large", self.scale.large)
        for clients in {case.clients for case in CROWD}:
            write_file(self.root / f"crowd{clients}", self.scale.crowd // clients)

    def is_asked(self, case: Case, peer: Peer) -> bool:
        """Whether a case is another one than without a window for this server."""
        if peer.name not in self.windowless or case.windowsize == LOCKSTEP:
            return True
        # A crowd asks with another block size, too.
        return case.kind in ("crowd", "memory") and case.windowsize == 16

    def verify(self, peer: Peer) -> None:
        """See that a server sends the right bytes, and what it agrees to; not measured."""
        with (self.root / "large").open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        for windowsize in (LOCKSTEP, LARGEST_WINDOW):
            order = self._order(peer, "large", windowsize=windowsize, digest=True)
            with running(peer, self.root, self.directory, self.core, HERE):
                outcome = load.run(HERE, order)
            if outcome.failures:
                raise BenchError(f"{peer.name} does not send the file: {_reasons(outcome)}")
            if outcome.digest != digest:
                raise BenchError(f"{peer.name} sends other bytes than those in the file")
            if outcome.blksize != order.blksize:
                self.note(f"{peer.name} sends blocks of {outcome.blksize} to who asks for 1468")
            if outcome.windowsize == LOCKSTEP != windowsize:
                self.windowless.append(peer.name)
            elif outcome.windowsize != windowsize:
                self.note(
                    f"{peer.name} sends windows of {outcome.windowsize} to who asks for"
                    f" {windowsize}"
                )

    def measure(self, case: Case, peer: Peer) -> Figures:
        """Measure a server in one of the cases."""
        if case.kind == "memory":
            return self._memory(case, peer)
        if case.kind == "far":
            with Distance(DELAY, RATE, self.others) as line:
                return self._transfers(case, peer, load.far(line))
        return self._transfers(case, peer, HERE)

    def _transfers(self, case: Case, peer: Peer, where: Where) -> Figures:
        is_single = case.clients == 1
        order = self._order(
            peer,
            "large" if is_single else f"crowd{case.clients}",
            where=where,
            clients=case.clients,
            blksize=case.blksize,
            windowsize=case.windowsize,
            seconds=self.scale.seconds if is_single else 0,
        )
        with running(peer, self.root, self.directory, self.core, where) as server:
            began = time.monotonic()
            before, busy = server.account.seconds(), busy_seconds(self.core)
            outcome = load.run(where, order)
            time.sleep(SETTLE)
            spent = server.account.seconds() - before
            others = busy_seconds(self.core) - busy - spent
            took = time.monotonic() - began
        failures = sum(outcome.failures.values())
        if failures:
            self.note(
                f"round {self.turn}: {failures} of {case.clients} failed with {peer.name},"
                f" {case.blksize}/{case.windowsize}: {_reasons(outcome)}"
            )
        return {
            "rate": outcome.bytes / MEGABYTE / outcome.seconds,
            "cpu": spent / (outcome.bytes / GIGABYTE) if outcome.bytes else math.nan,
            "failures": failures,
            "worst": math.nan if is_single else outcome.worst,
            "busy": outcome.cpu / outcome.seconds,
            "server_busy": spent / outcome.seconds,
            "others": max(0, others / took),
            "repeats": outcome.repeats,
            "gaps": outcome.gaps,
            "duplicates": outcome.duplicates,
            "granted": outcome.windowsize,
        }

    def _memory(self, case: Case, peer: Peer) -> Figures:
        """The same rack again and again: what it takes meanwhile, and what stays."""
        order = self._order(
            *(peer, f"crowd{case.clients}"),
            clients=case.clients,
            blksize=case.blksize,
            windowsize=case.windowsize,
        )
        peak, failures = 0, 0
        after = []
        with running(peer, self.root, self.directory, self.core, HERE) as server:
            idle = server.tree.anonymous_bytes()
            for _ in range(self.scale.repetitions):
                clients = load.start(HERE, order)
                while True:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        clients.wait(_LOOK)
                        break
                    peak = max(peak, server.tree.anonymous_bytes())
                failures += sum(load.end(clients, order).failures.values())
                time.sleep(SETTLE)
                after.append(server.tree.anonymous_bytes())
        return {
            "idle": idle / MEGABYTE,
            "each": max(0, peak - idle) / case.clients / 1000,
            "after_first": after[0] / MEGABYTE,
            "after_last": after[-1] / MEGABYTE,
            "growth": (after[-1] - after[0]) / MEGABYTE,
            "failures": failures,
        }

    def _order(
        self,
        peer: Peer,
        name: str,
        *,
        where: Where = HERE,
        clients: int = 1,
        blksize: int = 1468,
        windowsize: int = LOCKSTEP,
        seconds: float = 0,
        digest: bool = False,
    ) -> Order:
        return Order(
            *(where.host, peer.port, name, (self.root / name).stat().st_size),
            *(clients, blksize, windowsize, seconds),
            limit=self.scale.limit,
            digest=digest,
        )


def _reasons(outcome: Outcome) -> str:
    return ", ".join(f"{reason} ({count})" for reason, count in outcome.failures.items())
