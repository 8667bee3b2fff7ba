"""Runs of the fuzzer in processes of their own: libFuzzer ends the one that it is in."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

CHECKOUT = Path(__file__).resolve().parents[2]
_GRACE = 120
"""Seconds beyond those ordered: for imports, seeds and the last input."""


@dataclass(frozen=True)
class Outcome:
    """How a run has ended."""

    target: str
    status: int
    output: str

    @property
    def executions(self) -> int:
        found = re.search(r"number_of_executed_units: +(\d+)", self.output)
        return int(found[1]) if found else 0


def play(
    names: Sequence[str], seconds: int, corpus: Path, *, is_guided: bool = True
) -> list[Outcome]:
    """Fuzz these targets at the same time. The corpus of each grows in a folder of its name."""
    command = [sys.executable, "-m", "tests.fuzz.engine", "--seconds", str(seconds)]
    if not is_guided:
        command.append("--unguided")
    corpus.mkdir(parents=True, exist_ok=True)
    running = []
    for name in names:
        output = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 (closed below)
        running.append((name, output, _start([*command, name, "--corpus", corpus / name], output)))
    outcomes = []
    try:
        for name, output, process in running:
            status = process.wait(seconds + _GRACE)
            output.seek(0)
            outcomes.append(Outcome(name, status, output.read()))
    finally:
        for _, output, process in running:
            process.kill()
            process.wait()
            output.close()
    return outcomes


def _start(command: Sequence[str | Path], output: object) -> subprocess.Popen[str]:
    return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
        command, cwd=CHECKOUT, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
    )
