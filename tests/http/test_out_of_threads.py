"""No thread for what waits for a disk: who asks is told to come back later."""

from __future__ import annotations

import logging
import threading

import pytest

from tests.http.conftest import Door, read_response


async def _status_of(door: Door, target: str) -> str:
    with await door.request(f"GET {target} HTTP/1.1\nHost: x\n\n") as client:
        head, _ = await read_response(client)
    return head.split()[1]


async def test_a_script_that_takes_a_thread_is_to_be_had_later(
    door: Door, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    target = "/machine.ipxe?mac=52:54:00:12:34:56"
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        assert await _status_of(door, target) == "503"
    [told] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "raise TasksMax" in told.getMessage()
    assert await _status_of(door, target) == "200"
