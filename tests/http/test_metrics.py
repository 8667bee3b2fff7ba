"""What Prometheus gets from a running server, read with its own client library."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from tests import needs
from tests.http.conftest import DEADLINE
from tests.real import server
from tests.real.process import wait_until

_SIZE = 2 << 20
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


class _Server:
    def __init__(self, http: int, tftp: int) -> None:
        self.http = http
        self.tftp = tftp

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.http}{path}"

    def scrape(self, accept: str = "") -> str:
        request = urllib.request.Request(self.url("/metrics"), headers={"accept": accept})
        with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
            return str(answer.read().decode())

    def samples(self) -> Samples:
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(self.scrape())
            for sample in family.samples
        }


def _get(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Server]:
    folder = tmp_path_factory.mktemp("metrics")
    (folder / "root" / "i386").mkdir(parents=True)
    (folder / "root" / "i386" / "initramfs").write_bytes(bytes(_SIZE))
    config = folder / "bootserve.toml"
    config.write_text(
        '[http]\nlisten = ["127.0.0.1:0"]\n[tftp]\nlisten = ["127.0.0.1:0"]\n'
        '[assets]\nroots = ["root"]\n'
    )
    process = server.start(config)
    try:
        http = int(process.wait_for(r"^HTTP .*http://127\.0\.0\.1:(\d+)", 10)[1])
        tftp = int(process.wait_for(r"^TFTP .*127\.0\.0\.1:(\d+)", 10)[1])
        yield _Server(http, tftp)
    finally:
        process.stop()


def test_transfers_of_both_doors_are_counted(running: _Server, tmp_path: Path) -> None:
    curl = needs.program("curl", "curl")
    before = running.samples()
    tftp = f"tftp://127.0.0.1:{running.tftp}/i386/initramfs"
    for url in (running.url("/boot/i386/initramfs"), tftp):
        command = [curl, "-sS", "--tftp-no-options", "-o", "out", url]
        subprocess.run(command, cwd=tmp_path, timeout=DEADLINE, check=True)
        assert (tmp_path / "out").stat().st_size == _SIZE
    with urllib.request.urlopen(running.url("/machine.ipxe?mac=52:54:00:00:00:01")):
        pass

    def has_ended(protocol: str) -> bool:
        ended = [
            value
            for (name, labels), value in running.samples().items()
            if name == "bootserve_transfers_total"
            and {("protocol", protocol), ("arch", "i386"), ("end", "complete")} <= labels
        ]
        return sum(ended) == 1

    wait_until(lambda: has_ended("http") and has_ended("tftp"), DEADLINE, "both ends")
    after = running.samples()
    for protocol in ("http", "tftp"):
        kind = {"protocol": protocol, "arch": "i386"}
        assert _get(after, "bootserve_sent_bytes_total", **kind) == _SIZE
        for histogram in (
            "bootserve_transfer_duration_seconds",
            "bootserve_time_to_first_byte_seconds",
            "bootserve_transfer_rate_bytes_per_second",
        ):
            assert _get(after, f"{histogram}_count", **kind) == 1
            assert _get(after, f"{histogram}_bucket", le="+Inf", **kind) == 1
        duration = _get(after, "bootserve_transfer_duration_seconds_sum", **kind)
        first = _get(after, "bootserve_time_to_first_byte_seconds_sum", **kind)
        assert 0 <= first <= duration
    assert _get(after, "bootserve_boots_total") == _get(before, "bootserve_boots_total") + 1
    assert _get(after, "bootserve_healthy") == _get(after, "bootserve_ready") == 1
    assert _get(after, "bootserve_tftp_quirks_total", quirk="blksize-512") == 1


def test_what_is_in_flight_is_told_and_goes(running: _Server) -> None:
    def in_flight() -> float:
        return sum(
            value
            for (name, labels), value in running.samples().items()
            if name == "bootserve_transfers_in_flight" and ("protocol", "http") in labels
        )

    with socket.create_connection(("127.0.0.1", running.http), DEADLINE) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(b"GET /boot/i386/initramfs HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_until(lambda: in_flight() == 1, DEADLINE, "the transfer")
    wait_until(lambda: in_flight() == 0, DEADLINE, "its end")


def test_prometheus_own_check_has_nothing_to_complain_of(running: _Server) -> None:
    promtool = needs.program("promtool", "prometheus")
    found = subprocess.run(
        [promtool, "check", "metrics"],
        input=running.scrape(),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


def test_open_metrics_for_those_who_ask_for_it(running: _Server) -> None:
    text = running.scrape("application/openmetrics-text; version=1.0.0")
    families = openmetrics.text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
    names = {family.name for family in families}
    assert {"bootserve_transfers", "bootserve_transfers_in_flight"} <= names


def test_nothing_of_a_client_is_in_it(running: _Server) -> None:
    for path in ("/machine.ipxe?mac=52:54:00:00:00:02&hostname=secret", "/boot/no/secret"):
        with contextlib.suppress(urllib.error.HTTPError):
            urllib.request.urlopen(running.url(path), timeout=DEADLINE).close()
    assert not re.search(r"secret|52:54|127\.0\.0\.1|initramfs", running.scrape())
