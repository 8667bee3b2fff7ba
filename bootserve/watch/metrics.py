"""``GET /metrics``: what Prometheus is told, in its own words.

docs/operating.md says what each metric means. Everything is told from memory, by the event loop's
thread: sums of the `Tally`, what the ledger's last looks saw, and the figures of `Health`. What
alerts look at is told from the start, as 0: Prometheus sees a counter grow only once it is there.
"""

from __future__ import annotations

import os
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import anyio.lowlevel
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from bootserve import __version__
from bootserve.watch.health import Health
from bootserve.watch.ledger import SENT_AGAIN, End, Ledger, Transfer
from bootserve.watch.liveness import Verdict
from bootserve.watch.tally import Histogram, Sums, Tally

_KIND: Final = ("protocol", "arch")
_PROTOCOLS: Final = ("http", "tftp")
_UNKNOWN: Final = "unknown"
_UNSEEN: Final = "none"
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_STARTED: Final = time.time()

_OPENMETRICS: Final = "application/openmetrics-text"
_OPENMETRICS_END: Final = b"# EOF\n"


class Metrics:
    """The metrics of one process.

    Args:
        tally: observes ``ledger``.
        quirks: names of what TFTP counts; others are not told.
    """

    def __init__(
        self, ledger: Ledger, tally: Tally, health: Health, *, quirks: Iterable[str] = ()
    ) -> None:
        self._sources = (_Transfers(ledger, tally), _State(health, tuple(quirks)), _Process())

    async def render(self, accept: str) -> tuple[bytes, str]:
        """Return the text and its type, for the Accept header of who asks."""
        encoder, content_type = _chosen_encoder(accept)
        # All at one moment: a transfer that ends meanwhile would be counted twice, or not at all.
        families = [family for source in self._sources for family in source.collect()]
        parts = []
        for family in families:
            parts.append(encoder(_One(family)).removesuffix(_OPENMETRICS_END))
            # Spelling it takes milliseconds in all: let others have their turns.
            await anyio.lowlevel.checkpoint()
        if content_type.startswith(_OPENMETRICS):
            parts.append(_OPENMETRICS_END)
        return b"".join(parts), content_type


def _chosen_encoder(accept: str) -> tuple[Callable[[Collector], bytes], str]:
    try:
        return choose_encoder(accept)
    except (TypeError, ValueError):
        # The library takes whatever a stranger calls a version for numbers.
        return choose_encoder("")


