"""``GET /metrics``: what Prometheus is told, in its own words.

docs/operating.md says what each metric means. Everything is told from memory, by the event loop's
thread: sums of the `Tally`, what the ledger's last looks saw, and the figures of `Health`.
"""

from __future__ import annotations

import os
import resource
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry
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
from bootserve.watch.ledger import SENT_AGAIN, Ledger
from bootserve.watch.liveness import Verdict
from bootserve.watch.tally import Histogram, Kind, Tally

_KIND: Final = ("protocol", "arch")
_PROTOCOLS: Final = ("http", "tftp")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_STARTED: Final = time.time()


class Metrics:
    """The metrics of one process.

    Args:
        tally: observes ``ledger``.
    """

    def __init__(self, ledger: Ledger, tally: Tally, health: Health) -> None:
        # One of our own: several applications may live in one process.
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Transfers(ledger, tally))
        self._registry.register(_State(health))
        self._registry.register(_Process())

    def render(self, accept: str) -> tuple[bytes, str]:
        """Return the text and its type, for the Accept header of who asks."""
        encoder, content_type = choose_encoder(accept)
        return encoder(self._registry), content_type


class _Transfers(Collector):
    def __init__(self, ledger: Ledger, tally: Tally) -> None:
        self._ledger = ledger
        self._tally = tally

    def collect(self) -> Iterator[Metric]:
        tally = self._tally
        sent, again = Counter(tally.sent), tally.sent_again
        live = Counter({(p, v.value): 0 for p in _PROTOCOLS for v in Verdict if v != Verdict.GONE})
        # As of their last look: asking the kernel about thousands would hold everybody up.
        for transfer in self._ledger.live:
            kind = tally.kind(transfer)
            sent[kind] += transfer.seen
            live[kind[0], transfer.verdict or Verdict.MOVING.value] += 1
            again += transfer.details.get(SENT_AGAIN, 0)
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
            tally.ends,
        )
        yield _counters("bootserve_sent_bytes", "Bytes that clients got of files.", _KIND, sent)
        yield _histograms(
            "bootserve_transfer_duration_seconds",
            "From the request to the end of a transfer.",
            tally.durations,
        )
        yield _histograms(
            "bootserve_time_to_first_byte_seconds",
            "From the request until the first byte of the file was given to the kernel.",
            tally.first_bytes,
        )
        yield _histograms(
            "bootserve_transfer_rate_bytes_per_second",
            "Mean rate of transfers of 1 MiB and more that came to a good end.",
            tally.rates,
        )
        yield _counters(
            "bootserve_transfer_pauses",
            "How often clients paused or fell silent, in transfers that have ended.",
            ("protocol",),
            {(protocol,): tally.pauses[protocol] for protocol in _PROTOCOLS},
        )
        yield _counters(
            "bootserve_transfer_stalled_seconds",
            "Time without progress in transfers that have ended.",
            ("protocol",),
            {(protocol,): tally.stalled.get(protocol, 0.0) for protocol in _PROTOCOLS},
        )
        yield CounterMetricFamily(
            "bootserve_tftp_blocks_sent_again", "TFTP blocks sent more than once.", again
        )
        yield CounterMetricFamily(
            "bootserve_boots", "Scripts given to machines that boot.", tally.scripts
        )


class _State(Collector):
    """What health is judged by."""

    def __init__(self, health: Health) -> None:
        self._health = health

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
            yield _counters(
                "bootserve_tftp_quirks",
                "What clients did beside the RFCs and were served all the same.",
                ("quirk",),
                {(quirk,): count for quirk, count in figures["tftp"]["quirks"].items()},
            )


class _Process(Collector):
    """The usual metrics of a process, without the files of /proc that a sandbox hides."""

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


def _histograms(name: str, text: str, found: Mapping[Kind, Histogram]) -> Metric:
    family = HistogramMetricFamily(name, text, labels=_KIND)
    for kind, histogram in sorted(found.items()):
        buckets = [
            ("+Inf" if bound is None else str(float(bound)), float(count))
            for bound, count in histogram.up_to()
        ]
        family.add_metric(kind, buckets, histogram.sum)
    return family
