from __future__ import annotations

import json
import logging

import anyio
import anyio.lowlevel
import pytest

from bootserve.watch.budget import Budget
from bootserve.watch.health import Health
from bootserve.watch.ledger import End, Ledger, Transfer
from bootserve.watch.liveness import Verdict
from bootserve.watch.quiet import tell_all
from bootserve.watch.report import entry
from bootserve.watch.status import Status


class _Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> _Clock:
    return _Clock()


@pytest.fixture
def ledger(clock: _Clock, caplog: pytest.LogCaptureFixture) -> Ledger:
    caplog.set_level(logging.DEBUG, logger="bootserve.transfer")
    return Ledger(clock)


def _open(ledger: Ledger, name: str = "x86_64/vmlinuz", machine: str | None = None) -> Transfer:
    return ledger.open(protocol="HTTP", client="192.0.2.9", machine=machine, name=name, total=2000)


def test_the_line_of_a_transfer(
    ledger: Ledger, clock: _Clock, caplog: pytest.LogCaptureFixture
) -> None:
    transfer = _open(ledger, machine="52:54:00:12:34:56")
    assert caplog.messages == []
    transfer.sent = 2000
    clock.now += 12.34
    transfer.close(End.COMPLETE)
    assert caplog.messages == [
        "HTTP 192.0.2.9 (52:54:00:12:34:56) x86_64/vmlinuz 2000 of 2000 bytes in 12.3 s: complete"
    ]


@pytest.mark.parametrize("end", [End.MADE_ROOM, End.REPLACED])
def test_what_a_forged_datagram_can_cause_is_bounded_and_hides_no_real_transfer(
    ledger: Ledger, caplog: pytest.LogCaptureFixture, end: End
) -> None:
    for _ in range(1000):
        _open(ledger).close(end)
    assert len(caplog.messages) == 50
    real = _open(ledger)
    real.sent = 512
    real.close(end)
    _open(ledger).close(End.CLIENT_SILENT)
    assert [message.rpartition(": ")[2] for message in caplog.messages[50:]] == [
        end.value,
        End.CLIENT_SILENT.value,
    ]
    assert len(ledger.recent) == 1000
    tell_all()
    assert caplog.messages[-1] == "left out 950 lines like those before"


