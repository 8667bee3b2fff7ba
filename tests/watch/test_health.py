"""What a monitor is told, and that nothing has to be waited for to tell it."""

from __future__ import annotations

import threading
import time

import anyio
import anyio.lowlevel
import pytest

from bootserve.watch import health as module
from bootserve.watch.budget import Budget
from bootserve.watch.health import Health
from bootserve.watch.ledger import End, Ledger

DEADLINE = 60


def test_a_healthy_process_says_so() -> None:
    status, report = Health(Budget(100, 10), Ledger()).report(is_ready=True)
    assert status == 200
    assert report["status"] == "ok"
    assert report["reasons"] == []
    assert report["descriptors"] == {"in_use": 10, "limit": 100}


def test_it_tells_what_is_in_flight_and_what_is_silent() -> None:
    ledger = Ledger()
    transfers = [
        ledger.open(protocol=protocol, client="192.0.2.1", machine=None, name="file", total=1)
        for protocol in ("HTTP", "HTTP", "HTTP", "TFTP")
    ]
    transfers[0].verdict = "silent"
    transfers[1].verdict = "paused"
    _, report = Health(Budget(), ledger).report(is_ready=False)
    assert report["transfers"] == {"http": 3, "tftp": 1, "silent": 1, "refused": 0}
    transfers[0].close(End.CLIENT_SILENT)
    _, report = Health(Budget(), ledger).report(is_ready=False)
    assert report["transfers"]["silent"] == 0


@pytest.mark.parametrize("is_ready", [True, False])
def test_it_fails_before_the_descriptors_are_out(is_ready: bool) -> None:
    budget = Budget(100, 10)
    budget.connections = 71
    status, report = Health(budget, Ledger()).report(is_ready=is_ready)
    assert status == 503
    [reason] = report["reasons"]
    assert "81 of 100" in reason
    assert "LimitNOFILE" in reason
    assert budget.may_accept, "too late"


def test_a_process_that_drains_is_alive_and_not_ready() -> None:
    health = Health(Budget(), Ledger())
    health.is_serving = False
    assert health.report(is_ready=False)[0] == 200
    status, report = health.report(is_ready=True)
    assert status == 503
    assert "draining" in report["reasons"][0]


def test_a_door_that_is_down_is_told_of() -> None:
    trouble: list[str] = []
    health = Health(Budget(), Ledger(), quick={"tftp": lambda: trouble[0] if trouble else None})
    assert health.report(is_ready=False)[0] == 200
    trouble.append("TFTP: the door is closed")
    assert health.report(is_ready=False)[1]["reasons"] == trouble


async def _until(health: Health, status: int) -> list[str]:
    with anyio.fail_after(DEADLINE):
        while True:
            found, report = health.report(is_ready=False)
            if found == status:
                reasons: list[str] = report["reasons"]
                return reasons
            await anyio.sleep(0.005)


async def test_an_unreadable_root_turns_it_red_and_green_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "CHECK_INTERVAL", 0.01)
    trouble = ["asset root /srv does not exist"]
    health = Health(
        Budget(), Ledger(), slow={"asset root /srv": lambda: trouble[0] if trouble else None}
    )
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(health.run)
        assert await _until(health, 503) == trouble
        trouble.clear()
        await _until(health, 200)
        tasks.cancel_scope.cancel()


async def test_a_disk_that_hangs_is_told_of_while_it_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "CHECK_INTERVAL", 0.01)
    monkeypatch.setattr(module, "CHECK_PATIENCE", 0.05)
    answers = threading.Event()

    def check() -> None:
        answers.wait(DEADLINE)

    health = Health(Budget(), Ledger(), slow={"asset root /srv": check})
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(health.run)
        [reason] = await _until(health, 503)
        assert reason.startswith("asset root /srv: does not answer")
        answers.set()
        await _until(health, 200)
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), KeyError("defect")])
async def test_a_look_that_fails_turns_it_red_and_ends_nothing(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHECK_INTERVAL", 0.01)
    start, failing = threading.Thread.start, True

    def start_thread(thread: threading.Thread) -> None:
        if failing and isinstance(error, RuntimeError):
            raise error
        start(thread)

    def check() -> None:
        if failing:
            raise error

    monkeypatch.setattr(threading.Thread, "start", start_thread)
    health = Health(Budget(), Ledger(), slow={"asset root /srv": check})
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(health.run)
        [reason] = await _until(health, 503)
        assert reason.startswith(f"asset root /srv: cannot be looked at: {error}")
        assert ("TasksMax" in reason) is isinstance(error, RuntimeError)
        failing = False
        await _until(health, 200)
        tasks.cancel_scope.cancel()


async def test_a_loop_that_was_held_up_says_so_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WORST_LAG", 0.2)
    health = Health(Budget(), Ledger())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(health.run)
        await anyio.wait_all_tasks_blocked()
        assert health.report(is_ready=False)[0] == 200
        time.sleep(0.6)  # noqa: ASYNC251 (this is the fault)
        # Before the loop has had a turn.
        status, report = health.report(is_ready=False)
        assert status == 503
        assert report["loop_lag_seconds"] > 0.2
        await anyio.lowlevel.checkpoint()
        assert health.report(is_ready=False)[0] == 503
        tasks.cancel_scope.cancel()
