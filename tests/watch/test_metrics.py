"""What is told to Prometheus, read back with its own client library."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from bootserve.catalog.model import Arch
from bootserve.catalog.names import architecture_of
from bootserve.http.app import create_app
from bootserve.settings import load
from bootserve.watch.budget import Budget
from bootserve.watch.health import Health
from bootserve.watch.ledger import End, Ledger, Transfer
from bootserve.watch.liveness import Verdict
from bootserve.watch.metrics import Metrics
from bootserve.watch.tally import Tally

_QUIRKS = ("oack-refused", "burst-lost")
_WORDS: Mapping[str, set[str]] = {
    "protocol": {"http", "tftp"},
    "arch": {"unknown", *Arch},
    "verdict": {"none", *Verdict},
    "end": {end.token for end in End},
    "quirk": set(_QUIRKS),
    "state": {"open", "idle", "silent"},
}

_Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class _Site:
    """A process with a clock of its own and no doors."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.quirks: dict[str, int] = {}
        self.budget = Budget(100, 10)
        self.loops = 0
        tally = Tally()
        self.ledger = Ledger(lambda: self.now, observers=(tally,))
        self.health = Health(
            self.budget,
            self.ledger,
            loops=lambda: self.loops,
            extra=self._extra,
            clock=lambda: self.now,
        )
        self._metrics = Metrics(self.ledger, tally, self.health, quirks=_QUIRKS)

    def _extra(self) -> dict[str, Any]:
        return {
            "connections": {"open": 3, "idle": 2, "silent": 1},
            "tftp": {"sessions": 4, "refused": 0, "quirks": self.quirks},
        }

    def scrape(self, accept: str = "") -> tuple[str, str]:
        body, content_type = anyio.run(self._metrics.render, accept)
        return body.decode(), content_type

    def samples(self) -> _Samples:
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(self.scrape()[0])
            for sample in family.samples
        }

    def get(self, name: str, **labels: str) -> float:
        return self.samples()[name, tuple(sorted(labels.items()))]

    def open(self, protocol: str = "HTTP", arch: str = "i386", total: int = 100) -> Transfer:
        return self.ledger.open(
            protocol=protocol, client="c", machine=None, name="f", total=total, arch=arch
        )


@given(st.data())
def test_bytes_never_go_back(data: st.DataObject) -> None:
    site = _Site()
    live: list[Transfer] = []
    told: _Samples = {}
    for _ in range(data.draw(st.integers(1, 12))):
        site.now += 1.0
        match data.draw(st.sampled_from(["open", "send", "look", "end"])):
            case "open":
                protocol = data.draw(st.sampled_from(["HTTP", "TFTP"]))
                live.append(site.open(protocol, total=1 << 30))
            case "send" if live:
                data.draw(st.sampled_from(live)).sent += data.draw(st.integers(1, 1000))
            case "look" if live:
                data.draw(st.sampled_from(live)).look(Verdict.PAUSED, site.now)
            case "end" if live:
                live.pop(data.draw(st.integers(0, len(live) - 1))).close(End.CLIENT_LEFT)
        now = {
            key: value
            for key, value in site.samples().items()
            if key[0].endswith(("_total", "_bucket", "_count"))
        }
        assert all(now[key] >= value for key, value in told.items())
        told = now
    assert sum(
        value for (name, _), value in told.items() if name == "bootserve_sent_bytes_total"
    ) == sum(transfer.sent for transfer in site.ledger.recent) + sum(one.seen for one in live)


def test_a_transfer_in_flight_counts_as_its_last_look_saw_it() -> None:
    site = _Site()
    transfer = site.open(total=500)
    fresh = {"protocol": "http", "verdict": "moving"}
    assert site.get("bootserve_transfers_in_flight", **fresh) == 1
    transfer.meter = lambda: 1 / 0  # type: ignore[assignment]  # it is not asked
    transfer.seen, transfer.looked_at, transfer.verdict = 300, site.now, "paused"
    transfer.pauses, transfer.stalled = 2, 20.0
    assert site.get("bootserve_transfers_in_flight", **fresh) == 0
    assert site.get("bootserve_transfers_in_flight", protocol="http", verdict="paused") == 1
    assert site.get("bootserve_sent_bytes_total", protocol="http", arch="i386") == 300
    assert site.get("bootserve_transfer_pauses_total", protocol="http") == 2
    assert site.get("bootserve_transfer_stalled_seconds_total", protocol="http") == 20
    transfer.meter, transfer.sent = None, 400
    transfer.close(End.CLIENT_SILENT)
    assert site.get("bootserve_sent_bytes_total", protocol="http", arch="i386") == 400
    assert site.get("bootserve_transfer_pauses_total", protocol="http") == 2
    how = {"protocol": "http", "arch": "i386", "verdict": "paused", "end": "client_silent"}
    assert site.get("bootserve_transfers_total", **how) == 1