def test_the_line_of_one_that_broke_off(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    transfer = _open(ledger)
    transfer.sent = 7
    transfer.details = {"blocks sent again": 3, "duplicate ACKs": 0}
    transfer.close(End.CLIENT_LEFT, "reset by peer")
    assert caplog.messages == [
        "HTTP 192.0.2.9 x86_64/vmlinuz 7 of 2000 bytes in 0.0 s, 3 blocks sent again:"
        " client closed the connection (reset by peer)"
    ]


@pytest.mark.parametrize(
    ("end", "level"),
    [
        (End.COMPLETE, logging.INFO),
        (End.OPTIONS_REFUSED, logging.INFO),
        (End.REPLACED, logging.INFO),
        (End.CLIENT_LEFT, logging.WARNING),
        (End.CLIENT_ERROR, logging.WARNING),
        (End.CLIENT_SILENT, logging.WARNING),
        (End.FILE_ERROR, logging.WARNING),
        (End.SERVER_STOPPED, logging.WARNING),
    ],
)
def test_what_a_healthy_machine_does_is_no_warning(
    ledger: Ledger, caplog: pytest.LogCaptureFixture, end: End, level: int
) -> None:
    _open(ledger).close(end)
    assert [record.levelno for record in caplog.records] == [level]
    assert caplog.messages[0].endswith(f": {end.value}")


def test_the_first_verdict_stands(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    transfer = _open(ledger)
    transfer.close(End.CLIENT_SILENT)
    transfer.close(End.COMPLETE, "too late")
    assert len(caplog.messages) == 1
    assert caplog.messages[0].endswith(": client fell silent")


def test_two_alike_are_two(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    one, two = _open(ledger), _open(ledger)
    assert set(ledger.live) == {one, two}
    one.close(End.COMPLETE)
    assert set(ledger.live) == {two}
    two.close(End.COMPLETE)
    assert not ledger.live
    assert len(caplog.messages) == 2


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("a\nHTTP", r"a\nHTTP"),
        ("a\x1b[2J", r"a\x1b[2J"),
        ("a\u202eb", r"a\u202eb"),
        ("a\ud800b", r"a\ud800b"),
        ("a%s%d", "a%s%d"),
    ],
)
def test_nothing_from_the_network_forges_a_line(
    ledger: Ledger, caplog: pytest.LogCaptureFixture, hostile: str, shown: str
) -> None:
    ledger.open(protocol="TFTP", client=hostile, machine=hostile, name=hostile, total=1).close(
        End.CLIENT_ERROR, hostile
    )
    (message,) = caplog.messages
    assert message == (
        f"TFTP {shown} ({shown}) {shown} 0 of 1 bytes in 0.0 s: client reported an error ({shown})"
    )


def test_a_name_with_blanks_cannot_imitate_the_rest_of_its_line(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    name = 'x" 5 of 5 bytes in 0.0 s: complete'
    ledger.open(protocol="HTTP", client="a", machine=None, name=name, total=1).close(
        End.CLIENT_LEFT
    )
    (message,) = caplog.messages
    assert message.startswith(r'HTTP a "x\" 5 of 5 bytes in 0.0 s: complete" 0 of 1 bytes')


def test_the_door_is_asked_how_far_it_is_only_when_somebody_looks_and_at_the_end(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[int] = []

    def meter() -> int:
        asked.append(0)
        return 100 * len(asked)

    transfer = _open(ledger)
    transfer.meter = meter
    transfer.sent = 7
    assert (transfer in ledger.live, asked) == (True, [])
    assert [transfer.progress, transfer.progress] == [100, 200]
    transfer.close(End.CLIENT_LEFT)
    assert len(asked) == 3
    transfer.close(End.COMPLETE)
    assert len(asked) == 3
    assert " 300 of 2000 bytes " in caplog.messages[0]


def test_progress_stands_still_when_it_is_over(ledger: Ledger) -> None:
    got = 500
    metered, counted = _open(ledger), _open(ledger)
    metered.meter = lambda: got
    counted.sent = 500
    for transfer in (metered, counted):
        transfer.close(End.CLIENT_LEFT)
    # The connection goes on to its next answer.
    got = 1500
    assert (metered.progress, metered.sent) == (500, 500)
    assert (counted.progress, counted.sent) == (500, 500)


def test_what_is_noted_while_it_is_under_way(ledger: Ledger, clock: _Clock) -> None:
    transfer = _open(ledger)
    transfer.sends(clock.now + 0.25)
    transfer.sends(clock.now + 9)
    for seconds, sent, verdict in [
        (5, 1000, Verdict.MOVING),
        (5, 1000, Verdict.MOVING),
        (5, 1000, Verdict.PAUSED),
        (5, 1000, Verdict.SILENT),
        (2, 1500, Verdict.SLOW),
        (5, 1500, Verdict.PAUSED),
        (1, 1600, Verdict.SLOW),
    ]:
        clock.now += seconds
        transfer.sent = sent
        transfer.look(verdict, clock.now)
    clock.now += 4
    found = entry(transfer, clock.now, wall=5_000_000.0)
    assert found["started"] == 5_000_000 - 32
    assert found["first_byte_seconds"] == 0.25
    assert (found["sent"], found["total"], found["seconds"]) == (1600, 2000, 32)
    assert (found["rate"], found["mean_rate"]) == (100, 50)
    assert (found["pauses"], found["stalled_seconds"]) == (2, 20)
    assert (found["verdict"], found["end"], found["protocol"]) == ("slow", None, "http")


def test_what_is_remembered_after_its_end(clock: _Clock) -> None:
    ledger = Ledger(clock, recent=2)
    for number, end in enumerate([End.COMPLETE, End.CLIENT_LEFT, End.UNCONFIRMED]):
        transfer = _open(ledger, f"file-{number}")
        clock.now += 10
        transfer.sent = 500
        transfer.close(end, "because")
    clock.now += 100
    found = [entry(each, clock.now, wall=1000.0) for each in ledger.recent]
    assert [each["name"] for each in found] == ["file-1", "file-2"]
    assert [each["end"] for each in found] == ["client_left", "unconfirmed"]
    assert found[1] | {"id": 0} == found[1] | {
        "id": 0,
        "seconds": 10,
        "started": 890,
        "rate": 50,
        "mean_rate": 50,
        "end_text": "sent in full, its end not acknowledged",
        "reason": "because",
        "verdict": None,
        "machine": None,
    }


async def test_many_are_written_down_in_turns(ledger: Ledger) -> None:
    transfers = [_open(ledger, f"file-{number}") for number in range(1000)]
    others = 0

    async def count() -> None:
        nonlocal others
        while True:
            others += 1
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(count)
        status = Status(ledger, Health(Budget(), ledger))
        found = json.loads(b"".join([piece async for piece in status.pieces()]))["transfers"]
        tasks.cancel_scope.cancel()
    assert [each["name"] for each in found] == [each.name for each in transfers]
    assert others >= 10


def test_every_observer_hears_of_everything(clock: _Clock) -> None:
    heard: list[tuple[str, ...]] = []

    class Listener:
        def __init__(self, name: str) -> None:
            self._name = name

        def began(self, transfer: Transfer) -> None:
            heard.append((self._name, "began", transfer.name))

        def ended(self, transfer: Transfer, end: End, now: float) -> None:
            heard.append((self._name, end.token, transfer.name))

        def boots(self, name: str) -> None:
            heard.append((self._name, "boots", name))

    ledger = Ledger(clock, observers=(Listener("one"), Listener("two")))
    _open(ledger, "x").close(End.REPLACED)
    ledger.boots("db1")
    assert heard == [
        ("one", "began", "x"),
        ("two", "began", "x"),
        ("one", "replaced", "x"),
        ("two", "replaced", "x"),
        ("one", "boots", "db1"),
        ("two", "boots", "db1"),
    ]
