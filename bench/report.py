"""From the raw figures of each round to tables."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

DASH: Final = "-"


@dataclass(frozen=True)
class Sample:
    """What one measurement of one server in one round has found."""

    round: int
    measurement: str
    server: str
    figures: dict[str, float]


@dataclass(frozen=True)
class Figure:
    """One row of the tables."""

    measurement: str
    key: str
    title: str
    is_count: bool = False
    """Counts of what must not happen are added up over the rounds; all else is a median."""


FIGURES: Final = (
    Figure("cpu", "cpu_middle", "CPU, 256 MB file, s/GB"),
    Figure("cpu", "cpu_large", "CPU, 1 GB file, s/GB"),
    Figure("cpu", "throughput_middle", "throughput, 256 MB file, GB/s"),
    Figure("cpu", "throughput_large", "throughput, 1 GB file, GB/s"),
    Figure("slow", "cuts", "slow clients: transfers cut", is_count=True),
    Figure("slow", "unfinished", "slow clients: transfers given up", is_count=True),
    Figure("slow", "duration", "slow clients: transfer, s"),
    Figure("slow", "ttfb_p50", "slow clients: newcomer's TTFB, p50, ms"),
    Figure("slow", "ttfb_p99", "slow clients: newcomer's TTFB, p99, ms"),
    Figure("slow", "ttfb_max", "slow clients: newcomer's TTFB, max, ms"),
    Figure("slow", "probes_failed", "slow clients: newcomers not served", is_count=True),
    Figure("slow", "memory", "slow clients: memory per connection, kB"),
    Figure("many", "in_flight", "very many clients: at once"),
    Figure("many", "cuts", "very many clients: transfers cut", is_count=True),
    Figure("many", "unfinished", "very many clients: transfers given up", is_count=True),
    Figure("many", "duration", "very many clients: transfer, s"),
    Figure("many", "ttfb_p50", "very many clients: newcomer's TTFB, p50, ms"),
    Figure("many", "ttfb_p99", "very many clients: newcomer's TTFB, p99, ms"),
    Figure("many", "ttfb_max", "very many clients: newcomer's TTFB, max, ms"),
    Figure("many", "memory", "very many clients: memory per connection, kB"),
    Figure("script", "script_rate", "scripts per second"),
    Figure("script", "script_cpu", "CPU per script, µs"),
    Figure("script", "script_busy", "scripts: server's use of its core"),
    Figure("script", "missing_rate", "404 answers per second"),
    Figure("script", "missing_cpu", "CPU per 404 answer, µs"),
    Figure("ranges", "range_rate", "64 KiB ranges per second"),
    Figure("ranges", "range_cpu", "CPU per 64 KiB range, µs"),
    Figure("ranges", "range_busy", "ranges: server's use of its core"),
    Figure("cold", "cold_rate", "cold file: from the slow disk, MB/s"),
    Figure("cold", "ttfb_p50", "cold file: script's TTFB meanwhile, p50, ms"),
    Figure("cold", "ttfb_p99", "cold file: script's TTFB meanwhile, p99, ms"),
    Figure("cold", "ttfb_max", "cold file: script's TTFB meanwhile, max, ms"),
)


@dataclass(frozen=True)
class Target:
    """What bootserve is to reach beside another server."""

    title: str
    measurement: str
    key: str
    beside: str
    limit: float
    """The ratio to the other server's figure."""
    at_least: bool = False


TARGETS: Final = (
    Target("CPU per GB, 256 MB file", "cpu", "cpu_middle", "nginx", 1.05),
    Target("CPU per GB, 1 GB file", "cpu", "cpu_large", "nginx", 1.05),
    Target("slow clients: newcomer's TTFB p99", "slow", "ttfb_p99", "nginx", 2.0),
    Target("slow clients: memory per connection", "slow", "memory", "nginx", 1.5),
    Target("script rate", "script", "script_rate", "uvicorn", 0.8, at_least=True),
)
OURS: Final = "bootserve"


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

    def targets(self) -> str:
        rows = [row for target in TARGETS if (row := self._target(target))]
        bad = [
            sum(self.values(measurement, key, OURS))
            for measurement in ("slow", "many")
            for key in ("cuts", "unfinished")
        ]
        if any(self.values(measurement, "cuts", OURS) for measurement in ("slow", "many")):
            verdict = "met" if sum(bad) == 0 else "NOT MET"
            rows.append(["transfers cut or given up", "none", f"{sum(bad):.0f}", "", verdict])
        return table(["bootserve", "target", "medians", "in one round", ""], rows)

    def _target(self, target: Target) -> list[str] | None:
        ratio = self.ratio(target.measurement, target.key, OURS, target.beside)
        if ratio is None:
            return None
        met = ratio >= target.limit if target.at_least else ratio <= target.limit
        sign = "≥" if target.at_least else "≤"
        return [
            target.title,
            f"{sign} {target.limit:g} x {target.beside}",
            f"{ratio:.2f} x {target.beside}",
            " .. ".join(f"{bound:.2f}" for bound in self._ratios_of_rounds(target)),
            "met" if met else "NOT MET",
        ]

    def _ratios_of_rounds(self, target: Target) -> tuple[float, float]:
        """The least and the greatest ratio of two figures of one round."""
        key = (target.measurement, target.key)
        pairs = zip(self.values(*key, OURS), self.values(*key, target.beside), strict=False)
        ratios = [mine / other for mine, other in pairs if other]
        return min(ratios), max(ratios)

    def medians(self) -> str:
        """Each cell: the median, and in brackets the least and the greatest of the rounds."""

        def cell(figure: Figure, server: str) -> str:
            values = self.values(figure.measurement, figure.key, server)
            if not values:
                return DASH
            if figure.is_count:
                return f"{sum(values):.0f}"
            middle = number(statistics.median(values))
            if len(values) == 1:
                return middle
            return f"{middle} ({number(min(values))}..{number(max(values))})"

        return self._rows("median (least..greatest round)", cell, self.servers)

    def ratios(self) -> str:
        def cell(figure: Figure, server: str) -> str:
            if figure.is_count or figure.key.endswith("_busy") or figure.key == "in_flight":
                return DASH
            ratio = self.ratio(figure.measurement, figure.key, server, "nginx")
            return DASH if ratio is None else f"{ratio:.2f}"

        others = [server for server in self.servers if server != "nginx"]
        return self._rows("ratio to nginx", cell, others)

    def _rows(self, title: str, cell: Callable[[Figure, str], str], servers: Sequence[str]) -> str:
        rows = []
        for figure in FIGURES:
            cells = [cell(figure, server) for server in servers]
            if any(text != DASH for text in cells):
                rows.append([figure.title, *cells])
        return table([title, *servers], rows)


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


def document(results: Results, machine: dict[str, str], notes: Sequence[str], plot: str) -> str:
    """The whole report in Markdown."""
    parts = [
        "# bootserve over HTTP, beside its peers",
        "What is measured and how: [../README.md](../README.md). Raw data: [http.json](http.json).",
        "\n".join(f"* {name}: {value}" for name, value in machine.items()),
        "## Targets",
        results.targets(),
        f"![CPU, waits, memory and script rate of each server]({plot})",
        "## Figures",
        results.medians(),
        "## Beside nginx",
        results.ratios(),
    ]
    if notes:
        # Before the verdicts that they may call into question.
        parts.insert(3, "\n".join(["Notes:", "", *(f"* {note}" for note in notes)]))
    return "\n\n".join(parts) + "\n"