def test_what_alerts_look_at_is_there_from_the_start() -> None:
    told = _Site().samples()
    for name, label in (("transfers_broken_off", "end"), ("tftp_quirks", "quirk")):
        words = _WORDS[label] if label == "quirk" else {end.token for end in End if end.is_ours}
        assert {
            labels[0][1]: value
            for (found, labels), value in told.items()
            if found == f"bootserve_{name}_total"
        } == dict.fromkeys(words, 0)
    for name in (
        *("restart_loops", "refused", "boots"),
        *("tftp_refused", "tftp_blocks_sent_again"),
    ):
        assert told[f"bootserve_{name}_total", ()] == 0
    verdicts = [key for key in told if key[0] == "bootserve_transfers_in_flight"]
    assert len(verdicts) == len(_WORDS["protocol"]) * (len(Verdict) - 1)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["HTTP", "TFTP"]),
            st.text(max_size=20) | st.sampled_from(["x86_64/vmlinuz", "a/arm64", "undionly.kpxe"]),
            st.text(max_size=10),
            st.sampled_from([None, *Verdict]),
            st.sampled_from([None, *End]),
        ),
        max_size=10,
    )
)
def test_no_client_can_make_a_label(
    what: list[tuple[str, str, str, Verdict | None, End | None]],
) -> None:
    site = _Site()
    for protocol, name, client, verdict, end in what:
        transfer = site.ledger.open(
            protocol=protocol,
            client=client,
            machine=client,
            name=name,
            total=1 << 20,
            agent=client,
            arch=architecture_of(name),
        )
        site.ledger.boots(client)
        if verdict is not None:
            transfer.look(verdict, site.now)
        if end is not None:
            transfer.close(end, client)
    for _, labels in site.samples():
        for label, value in labels:
            if label not in ("le", "version"):
                assert value in _WORDS[label]


@pytest.mark.parametrize("end", [end for end in End if end.is_ours])
def test_what_this_server_broke_off_is_told_apart(end: End) -> None:
    site = _Site()
    site.open().close(end)
    site.open("TFTP").close(end)
    site.open().close(End.CLIENT_LEFT)
    told = site.samples()
    broken = {
        labels[0][1]: value
        for (name, labels), value in told.items()
        if name == "bootserve_transfers_broken_off_total"
    }
    assert (broken.pop(end.token), set(broken.values())) == (2, {0})


def test_rates_are_of_whole_files_that_are_large_enough() -> None:
    site = _Site()
    for end, size in itertools.product((End.COMPLETE, End.CLIENT_LEFT), (1000, 4 << 20)):
        transfer = site.open(total=size)
        transfer.sent = size
        site.now += 2.0
        transfer.close(end)
    kind = {"protocol": "http", "arch": "i386"}
    assert site.get("bootserve_transfer_rate_bytes_per_second_count", **kind) == 1
    assert site.get("bootserve_transfer_rate_bytes_per_second_sum", **kind) == 2 << 20
    assert site.get("bootserve_transfer_duration_seconds_count", **kind) == 4


def test_health_and_readiness_are_figures() -> None:
    site = _Site()
    assert (site.get("bootserve_healthy"), site.get("bootserve_ready")) == (1, 1)
    site.health.is_serving = False
    assert (site.get("bootserve_healthy"), site.get("bootserve_ready")) == (1, 0)
    site.budget.connections = 80
    assert (site.get("bootserve_healthy"), site.get("bootserve_ready")) == (0, 0)
    assert site.get("bootserve_descriptors_in_use") == 90
    assert site.get("bootserve_descriptors_limit") == 100
    site.loops = 3
    assert site.get("bootserve_restart_loops_total") == 3
    assert site.get("bootserve_connections", state="silent") == 1
    assert site.get("bootserve_tftp_sessions") == 4
    site.quirks = {"burst-lost": 5, "not-one-of-ours": 1}
    assert site.get("bootserve_tftp_quirks_total", quirk="burst-lost") == 5


@given(
    st.text(st.characters(max_codepoint=255), max_size=30)
    | st.builds(
        "{};{}={}".format,
        st.sampled_from(["application/openmetrics-text", "text/plain"]),
        st.sampled_from(["version", "escaping", "q"]),
        st.sampled_from(["", "abc", "1.x", "0.0.1", "1.0.0", "99", "9" * 5000, '"1.0.0"', "dots"]),
    )
)
def test_no_accept_header_is_too_odd(accept: str) -> None:
    text, content_type = _Site().scrape(accept)
    assert "bootserve_healthy 1.0\n" in text
    assert text.endswith("# EOF\n") == content_type.startswith("application/openmetrics-text")
    assert text.count("# EOF") <= 1


async def test_an_application_alone_tells_them_too(tmp_path: Path) -> None:
    (tmp_path / "i386").mkdir()
    (tmp_path / "i386" / "vmlinuz").write_bytes(b"kernel")
    apps = [create_app(load(None, {"assets": {"roots": [tmp_path]}})) for _ in range(2)]
    texts = []
    for app in apps:
        transport = httpx.ASGITransport(app, client=("192.0.2.7", 4711))
        async with httpx.AsyncClient(transport=transport, base_url="http://boot") as client:
            await client.get("/boot/i386/vmlinuz")
            got = await client.get("/metrics")
        assert got.headers["content-type"].startswith("text/plain; version=0.0.4")
        texts.append(got.text)
    one = 'bootserve_sent_bytes_total{arch="i386",protocol="http"} 6.0\n'
    assert [one in text for text in texts] == [True, True], "they share nothing"


def test_where_no_descriptor_is_left_they_are_told_all_the_same() -> None:
    program = (
        "import anyio, os, resource\n"
        "from tests.watch.test_metrics import _Site\n"
        "site = _Site()\n"
        "async def scrape():\n"
        "    before, _ = await site._metrics.render('')\n"
        "    fd = os.dup(0); os.close(fd)\n"
        "    resource.setrlimit(resource.RLIMIT_NOFILE, (fd, fd))\n"
        "    after, _ = await site._metrics.render('')\n"
        "    return before, after\n"
        "before, after = anyio.run(scrape)\n"
        "assert b'process_resident_memory_bytes ' in before\n"
        "assert b'process_resident_memory_bytes ' not in after\n"
        "assert b'process_cpu_seconds_total ' in after and b'bootserve_healthy 1.0' in after\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
