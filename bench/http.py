"""bootserve beside its peers over HTTP: `python -m bench.http --help`."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import signal
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from bench import loopback, machine
from bench.disk import DiskUnavailable, SlowDisk
from bench.measure import MEASUREMENTS, Bench, Crowd, Scale
from bench.peers import BOOTSERVE, NGINX, PEERS, running
from bench.plot import draw
from bench.process import BenchError
from bench.report import Results, Sample, document
from bench.site import MEGABYTE, Site, Sizes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bench.peers import Peer

RESULTS: Final = Path(__file__).parent / "results"
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
    given = _parse(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    try:
        _run(given)
    except KeyboardInterrupt:
        sys.exit(130)
    except BenchError as error:
        sys.exit(f"bench: {error}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    def names(known: Sequence[str]) -> Callable[[str], list[str]]:
        def split(text: str) -> list[str]:
            given = text.split(",")
            if unknown := [name for name in given if name not in known]:
                raise argparse.ArgumentTypeError(
                    f"{', '.join(unknown)}: not one of {', '.join(known)}"
                )
            return given

        return split

    servers = [peer.name for peer in PEERS]
    parser = argparse.ArgumentParser(prog="python -m bench.http", description=__doc__)
    parser.add_argument("--rounds", type=int, metavar="N", help="default: 5")
    parser.add_argument("--servers", type=names(servers), default=servers, metavar="A,B")
    parser.add_argument("--only", type=names(MEASUREMENTS), default=MEASUREMENTS, metavar="A,B")
    parser.add_argument(
        "--quick", action="store_true", help="small and short: does it work? The figures are noise"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="default: bench/results for a whole run, else nowhere",
    )
    return parser.parse_args(arguments)


def _stop(number: int, _: object) -> NoReturn:
    sys.exit(128 + number)


def _run(given: argparse.Namespace) -> None:
    began = time.monotonic()
    peers = _present(given.servers)
    scale = QUICK if given.quick else FULL
    scale = replace(scale, rounds=given.rounds or scale.rounds)
    is_whole = not given.quick and set(given.only) == set(MEASUREMENTS)
    is_whole = is_whole and set(given.servers) == {peer.name for peer in PEERS}
    output = given.output or (RESULTS if is_whole else None)
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
    about = machine.describe(peers)
    owner = "its own" if has_loopback else "the common"
    about["TCP"] = f"{loopback.congestion_control()}, on {owner} loopback"
    about["slow clients"] = _crowd(bench.scale.slow)
    about["very many clients"] = _crowd(bench.scale.many)
    about["rounds"] = f"{scale.rounds}, which took {minutes:.0f} min"
    text = document(results, about, bench.notes, "http.svg")
    print(f"\n{text}")
    if output:
        _write(output, text, results, about, bench.notes)


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
        notes.append("--quick shows that it works; its figures are noise, and so are its verdicts")
    measurements = [name for name in MEASUREMENTS if name in given.only]
    core = _own_core()
    sizes = QUICK_SIZES if given.quick else Sizes()
    crowds = {name: getattr(scale, name) for name in ("slow", "many")}
    # Where few are needed, a server may take two for each client: the socket and the file.
    limit = _raise_limit(max(scale.many.count, 2 * scale.slow.count) + SPARE) - SPARE
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


def _own_core() -> int:
    """Keep this program and the clients off one core; which one the servers get."""
    first, *others = sorted(os.sched_getaffinity(0))
    if not others:
        raise BenchError("it takes two cores: one for the servers, one for their clients")
    os.sched_setaffinity(0, others)
    return first


def _raise_limit(descriptors: int) -> int:
    """Raise the limit of open files of this process and its children; what it is then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= descriptors:
        return soft
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, max(descriptors, hard)))
        return descriptors
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


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
                print(_line(bench.turn, name, peer, figures), flush=True)
                yield Sample(bench.turn, name, peer.name, figures)


def _line(turn: int, name: str, peer: Peer, figures: dict[str, float]) -> str:
    found = ", ".join(f"{key} {value:.4g}" for key, value in figures.items())
    return f"round {turn}: {name:6} {peer.name:9} {found}"


def _crowd(crowd: Crowd) -> str:
    return (
        f"{crowd.count:,} at {crowd.rate / 1000:g} kB/s, each with a receive buffer of"
        f" {crowd.buffer >> 10} KiB"
    )


def _write(
    output: Path, text: str, results: Results, about: dict[str, str], notes: Sequence[str]
) -> None:
    output.mkdir(parents=True, exist_ok=True)
    (output / "http.md").write_text(text)
    (output / "http.svg").write_text(draw(results))
    data = {
        "machine": about,
        "notes": notes,
        "samples": [asdict(sample) for sample in results.samples],
    }
    (output / "http.json").write_text(json.dumps(data, indent=1) + "\n")
    print(f"written to {output}")


if __name__ == "__main__":
    main()
