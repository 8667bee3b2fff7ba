from __future__ import annotations

import json

import anyio
import anyio.lowlevel
import pytest

from bootserve.watch.budget import Budget
from bootserve.watch.health import Health
from bootserve.watch.ledger import End, Ledger, Transfer
from bootserve.watch.status import Status, checked_recent


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def status(ledger: Ledger) -> Status:
    return Status(ledger, Health(Budget(), ledger), http=["*:80"])


def _open(ledger: Ledger, name: str) -> Transfer:
    return ledger.open(protocol="HTTP", client="192.0.2.9", machine=None, name=name, total=2000)


async def _text(status: Status, recent: int = 10) -> bytes:
    return b"".join([piece async for piece in status.pieces(recent)])


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 130])
async def test_it_is_one_json_object_however_many_there_are(
    count: int, ledger: Ledger, status: Status
) -> None:
    opened = [_open(ledger, f"file-{number}") for number in range(count)]
    text = await _text(status)
    assert b"\n" not in text
    assert [each["name"] for each in json.loads(text)["transfers"]] == [t.name for t in opened]
    for transfer in opened:
        transfer.close(End.COMPLETE)
    said = json.loads(await _text(status, 100))
    assert said["transfers"] == []
    latest = [f"file-{number}" for number in range(count)][::-1][:100]
    assert [each["name"] for each in said["recent"]] == latest
    assert json.loads(await _text(status, 0))["recent"] == []


async def test_thousands_hold_up_neither_the_loop_nor_anybody(
    ledger: Ledger, status: Status
) -> None:
    for number in range(5000):
        _open(ledger, f"file-{number}")
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(count)
        sizes = [len(piece) async for piece in status.pieces()]
        tasks.cancel_scope.cancel()
    assert turns >= 5000 // 64
    assert max(sizes) < 64 * 1024
    assert sum(sizes) > 1_000_000


async def test_what_ends_while_it_is_written_down_is_told_once(
    ledger: Ledger, status: Status
) -> None:
    opened = [_open(ledger, f"file-{number}") for number in range(128)]
    pieces = status.pieces(10)
    text = b""
    async for piece in pieces:
        text += piece
        if b"file-63" in piece:
            opened[100].close(End.COMPLETE)
    said = json.loads(text)
    assert "file-100" not in [each["name"] for each in said["transfers"]]
    assert [each["name"] for each in said["recent"]] == ["file-100"]


async def test_what_ends_after_it_was_written_down_is_not_told_again(
    ledger: Ledger, status: Status
) -> None:
    opened = [_open(ledger, f"file-{number}") for number in range(128)]
    text = b""
    async for piece in status.pieces():
        text += piece
        if b'"file-0"' in text:
            opened[0].close(End.COMPLETE)
    said = json.loads(text)
    assert [each["name"] for each in said["transfers"]] == [each.name for each in opened]
    assert said["recent"] == []


def test_how_many_that_have_ended() -> None:
    assert checked_recent(None) == 10
    assert checked_recent(0) == checked_recent("0") == 0
    assert checked_recent(1000) == checked_recent("1000") == 1000
    nonsense: tuple[object, ...] = (-1, 1001, True, 1.0, "", "x", "-1", "9" * 5000, "²", [])
    for wrong in nonsense:
        with pytest.raises(ValueError, match="a whole number from 0 to 1000"):
            checked_recent(wrong)