class _One(Collector):
    """A registry of one family; several applications may live in one process."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterator[Metric]:
        yield self._family


class _Transfers(Collector):
    def __init__(self, ledger: Ledger, tally: Tally) -> None:
        self._ledger = ledger
        self._tally = tally

    def collect(self) -> Iterator[Metric]:
        kinds = {_kind(*kind): sums for kind, sums in sorted(self._tally.kinds.items())}
        by_protocol = {protocol: _Progress() for protocol in _PROTOCOLS}
        sent: Counter[tuple[str, str]] = Counter()
        for kind, sums in kinds.items():
            sent[kind] = sums.sent
            by_protocol[kind[0]].add(sums)
        live = Counter({(p, v.value): 0 for p in _PROTOCOLS for v in Verdict if v != Verdict.GONE})
        for (protocol, arch, verdict), progress in _in_flight(self._ledger.live).items():
            kind = _kind(protocol, arch)
            sent[kind] += progress.sent
            live[kind[0], verdict or Verdict.MOVING.value] += progress.count
            by_protocol[kind[0]].add(progress)
        yield _gauges(
            "bootserve_transfers_in_flight",
            "Transfers in flight, by what the client did at the last look.",
            ("protocol", "verdict"),
            live,
        )
        yield _counters(
            "bootserve_transfers",
            "Transfers that have come to an end, by the last verdict before it and by the end.",
            (*_KIND, "verdict", "end"),
            {
                (*kind, verdict or _UNSEEN, end.token): count
                for kind, sums in kinds.items()
                for (verdict, end), count in sums.ends.items()
            },
        )
        yield _counters(
            "bootserve_transfers_broken_off",
            "Transfers that this server or its disk broke off, by how.",
            ("end",),
            {(end.token,): _count(kinds.values(), end) for end in End if end.is_ours},
        )
        yield _counters("bootserve_sent_bytes", "Bytes that clients got of files.", _KIND, sent)
        yield _histograms(
            "bootserve_transfer_duration_seconds",
            "From the request to the end of a transfer.",
            {kind: sums.durations for kind, sums in kinds.items()},
        )
        yield _histograms(
            "bootserve_time_to_first_byte_seconds",
            "From the request until the first byte of the file was given to the kernel.",
            {kind: sums.first_bytes for kind, sums in kinds.items()},
        )
        yield _histograms(
            "bootserve_transfer_rate_bytes_per_second",
            "Mean rate of transfers of 1 MiB and more that came to a good end.",
            {kind: sums.rates for kind, sums in kinds.items()},
        )
        yield _counters(
            "bootserve_transfer_pauses",
            "How often clients paused or fell silent in a transfer.",
            ("protocol",),
            {(protocol,): found.pauses for protocol, found in by_protocol.items()},
        )
        yield _counters(
            "bootserve_transfer_stalled_seconds",
            "Time in which transfers made no progress.",
            ("protocol",),
            {(protocol,): found.stalled for protocol, found in by_protocol.items()},
        )
        yield CounterMetricFamily(
            "bootserve_tftp_blocks_sent_again",
            "TFTP blocks sent more than once.",
            sum(found.sent_again for found in by_protocol.values()),
        )
        yield CounterMetricFamily(
            "bootserve_boots", "Scripts given to machines that boot.", self._tally.scripts
        )


class _Progress:
    """What some transfers come to so far."""

    __slots__ = ("count", "pauses", "sent", "sent_again", "stalled")

    def __init__(self) -> None:
        self.count = self.sent = self.pauses = self.sent_again = 0
        self.stalled = 0.0

    def add(self, other: Sums | _Progress) -> None:
        self.sent += other.sent
        self.pauses += other.pauses
        self.stalled += other.stalled
        self.sent_again += other.sent_again


def _in_flight(transfers: Iterable[Transfer]) -> dict[tuple[str, str, str], _Progress]:
    """Sum transfers up by protocol, architecture and verdict, as of their last looks.

    Asking the kernel about thousands would hold everybody up.
    """
    found: dict[tuple[str, str, str], _Progress] = {}
    for transfer in transfers:
        key = transfer.protocol, transfer.arch, transfer.verdict
        sums = found.get(key)
        if sums is None:
            sums = found[key] = _Progress()
        sums.count += 1
        if transfer.looked_at:
            sums.sent += transfer.seen
            sums.pauses += transfer.pauses
            sums.stalled += transfer.stalled
            if transfer.details:
                sums.sent_again += transfer.details.get(SENT_AGAIN, 0)
    return found


def _kind(protocol: str, arch: str) -> tuple[str, str]:
    return protocol.lower(), arch or _UNKNOWN


def _count(kinds: Iterable[Sums], end: End) -> int:
    return sum(count for sums in kinds for (_, how), count in sums.ends.items() if how is end)


class _State(Collector):
    """What health is judged by."""

    def __init__(self, health: Health, quirks: tuple[str, ...]) -> None:
        self._health = health
        self._quirks = quirks

    def collect(self) -> Iterator[Metric]:
        figures = self._health.figures()
        for name, is_ready in (("bootserve_healthy", False), ("bootserve_ready", True)):
            path = "/readyz" if is_ready else "/healthz"
            is_well = not self._health.reasons(is_ready=is_ready)
            yield GaugeMetricFamily(name, f"1 if {path} answers 200, else 0.", int(is_well))
        descriptors = figures["descriptors"]
        yield GaugeMetricFamily(
            "bootserve_descriptors_in_use", "Descriptors that are open.", descriptors["in_use"]
        )
        if descriptors["limit"] is not None:
            yield GaugeMetricFamily(
                "bootserve_descriptors_limit",
                "Descriptors that the process may have.",
                descriptors["limit"],
            )
        yield GaugeMetricFamily(
            "bootserve_event_loop_lag_seconds",
            "By how much the event loop was late at worst in the last few seconds.",
            figures["loop_lag_seconds"],
        )
        yield CounterMetricFamily(
            "bootserve_refused",
            "HTTP requests that were told to come back later.",
            figures["transfers"]["refused"],
        )
        yield CounterMetricFamily(
            "bootserve_restart_loops",
            "Machines found to begin the same file again and again.",
            figures["restart_loops"],
        )
        if "connections" in figures:
            yield _gauges(
                "bootserve_connections",
                "HTTP connections; those that are idle or silent are among the open ones.",
                ("state",),
                {(state,): count for state, count in figures["connections"].items()},
            )
        if "tftp" in figures:
            yield GaugeMetricFamily(
                "bootserve_tftp_sessions",
                "TFTP transfers, those included whose file is being opened.",
                figures["tftp"]["sessions"],
            )
            yield CounterMetricFamily(
                "bootserve_tftp_refused",
                "TFTP requests that were refused for want of a place, a descriptor or a disk.",
                figures["tftp"]["refused"],
            )
            yield _counters(
                "bootserve_tftp_quirks",
                "What clients did beside the RFCs and were served all the same.",
                ("quirk",),
                {(quirk,): figures["tftp"]["quirks"].get(quirk, 0) for quirk in self._quirks},
            )


class _Process(Collector):
    """The usual metrics of a process, without the files of /proc that a sandbox may hide.

    The library's own collector lists /proc/self/fd, which takes a descriptor and, with thousands of
    them, milliseconds; and it tells nothing at all where /proc/stat cannot be read.
    """

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("bootserve_build", "This program.", {"version": __version__})
        used = resource.getrusage(resource.RUSAGE_SELF)
        yield CounterMetricFamily(
            "process_cpu_seconds", "CPU time, user and system.", used.ru_utime + used.ru_stime
        )
        yield GaugeMetricFamily(
            "process_start_time_seconds", "Start of the process, since 1970.", _STARTED
        )
        try:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
        except OSError:
            return  # no descriptor, or no /proc
        yield GaugeMetricFamily(
            "process_resident_memory_bytes", "Memory that is in RAM.", pages * _PAGE
        )


_Values = Mapping[Any, float]


def _gauges(name: str, text: str, labels: Iterable[str], values: _Values) -> Metric:
    return _filled(GaugeMetricFamily(name, text, labels=tuple(labels)), values)


def _counters(name: str, text: str, labels: Iterable[str], values: _Values) -> Metric:
    return _filled(CounterMetricFamily(name, text, labels=tuple(labels)), values)


def _filled(
    family: GaugeMetricFamily | CounterMetricFamily, values: _Values
) -> GaugeMetricFamily | CounterMetricFamily:
    for labels, value in sorted(values.items()):
        family.add_metric(labels, value)
    return family


def _histograms(name: str, text: str, found: Mapping[tuple[str, str], Histogram]) -> Metric:
    family = HistogramMetricFamily(name, text, labels=_KIND)
    for kind, histogram in found.items():
        buckets = [
            ("+Inf" if bound is None else str(float(bound)), float(count))
            for bound, count in histogram.up_to()
        ]
        family.add_metric(kind, buckets, histogram.sum)
    return family
