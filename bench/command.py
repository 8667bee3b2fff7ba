"""What the command lines of the benchmarks have in common."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from bench.process import BenchError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.report import Results

RESULTS: Final = Path(__file__).parent / "results"
QUICK: Final = "--quick shows that it works; its figures are noise, and so are its verdicts"


def parse(
    arguments: Sequence[str] | None,
    module: str,
    description: str | None,
    *,
    rounds: int,
    servers: Sequence[str],
    measurements: Sequence[str],
) -> argparse.Namespace:
    """Read the options: `rounds`, `servers`, `only`, `quick`, `output`."""

    def names(known: Sequence[str]) -> Callable[[str], list[str]]:
        def split(text: str) -> list[str]:
            given = text.split(",")
            if unknown := [name for name in given if name not in known]:
                raise argparse.ArgumentTypeError(
                    f"{', '.join(unknown)}: not one of {', '.join(known)}"
                )
            return given

        return split

    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    parser.add_argument("--rounds", type=int, metavar="N", help=f"default: {rounds}")
    parser.add_argument("--servers", type=names(servers), default=servers, metavar="A,B")
    parser.add_argument("--only", type=names(measurements), default=measurements, metavar="A,B")
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


def is_whole(
    given: argparse.Namespace, servers: Sequence[str], measurements: Sequence[str]
) -> bool:
    """Whether everything is measured, and in earnest."""
    is_everything = set(given.only) == set(measurements) and set(given.servers) == set(servers)
    return is_everything and not given.quick


def perform(run: Callable[[], None]) -> None:
    """Run a benchmark, and end it in order whatever ends it."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    try:
        run()
    except KeyboardInterrupt:
        sys.exit(130)
    except BenchError as error:
        sys.exit(f"bench: {error}")


def _stop(number: int, _: object) -> NoReturn:
    sys.exit(128 + number)


def own_core() -> int:
    """Keep this program and the clients off one core; which one the servers get."""
    first, *others = sorted(os.sched_getaffinity(0))
    if not others:
        raise BenchError("it takes two cores: one for the servers, one for their clients")
    os.sched_setaffinity(0, others)
    return first


def raise_limit(descriptors: int) -> int:
    """Raise the limit of open files of this process and its children; what it is then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= descriptors:
        return soft
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, max(descriptors, hard)))
        return descriptors
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def line(turn: int, name: str, server: str, figures: dict[str, float]) -> str:
    """What is printed of a measurement."""
    found = ", ".join(f"{key} {value:.4g}" for key, value in figures.items())
    return f"round {turn}: {name:6} {server:9} {found}"


def write(
    output: Path,
    name: str,
    text: str,
    plot: str,
    results: Results,
    about: dict[str, str],
    notes: Sequence[str],
) -> None:
    """Write the report, the plot and the raw data of a benchmark."""
    output.mkdir(parents=True, exist_ok=True)
    (output / f"{name}.md").write_text(text)
    (output / f"{name}.svg").write_text(plot)
    data = {
        "machine": about,
        "notes": notes,
        "samples": [asdict(sample) for sample in results.samples],
    }
    (output / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n")
    print(f"written to {output}")
