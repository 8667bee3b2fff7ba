"""A flood of log lines is bounded, and what was left out is told, whether or not more follows."""

from __future__ import annotations

import logging

import anyio
import pytest

from bootserve.watch import quiet as module
from bootserve.watch.quiet import QuietLog, keep_telling, tell_all

_NAME = "quiet test"


def _messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Ours: a log of another test may still have something to tell."""
    return [record.getMessage() for record in caplog.records if record.name == _NAME]


def test_a_flood_of_lines_is_bounded_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    quiet = QuietLog(logging.getLogger(_NAME), most=3, period=10.0, clock=lambda: now)
    for _ in range(100):
        quiet.log(logging.WARNING, "line")
    assert _messages(caplog) == ["line"] * 3
    now = 10.0
    quiet.log(logging.WARNING, "line")
    assert _messages(caplog) == [*["line"] * 3, "left out 97 lines like those before", "line"]


async def test_what_was_left_out_is_told_when_nothing_follows(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOOK", 0.001)
    now = 0.0
    looks = 0
    looked, told = anyio.Event(), anyio.Event()

    def clock() -> float:
        nonlocal looks
        looks += now == 9.9
        if looks == 3:
            looked.set()
        return now

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "left out" in record.getMessage():
                told.set()

    logger = logging.getLogger(_NAME)
    listener = Listener()
    logger.addHandler(listener)
    quiet = QuietLog(logger, most=3, period=10.0, clock=clock)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keep_telling)
        for _ in range(5):
            quiet.log(logging.WARNING, "line")
        now = 9.9
        with anyio.fail_after(60):
            await looked.wait()
            assert _messages(caplog) == ["line"] * 3
            now = 10.0
            await told.wait()
        tasks.cancel_scope.cancel()
    logger.removeHandler(listener)
    quiet.log(logging.WARNING, "line")
    tell_all()
    assert _messages(caplog)[3:] == ["left out 2 lines like those before", "line"]


def test_at_the_end_each_number_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    quiet = QuietLog(logging.getLogger(_NAME), most=1, period=10.0, clock=lambda: now)
    for _ in range(3):
        quiet.log(logging.WARNING, "line")
    tell_all()
    tell_all()
    assert _messages(caplog) == ["line", "left out 2 lines like those before"]
    # Within the same period, nothing more is written but counted.
    quiet.log(logging.WARNING, "line")
    tell_all()
    assert _messages(caplog)[2:] == ["left out 1 lines like those before"]
    now = 10.0
    quiet.log(logging.WARNING, "line")
    assert _messages(caplog)[3:] == ["line"]


def test_lines_that_nobody_sees_take_no_other_ones_place(
    caplog: pytest.LogCaptureFixture,
) -> None:
    quiet = QuietLog(logging.getLogger(_NAME), most=3)
    with caplog.at_level(logging.WARNING, _NAME):
        for _ in range(100):
            quiet.log(logging.INFO, "not wanted")
        quiet.log(logging.WARNING, "line")
        tell_all()
    assert _messages(caplog) == ["line"]


def test_fields_and_tracebacks_pass_through(caplog: pytest.LogCaptureFixture) -> None:
    error = RuntimeError("boom")
    quiet = QuietLog(logging.getLogger(_NAME))
    quiet.log(logging.WARNING, "line", error=error, extra={"fields": "as they are"})
    [record] = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[1] is error
    assert record.__dict__["fields"] == "as they are"
