"""Firmware that never gets to the end of what it asks for over TFTP."""

from __future__ import annotations

from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from bootserve.assembly import watch_restarts
from bootserve.catalog.catalog import Catalog
from bootserve.settings import load
from bootserve.watch.ledger import Ledger

from .harness import RawClient, Running, Shelf, serving

BODY = bytes(100_000)
GAVE_UP = b"\0\5\0\0gave up\0"
REFUSED = b"\0\5\0\x08only asking\0"


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    settings = load(None, {"assets": {"roots": [tmp_path]}, "lanes": {"auto_lane": True}})
    return Ledger(observers=(watch_restarts(settings, Catalog(settings)),))


async def give_up(running: Running, blocks: int) -> None:
    with RawClient(running.address) as client:
        client.ask_for("firmware")
        for block in range(1, blocks + 1):
            await client.receive()
            client.ack(block)
        await client.receive()
        client.send(GAVE_UP)
        while running.ledger.live:
            await anyio.lowlevel.checkpoint()


async def ask_for_the_size(running: Running) -> None:
    """As UEFI does before it asks for the file (tsize, then ERROR 8)."""
    with RawClient(running.address) as client:
        client.ask_for("firmware", "tsize", "0")
        await client.receive()
        client.send(REFUSED)
        while running.ledger.live:
            await anyio.lowlevel.checkpoint()


def loops(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [message for message in caplog.messages if message.startswith("restart loop")]


async def test_the_third_beginning_is_a_restart_loop(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(Shelf(firmware=BODY), ledger=ledger) as running:
        for blocks in (3, 5):
            await ask_for_the_size(running)
            await give_up(running, blocks)
        assert loops(caplog) == []
        with RawClient(running.address) as client:
            assert await client.fetch("firmware") == BODY
        await running.drained()
    assert loops(caplog) == [
        "restart loop: 127.0.0.1 begins firmware from zero for the 3rd time in this boot; it"
        " stopped at 1536 and 2560 of 100000 bytes, the last time: client reported an error"
    ]


async def test_asking_for_the_size_or_getting_the_file_is_no_loop(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(Shelf(firmware=BODY), ledger=ledger) as running:
        for _ in range(3):
            await ask_for_the_size(running)
            await give_up(running, 3)
            with RawClient(running.address) as client:
                assert await client.fetch("firmware") == BODY
        await running.drained()
    assert loops(caplog) == []


async def test_whoever_had_to_make_room_is_in_no_loop(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(Shelf(firmware=BODY), ledger=ledger, max_sessions=1) as running:
        for _ in range(4):
            with RawClient(running.address) as client:
                client.ask_for("firmware")
                assert (await client.receive())[:4] == b"\0\3\0\1"
        with RawClient(running.address) as client:
            assert await client.fetch("firmware") == BODY
        await running.drained()
    assert caplog.text.count(": made room for another, nothing was acknowledged") == 4
    assert loops(caplog) == []
