"""bootserve beside its peers over HTTP: `python -m bench.http --help`."""

from __future__ import annotations

import contextlib
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench import command, loopback, machine
from bench.disk import DiskUnavailable, SlowDisk
from bench.http_report import document
from bench.measure import MEASUREMENTS, Bench, Crowd, Scale
from bench.peers import BOOTSERVE, NGINX, PEERS, running
from bench.plot import draw
from bench.process import BenchError
from bench.report import Results, Sample
from bench.site import MEGABYTE, Site, Sizes

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from bench.peers import Peer

SERVERS: Final = [peer.name for peer in PEERS]
SPARE: Final = 300
"""Descriptors beside those of the clients."""

FULL: Final = Scale(
    rounds=5,
    connections=4,
    cpu=3,
    slow=Crowd(2000, 250_000, 0.08, 128 << 10, arrival=2, steady=8, patience=30),
    # The buffers of both ends lie in this one kernel. With the window of the others, 10,000 clients
    # would exceed its limit (tcp_mem), and what it then drops is no server's fault.
    many=Crowd(10_000, 20_000, 0.4, 16 << 10, arrival=5, steady=10, patience=40),
    requests=3,
    throttle=100 * MEGABYTE,
)
QUICK: Final = Scale(
    rounds=1,
    connections=4,
    cpu=0.3,
    slow=Crowd(200, 250_000, 0.08, 128 << 10, arrival=0.5, steady=1, patience=10),
    many=Crowd(500, 20_000, 0.4, 16 << 10, arrival=0.5, steady=1, patience=10),
    requests=1,
    throttle=100 * MEGABYTE,
)
QUICK_SIZES: Final = Sizes(
    middle=64 * MEGABYTE, large=128 * MEGABYTE, slow=MEGABYTE // 2, many=40_000
)


def main(arguments: Sequence[str] | None = None) -> None:
    given = command.parse(
        arguments,
        "bench.http",
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
    is_whole = command.is_whole(given, SERVERS, MEASUREMENTS)
    output = given.output or (command.RESULTS if is_whole else None)
    has_loopback = loopback.isolate()
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        directory.chmod(0o755)  # nginx drops its rights and still has to pass
        bench, measurements = _prepare(directory, scale, given, stack)
        if not has_loopback:
            bench.note("without root it all goes over the host's loopback, with its settings")
        samples = list(_rounds(bench, peers, measurements))
    results = Results(samples)
    minutes = (time.monotonic() - began) / 60
    about = {
        **machine.describe(),
        **{peer.name: f"{_version(peer)} ({peer.what})" for peer in peers},
        "wrk": machine.version_of("wrk", "-v"),
    }
    owner = "its own" if has_loopback else "the common"
    about["TCP"] = f"{loopback.congestion_control()}, on {owner} loopback"
    about["slow clients"] = _crowd(bench.scale.slow)
    about["very many clients"] = _crowd(bench.scale.many)
    about["rounds"] = f"{scale.rounds}, which took {minutes:.0f} min"
    text = document(results, about, bench.notes)
    print(f"\n{text}")
    if output:
        command.write(output, "http", text, draw(results), results, about, bench.notes)


def _version(peer: Peer) -> str:
    if peer.is_program:
        return machine.version_of(peer.needs, "-v" if peer is NGINX else "version")
    return machine.version_of_package(peer.needs)


def _present(names: Sequence[str]) -> list[Peer]:
    """The servers that are asked for and installed, nginx always."""
    found = []
    for peer in PEERS:
        if peer.name not in names and peer is not NGINX:
            continue
        if peer.missing is None:
            found.append(peer)
        elif peer in (NGINX, BOOTSERVE):
            raise BenchError(f"{peer.missing}, and there is no comparison without it")
        else:
            print(peer.missing)
    return found


def _prepare(
    directory: Path, scale: Scale, given: argparse.Namespace, stack: contextlib.ExitStack
) -> tuple[Bench, list[str]]:
    """Everything that is there before the first server starts; and what can be measured."""
    notes: list[str] = []
    if given.quick:
        notes.append(command.QUICK)
    measurements = [name for name in MEASUREMENTS if name in given.only]
    core = command.own_core()
    sizes = QUICK_SIZES if given.quick else Sizes()
    crowds = {name: getattr(scale, name) for name in ("slow", "many")}
    # Where few are needed, a server may take two for each client: the socket and the file.
    limit = command.raise_limit(max(scale.many.count, 2 * scale.slow.count) + SPARE) - SPARE
    for name, crowd in crowds.items():
        most = limit if name == "many" else limit // 2
        if crowd.count > most and name in measurements:
            notes.append(
                f"{name}: {most} clients instead of {crowd.count}, because a process may not have"
                f" more descriptors here"
            )
            crowds[name] = replace(crowd, count=most)
    print("writing files ...", flush=True)
    site = Site(directory / "site", sizes)
    site.make("middle", "large", "slow", "many")
    disk = None
    if "cold" in measurements:
        try:
            disk = stack.enter_context(SlowDisk(sizes.middle * 2, scale.throttle))
        except DiskUnavailable as problem:
            notes.append(f"the cold file is left out: {problem}")
            measurements.remove("cold")
    with running(BOOTSERVE, site, directory, core) as server:
        # Every server sends the script that bootserve renders.
        site.script.write_bytes(server.fetch(BOOTSERVE.script))
    for note in notes:
        print(note)
    return Bench(site, directory, core, replace(scale, **crowds), disk, notes), measurements


def _rounds(bench: Bench, peers: Sequence[Peer], measurements: Sequence[str]) -> Iterator[Sample]:
    """Measure every server in turn, in each round in another order."""
    for peer in peers:
        print(f"verifying {peer.name} ...", flush=True)
        bench.verify(peer)
    for turn in range(bench.scale.rounds):
        bench.turn = turn + 1
        start = turn % len(peers)
        for name in measurements:
            for peer in [*peers[start:], *peers[:start]]:
                if name == "many" and (turn > 0 or peer not in (NGINX, BOOTSERVE)):
                    continue
                try:
                    figures = bench.measurement(name)(peer)
                except (BenchError, DiskUnavailable) as error:
                    bench.note(f"round {bench.turn}: {name} of {peer.name} failed: {error}")
                    continue
                print(command.line(bench.turn, name, peer.name, figures), flush=True)
                yield Sample(bench.turn, name, peer.name, figures)


def _crowd(crowd: Crowd) -> str:
    return (
        f"{crowd.count:,} at {crowd.rate / 1000:g} kB/s, each with a receive buffer of"
        f" {crowd.buffer >> 10} KiB"
    )


if __name__ == "__main__":
    main()
