"""`make fuzz`: all targets at the same time, for as long as one likes."""

from __future__ import annotations

import argparse
import sys

from . import engine, runs, targets

CORPUS = runs.CHECKOUT / ".cache" / "fuzz"


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument(
        "--seconds", type=int, default=600, help="for each target, at the same time (600)"
    )
    parser.add_argument(
        "--target", action="append", choices=targets.NAMES, help="only this one; repeatable"
    )
    args = parser.parse_args()
    by = "atheris" if engine.has_atheris() else "hypothesis (there is no atheris here)"
    sys.stdout.write(f"Fuzzing with {by} for {args.seconds} s; the corpus is in {CORPUS}\n")
    outcomes = runs.play(args.target or targets.NAMES, args.seconds, CORPUS)
    for one in outcomes:
        rate = one.executions / args.seconds
        said = f"{one.executions} inputs, {rate:.0f}/s" if one.status == 0 else one.output[-4000:]
        verdict = "held" if one.status == 0 else f"FAILED ({one.status})"
        sys.stdout.write(f"{one.target}: {verdict}: {said}\n")
    return int(any(one.status for one in outcomes))


if __name__ == "__main__":
    sys.exit(main())
