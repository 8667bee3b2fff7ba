"""The report of the measurements over HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bench.report import DASH, OURS, Results, page, spread, table, verdict, verdicts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


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


def _targets(results: Results) -> str:
    rows = [row for target in TARGETS if (row := _target(results, target))]
    bad = [
        sum(results.values(measurement, key, OURS))
        for measurement in ("slow", "many")
        for key in ("cuts", "unfinished")
    ]
    if any(results.values(measurement, "cuts", OURS) for measurement in ("slow", "many")):
        met = "met" if sum(bad) == 0 else "NOT MET"
        rows.append(["transfers cut or given up", "none", f"{sum(bad):.0f}", "", met])
    return verdicts(rows)


def _target(results: Results, target: Target) -> list[str] | None:
    mine, others = (
        results.values(target.measurement, target.key, server) for server in (OURS, target.beside)
    )
    if not mine or not others:
        return None
    return verdict(
        *(target.title, target.beside, target.limit, mine, others), at_least=target.at_least
    )


def _medians(results: Results) -> str:
    def cell(figure: Figure, server: str) -> str:
        values = results.values(figure.measurement, figure.key, server)
        return f"{sum(values):.0f}" if values and figure.is_count else spread(values)

    return _rows("median (least..greatest round)", cell, results.servers)


def _ratios(results: Results) -> str:
    def cell(figure: Figure, server: str) -> str:
        if figure.is_count or figure.key.endswith("_busy") or figure.key == "in_flight":
            return DASH
        ratio = results.ratio(figure.measurement, figure.key, server, "nginx")
        return DASH if ratio is None else f"{ratio:.2f}"

    others = [server for server in results.servers if server != "nginx"]
    return _rows("ratio to nginx", cell, others)


def _rows(title: str, cell: Callable[[Figure, str], str], servers: Sequence[str]) -> str:
    rows = []
    for figure in FIGURES:
        cells = [cell(figure, server) for server in servers]
        if any(text != DASH for text in cells):
            rows.append([figure.title, *cells])
    return table([title, *servers], rows)


def document(results: Results, about: dict[str, str], notes: Sequence[str]) -> str:
    """The whole report in Markdown."""
    parts = [
        "## Targets",
        _targets(results),
        "![CPU, waits, memory and script rate of each server](http.svg)",
        "## Figures",
        _medians(results),
        "## Beside nginx",
        _ratios(results),
    ]
    return page("bootserve over HTTP, beside its peers", "http", about, notes, parts)
