"""What a monitor gets from a running server."""

from __future__ import annotations

import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.http.conftest import DEADLINE, Door, eventually, read_response
from tests.real import server
from tests.real.process import wait_until

Ask = Callable[[str], tuple[int, dict[str, Any]]]


def _get_json(url: str) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(url, timeout=DEADLINE) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.fixture
def ask(tmp_path: Path) -> Iterator[Ask]:
    (tmp_path / "root").mkdir()
    config = tmp_path / "bootserve.toml"
    config.write_text(
        '[http]\nlisten = ["127.0.0.1:0"]\n[tftp]\nlisten = ["127.0.0.1:0"]\n'
        '[assets]\nroots = ["root"]\n'
    )
    process = server.start(config)
    try:
        port = int(process.wait_for(r"^HTTP .*http://127\.0\.0\.1:(\d+)", 10)[1])
        yield lambda path: _get_json(f"http://127.0.0.1:{port}{path}")
    finally:
        process.stop()


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_a_server_that_is_well_says_so(ask: Ask, path: str) -> None:
    status, report = ask(path)
    assert status == 200
    assert report["status"] == "ok"
    assert report["reasons"] == []
    assert report["transfers"] == {"http": 0, "tftp": 0, "silent": 0, "refused": 0}
    assert report["connections"]["open"] == 1
    assert 0 < report["descriptors"]["in_use"] < report["descriptors"]["limit"]
    assert report["loop_lag_seconds"] >= 0


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_a_root_that_is_gone_turns_it_red(ask: Ask, tmp_path: Path, path: str) -> None:
    shutil.rmtree(tmp_path / "root")
    wait_until(lambda: ask(path)[0] == 503, 30, "red")
    [reason] = ask(path)[1]["reasons"]
    assert str(tmp_path / "root") in reason
    assert "does not exist" in reason
    (tmp_path / "root").mkdir()
    wait_until(lambda: ask(path)[0] == 200, 30, "green again")


async def test_what_is_in_flight_is_told(door: Door) -> None:
    (door.root / "big").write_bytes(bytes(8 << 20))
    with await door.request("GET /boot/big HTTP/1.1\nHost: x\n\n", receive_buffer=4096):
        await eventually(lambda: len(door.ledger.live) == 1)
        with await door.request("GET /healthz HTTP/1.1\nHost: x\n\n") as monitor:
            head, body = await read_response(monitor)
        assert "content-type: application/json" in head
        assert "cache-control: no-store" in head
        assert json.loads(body)["transfers"]["http"] == 1
