"""bootserve beside its peers over TFTP: `python -m bench.tftp --help`. As root, on Linux."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench import command, loopback, machine
from bench.process import OTHERS, BenchError
from bench.report import Results, Sample
from bench.site import MEGABYTE
from bench.tftp.measure import (
    BUSY,
    CASES,
    DELAY,
    MEASUREMENTS,
    RATE,
    Bench,
    Scale,
)
from bench.tftp.peers import BOOTSERVE, IN_C, PEERS, find
from bench.tftp.plot import draw
from bench.tftp.report import document

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from bench.tftp.peers import Peer

SERVERS: Final = [peer.name for peer in PEERS]
MTU: Final = 1500
"""Ethernet's, for the loopback too: with its own 64 KiB no datagram would ever be cut up."""
DESCRIPTORS: Final = 2000
"""More than any server or client needs for the largest crowd."""

FULL: Final = Scale(rounds=3)
QUICK: Final = Scale(
    rounds=1,
    large=8 * MEGABYTE,
    crowd=20 * MEGABYTE,
    seconds=0.3,
    limit=10,
    repetitions=2,
)


def main(arguments: Sequence[str] | None = None) -> None:
    given = command.parse(
        arguments,
        "bench.tftp",
        __doc__,
        rounds=FULL.rounds,
        servers=SERVERS,
        measurements=MEASUREMENTS,
    )
    command.perform(lambda: _run(given))


def _run(given: argparse.Namespace) -> None:
    began = time.monotonic()
    peers = _present(given.servers)
    scale = QUICK if given.quick else FULL
    scale = replace(scale, rounds=given.rounds or scale.rounds)
    if not loopback.isolate(MTU):
        raise BenchError("it takes root: a network of its own, in which port 69 is free")
    command.raise_limit(DESCRIPTORS)
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        directory = Path(name)
        directory.chmod(0o755)  # servers drop their rights and still have to pass
        core = command.own_core()
        bench = Bench(directory / "root", directory, core, min(os.sched_getaffinity(0)), scale)
        if given.quick:
            bench.note(command.QUICK)
        bench.make_files()
        samples = list(_rounds(bench, peers, given.only))
    minutes = (time.monotonic() - began) / 60
    _note_what_to_doubt(bench, samples)
    results = Results(samples)
    about = {
        **machine.describe(),
        **{peer.name: f"{_version(peer)} ({peer.what})" for peer in peers},
        "network": f"a loopback with an MTU of {MTU}; a line of {DELAY * 1e3:g} ms each way and"
        f" {RATE * 8 / 1e9:g} Gbit/s, also with an MTU of {MTU}",
        "files": f"{scale.large / MEGABYTE:g} MB for one client, which asks for it again and again"
        f" for {scale.seconds:g} s; {scale.crowd / MEGABYTE:g} MB for a crowd together",
        "rounds": f"{scale.rounds}, which took {minutes:.0f} min",
    }
    text = document(results, bench.windowless, about, bench.notes)
    print(f"\n{text}")
    is_whole = command.is_whole(given, SERVERS, MEASUREMENTS)
    if output := given.output or (command.RESULTS if is_whole else None):
        command.write(
            output, "tftp", text, draw(results, bench.windowless), results, about, bench.notes
        )


def _version(peer: Peer) -> str:
    if peer.package:
        return machine.version_of(find(peer.needs) or peer.needs, "--version")
    return machine.version_of_package(peer.needs)


def _note_what_to_doubt(bench: Bench, samples: Sequence[Sample]) -> None:
    """One sentence for each reason, however many measurements it concerns."""
    for key, limit, what in (
        ("others", OTHERS, "something else used the servers' core"),
        ("busy", BUSY, "the clients were short of CPU, so that a server may be faster than shown"),
    ):
        found = [one for one in samples if one.figures.get(key, 0) > limit]
        if found:
            worst = max(found, key=lambda one: one.figures[key])
            bench.note(
                f"in {len(found)} of {len(samples)} measurements {what}; most in round"
                f" {worst.round}, {worst.measurement} of {worst.server}: {worst.figures[key]:.0%}"
            )


def _present(names: Sequence[str]) -> list[Peer]:
    """The servers that are asked for and there."""
    found = []
    for peer in PEERS:
        if peer.name not in names:
            continue
        if peer.missing is None:
            found.append(peer)
        elif peer is BOOTSERVE:
            raise BenchError(f"{peer.missing}, and there is no comparison without it")
        else:
            print(peer.missing)
    if not found:
        raise BenchError("none of these servers is there")
    return found


def _rounds(bench: Bench, peers: Sequence[Peer], kinds: Sequence[str]) -> Iterator[Sample]:
    """Measure every server in turn, in each round in another order."""
    peers = [peer for peer in peers if _is_right(bench, peer)]
    for turn in range(bench.scale.rounds):
        bench.turn = turn + 1
        start = turn % max(1, len(peers))
        for case in CASES:
            if case.kind not in kinds:
                continue
            for peer in [*peers[start:], *peers[:start]]:
                if not bench.is_asked(case, peer):
                    continue
                if case.kind == "memory" and (turn > 0 or peer not in (*IN_C, BOOTSERVE)):
                    continue
                try:
                    figures = bench.measure(case, peer)
                except BenchError as error:
                    bench.note(f"round {bench.turn}: {case.name} of {peer.name} failed: {error}")
                    continue
                print(command.line(bench.turn, case.name, peer.name, figures), flush=True)
                yield Sample(bench.turn, case.name, peer.name, figures)


def _is_right(bench: Bench, peer: Peer) -> bool:
    print(f"verifying {peer.name} ...", flush=True)
    try:
        bench.verify(peer)
    except BenchError as error:
        if peer is BOOTSERVE:
            raise
        bench.note(f"{peer.name} is left out: {error}")
        return False
    return True


if __name__ == "__main__":
    main()
