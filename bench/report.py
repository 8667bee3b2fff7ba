"""From the raw figures of each round to tables."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

DASH: Final = "-"
OURS: Final = "bootserve"


@dataclass(frozen=True)
class Sample:
    """What one measurement of one server in one round has found."""

    round: int
    measurement: str
    server: str
    figures: dict[str, float]


class Results:
    """All samples, and what follows from them."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = samples
        self.servers = list(dict.fromkeys(sample.server for sample in samples))

    def values(self, measurement: str, key: str, server: str) -> list[float]:
        """One for each round."""
        return [
            sample.figures[key]
            for sample in self.samples
            if (sample.measurement, sample.server) == (measurement, server)
            and key in sample.figures
            and not math.isnan(sample.figures[key])
        ]

    def median(self, measurement: str, key: str, server: str) -> float | None:
        values = self.values(measurement, key, server)
        return statistics.median(values) if values else None

    def ratio(self, measurement: str, key: str, server: str, beside: str) -> float | None:
        mine, other = (self.median(measurement, key, one) for one in (server, beside))
        return mine / other if mine is not None and other else None


def ratios(mine: Sequence[float], others: Sequence[float]) -> tuple[float, float]:
    """The least and the greatest ratio of two figures of one round."""
    found = [one / other for one, other in zip(mine, others, strict=False) if other]
    return min(found), max(found)


def verdict(
    title: str,
    beside: str,
    limit: float,
    mine: Sequence[float],
    others: Sequence[float],
    *,
    at_least: bool,
) -> list[str]:
    """A row of the table of what bootserve is to reach: `limit` times another server's figure."""
    ratio = statistics.median(mine) / statistics.median(others)
    met = ratio >= limit if at_least else ratio <= limit
    return [
        title,
        f"{'≥' if at_least else '≤'} {limit:g} x {beside}",
        f"{ratio:.2f} x {beside}",
        " .. ".join(f"{bound:.2f}" for bound in ratios(mine, others)),
        "met" if met else "NOT MET",
    ]


def verdicts(rows: Iterable[Sequence[str]]) -> str:
    """The table of what bootserve is to reach."""
    return table(["bootserve", "target", "medians", "in one round", ""], rows)


def spread(values: Sequence[float]) -> str:
    """The median, and in brackets the least and the greatest of the rounds."""
    if not values:
        return DASH
    middle = number(statistics.median(values))
    if len(values) == 1:
        return middle
    return f"{middle} ({number(min(values))}..{number(max(values))})"


def number(value: float) -> str:
    """Three significant digits, and no more decimals than that takes."""
    if value == 0:
        return "0"
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(decimals, 3)}f}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table which is readable as it is."""
    lines = [list(head), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *rest = (cell for cell in cells)
        aligned = [first.ljust(widths[0])]
        aligned += [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        return f"| {' | '.join(aligned)} |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([line(lines[0]), line(rule), *map(line, lines[1:])])


def page(
    title: str, name: str, about: dict[str, str], notes: Sequence[str], parts: Iterable[str]
) -> str:
    """A whole report in Markdown; `name` is that of its files."""
    lines = "\n".join(f"* {key}: {value}" for key, value in about.items())
    head = [
        f"# {title}",
        "What is measured and how: [../README.md](../README.md)."
        f" Raw data: [{name}.json]({name}.json).",
        lines,
    ]
    if notes:
        # Before the verdicts that they may call into question.
        head.append("\n".join(["Notes:", "", *(f"* {note}" for note in notes)]))
    return "\n\n".join([*head, *parts]) + "\n"
