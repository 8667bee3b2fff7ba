"""Runs one target for so long, in this process, which ends with the run.

Atheris guides itself by what the code does with each input. Where it is not to be had, hypothesis
makes the inputs, from the same seeds.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import sys
import time
from hashlib import sha256
from pathlib import Path

import hypothesis
from hypothesis import strategies as st

_ROUND = 200
"""Examples between two looks at the clock."""
_SLOWEST = 60
"""Seconds that one input may take."""


def has_atheris() -> bool:
    return importlib.util.find_spec("atheris") is not None


def guided(name: str, seconds: int, corpus: Path) -> None:
    """Fuzz with atheris; libFuzzer ends the process, with a status of 0 if nothing was found."""
    import atheris

    # What is imported from here on is instrumented.
    with atheris.instrument_imports(include=["bootserve.tftp", "tftpy"]):
        import bootserve.tftp.server  # noqa: F401
    from . import targets

    corpus.mkdir(parents=True, exist_ok=True)
    for seed in targets.seeds(name).values():
        (corpus / sha256(seed).hexdigest()[:16]).write_bytes(seed)
    with targets.opened(name) as target:
        atheris.Setup(
            [
                "tests.fuzz",
                str(corpus),
                f"-max_total_time={seconds}",
                f"-max_len={targets.LONGEST[name]}",
                f"-timeout={_SLOWEST}",
                f"-artifact_prefix={corpus.parent}/{name}-",
                "-print_final_stats=1",
                "-verbosity=0",
            ],
            target,
        )
        atheris.Fuzz()


def unguided(name: str, seconds: float) -> int:
    """Fuzz with hypothesis for about so long; return how many inputs were tried."""
    from . import targets

    known = list(targets.seeds(name).values())
    pieces = st.sampled_from(known) | st.binary(max_size=40)
    inputs = st.lists(pieces, max_size=6).map(b"".join) | st.builds(
        _mutated, st.sampled_from(known), st.randoms(use_true_random=False)
    )
    count = 0
    end = time.monotonic() + seconds
    with targets.opened(name) as target:

        @hypothesis.settings(
            max_examples=_ROUND,
            database=None,
            deadline=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(inputs)
        def play(data: bytes) -> None:
            nonlocal count
            count += 1
            target(data[: targets.LONGEST[name]])

        for seed in known:
            target(seed)
        while time.monotonic() < end:
            play()
    return count + len(known)


def _mutated(seed: bytes, chance: random.Random) -> bytes:
    found = bytearray(seed)
    for _ in range(chance.randint(1, 4)):
        at = chance.randint(0, len(found))
        match chance.randrange(3):
            case 0:
                found[at:at] = chance.randbytes(chance.randint(1, 3))
            case 1:
                del found[at : at + chance.randint(1, 8)]
            case 2:
                found[at : at + 1] = chance.randbytes(1)
    return bytes(found)


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.fuzz.engine")
    parser.add_argument("target")
    parser.add_argument("--seconds", type=int, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--unguided", action="store_true")
    args = parser.parse_args()
    if has_atheris() and not args.unguided:
        guided(args.target, args.seconds, args.corpus)
    else:
        count = unguided(args.target, args.seconds)
        sys.stderr.write(f"stat::number_of_executed_units: {count}\n")


if __name__ == "__main__":
    main()
