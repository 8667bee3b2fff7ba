"""The results as a Markdown table, and where it stands in the page for operators."""

from __future__ import annotations

import datetime
import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bench.process import BenchError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bench.liveness.stage import Result

BEGIN: Final = "<!-- begin: written by python -m bench.liveness -->"
END: Final = "<!-- end: written by python -m bench.liveness -->"


@dataclass(frozen=True)
class Crowd:
    """What many clients did, and a sentence if something of them stays."""

    name: str
    problem: str


_HEAD: Final = ("client", "what happens", "how it ends", "time, s", "the server's word", "")


def document(results: Sequence[Result], crowds: Sequence[Crowd], notes: Sequence[str]) -> str:
    """The table with its date, its kernel, and notes below it."""
    today = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
    problems = [*(one.problem for one in results), *(one.problem for one in crowds)]
    fine = problems.count("")
    rows = [
        _HEAD,
        ("---", "---", "---", "---:", "---", "---"),
        *(_row(result) for result in results),
        *(
            ("", one.name, one.problem or "every descriptor is back", "", "", _mark(one.problem))
            for one in crowds
        ),
    ]
    lines = [
        f"{today}, {platform.system()} {platform.release()}: {fine} of {len(problems)}"
        " end as they must.",
        "",
        *("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows),
        "",
        *(f"* {note}" for note in notes),
    ]
    return "\n".join(lines).strip() + "\n"


def _row(result: Result) -> tuple[str, ...]:
    scenario = result.scenario
    if result.problem:
        ends = f"must: {scenario.ends.value}; but {result.problem}"
    elif result.is_exact:
        ends = f"{scenario.ends.value}, byte for byte"
    else:
        ends = scenario.ends.value
    seconds = result.seconds if result.silence is None else result.silence
    return (
        *(scenario.name, scenario.story, ends, f"{seconds:.0f}"),
        *(result.verdict, _mark(result.problem)),
    )


def _mark(problem: str) -> str:
    return "**NO**" if problem else "ok"


def insert(page: Path, text: str) -> None:
    """Replace what stands between the two marks of a page.

    Raises:
        BenchError: the page has no marks.
    """
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise BenchError(f"{page.name} has no place for the table: the lines {BEGIN} and {END}")
    page.write_text(f"{before}{BEGIN}\n{text}{END}{after}")
