"""The report of the measurements over TFTP."""

from __future__ import annotations

import statistics
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from bench.report import DASH, OURS, Results, number, page, spread, table, verdict, verdicts
from bench.tftp.measure import CASES, LOCKSTEP, MEMORY, SINGLE, Case
from bench.tftp.peers import ATFTPD, HPA, IN_C

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Container, Iterator, Sequence

LOCKSTEP_CPU: Final = 1.1
"""x tftpd-hpa, at the most."""
WINDOW_CPU: Final = 1 / 4
WINDOW_RATE: Final = 3
"""x every C server that has no windows: at the most, and at least."""
ATFTPD_CPU: Final = 1 / 2
"""x atftpd, which has windows."""
ATFTPD_RATE: Final = 2
GROWTH: Final = 1
"""MB that may stay of a rack of clients that comes again and again."""
LARGE_WINDOW: Final = 16
MANY: Final = 200


def _values(
    results: Results, windowless: Container[str], case: Case, key: str, server: str
) -> list[float]:
    """One for each round. Without windows a server does in lockstep whatever it is asked to."""
    found = results.values(case.name, key, server)
    if found or server not in windowless:
        return found
    for other in CASES:
        if replace(other, windowsize=case.windowsize) == case:
            found = found or results.values(other.name, key, server)
    return found


def title(case: Case) -> str:
    who = "1 client" if case.clients == 1 else f"{case.clients} clients"
    how = "lockstep" if case.windowsize == LOCKSTEP else f"window {case.windowsize}"
    where = {"far": "1 ms away, ", "memory": "ten times over, "}.get(case.kind, "")
    return f"{where}{who}, {case.blksize}, {how}"


def _targets(results: Results, windowless: Container[str]) -> Iterator[list[str]]:
    def beside(
        name: str, case: Case, key: str, server: str, limit: float, *, at_least: bool = False
    ) -> Iterator[list[str]]:
        mine = results.values(case.name, key, OURS)
        others = _values(results, windowless, case, key, server)
        if mine and others:
            yield verdict(name, server, limit, mine, others, at_least=at_least)

    for case in SINGLE:
        if case.windowsize == LOCKSTEP:
            name = f"lockstep, {case.blksize}: CPU per GB"
            yield from beside(name, case, "cpu", HPA.name, LOCKSTEP_CPU)
    for case in SINGLE:
        if case.windowsize < LARGE_WINDOW:
            continue
        for peer in IN_C:
            cpu, rate = WINDOW_CPU, WINDOW_RATE
            if peer is ATFTPD:
                cpu, rate = ATFTPD_CPU, ATFTPD_RATE
            elif peer.name not in windowless:
                continue
            name = f"window {case.windowsize}"
            yield from beside(f"{name}: CPU per GB", case, "cpu", peer.name, cpu)
            yield from beside(f"{name}: MB/s", case, "rate", peer.name, rate, at_least=True)
    failures = [
        count
        for case in CASES
        if case.clients == MANY
        for count in results.values(case.name, "failures", OURS)
    ]
    if failures:
        lost = sum(failures)
        met = "NOT MET" if lost else "met"
        yield [f"{MANY} clients: transfers that fail", "none", f"{lost:.0f}", "", met]
    if growth := results.values(MEMORY.name, "growth", OURS):
        middle = statistics.median(growth)
        met = "met" if middle <= GROWTH else "NOT MET"
        name = f"memory that stays of ten times {MEMORY.clients} clients"
        yield [name, f"≤ {GROWTH} MB", f"{middle:.2f} MB", "", met]


def _by_case(heading: str, cell: Callable[[Case, str], str], servers: Sequence[str]) -> str:
    rows = []
    for case in CASES:
        cells = [cell(case, server) for server in servers]
        if any(text != DASH for text in cells):
            rows.append([title(case), *cells])
    return table([heading, *servers], rows) if rows else ""


def _figures(results: Results, heading: str, key: str) -> str:
    def cell(case: Case, server: str) -> str:
        return spread(results.values(case.name, key, server))

    return _by_case(heading, cell, results.servers)


def _counts(results: Results, heading: str, *keys: str) -> str:
    def cell(case: Case, server: str) -> str:
        found = [sum(results.values(case.name, key, server)) for key in keys]
        return " / ".join(f"{count:.0f}" for count in found) if any(found) else DASH

    return _by_case(heading, cell, results.servers)


def _ratios(results: Results, windowless: Container[str], heading: str, key: str) -> str:
    def cell(case: Case, server: str) -> str:
        mine = results.median(case.name, key, server)
        others = _values(results, windowless, case, key, HPA.name)
        return f"{mine / statistics.median(others):.2f}" if mine and others else DASH

    servers = [server for server in results.servers if server != HPA.name]
    return _by_case(heading, cell, servers)


def _memory(results: Results) -> str:
    rows = []
    for key, name in (
        ("idle", "before, MB"),
        ("each", f"more with {MEMORY.clients} clients, kB for each"),
        ("after_first", "after them, MB"),
        ("after_last", "after they came ten times, MB"),
    ):
        found = [results.median(MEMORY.name, key, server) for server in results.servers]
        cells = [DASH if one is None else number(one) for one in found]
        if any(one is not None for one in found):
            rows.append([name, *cells])
    return table(["memory of its own (RssAnon)", *results.servers], rows) if rows else ""


def document(
    results: Results, windowless: Collection[str], about: dict[str, str], notes: Sequence[str]
) -> str:
    """The whole report in Markdown; `windowless` are the servers that know no windows."""
    parts = [
        "## Targets",
        verdicts(_targets(results, windowless)),
        "![CPU and throughput of each server against the window](tftp.svg)",
        "## Figures",
        "Each is the median, and in brackets the least and the greatest of the rounds."
        f" Without windows, whatever a client asks for, are: {', '.join(windowless) or 'none'}.",
        _figures(results, "MB/s", "rate"),
        _figures(results, "CPU, s/GB", "cpu"),
        _figures(results, "slowest client, s", "worst"),
        _counts(results, "transfers that failed, all rounds", "failures") or "No transfer failed.",
        _counts(
            results,
            "said again by clients / gaps / duplicates, all rounds",
            *("repeats", "gaps", "duplicates"),
        ),
        _figures(results, "clients' use of their core", "busy"),
        _memory(results),
    ]
    beside = [
        _ratios(results, windowless, "ratio of MB/s", "rate"),
        _ratios(results, windowless, "ratio of CPU per GB", "cpu"),
    ]
    if any(beside):
        parts += [
            f"## Beside {HPA.name}",
            "A server without windows is compared by what it does in lockstep, whatever the"
            " window.",
            *beside,
        ]
    return page(
        "bootserve over TFTP, beside its peers",
        "tftp",
        about,
        notes,
        [part for part in parts if part],
    )
