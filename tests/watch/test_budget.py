"""Who gets a descriptor, and when the others are to come back."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootserve.watch.budget import BIG_FILE, TRIFLE, Budget


class _Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> _Clock:
    return _Clock()


def _budget(clock: _Clock, limit: int | None = 64, base: int = 12, spread: float = 0.5) -> Budget:
    return Budget(limit, base, clock=clock, spread=lambda: spread)


def test_without_a_limit_everybody_comes_in(clock: _Clock) -> None:
    budget = _budget(clock, limit=None)
    budget.connections = 1_000_000
    assert budget.may_accept
    assert budget.may_begin()
    assert budget.may_begin(BIG_FILE - 1)
    assert budget.is_healthy
    assert not budget.is_short


def test_connections_are_accepted_up_to_a_spare_and_idle_ones_pay_before(clock: _Clock) -> None:
    budget = _budget(clock)
    accepted = short = 0
    while budget.may_accept:
        budget.connections += 1
        accepted += 1
        short += budget.is_short
    assert budget.in_use == 64 - 8
    assert short == 2
    assert accepted == 44


def test_big_files_leave_a_reserve_for_scripts_and_health(clock: _Clock) -> None:
    budget = _budget(clock)
    while budget.may_begin():
        budget.connections += 1
        budget.begin()
    assert budget.may_accept
    assert budget.ceiling - budget.in_use == 2
    assert not budget.is_healthy


def test_idle_connections_are_no_reason_against_a_file(clock: _Clock) -> None:
    budget = _budget(clock)
    budget.connections = 44
    assert not budget.may_accept
    assert budget.may_begin()


def test_what_others_count_counts(clock: _Clock) -> None:
    budget = _budget(clock)
    sessions = 0
    budget.count(lambda: sessions)
    assert (budget.may_accept, budget.may_begin()) == (True, True)
    sessions = 44
    assert (budget.may_accept, budget.may_begin()) == (False, False)
    assert budget.in_use == 56


def test_health_ends_at_four_fifths(clock: _Clock) -> None:
    budget = _budget(clock, limit=100, base=10)
    budget.connections = 70
    assert budget.is_healthy
    budget.connections = 71
    assert not budget.is_healthy


def test_nobody_is_told_to_come_back_at_once(clock: _Clock) -> None:
    budget = _budget(clock, spread=0.0)
    for _ in range(100):
        begun = budget.begin()
        clock.now += 0.001
        budget.end(begun)
    assert budget.refuse() == 1


def test_the_wait_goes_by_how_long_transfers_take(clock: _Clock) -> None:
    """Forty-two places, ten seconds each: the last of 72 that wait has to wait for two rounds."""
    budget = _budget(clock)
    for _ in range(50):
        begun = budget.begin()
        clock.now += 10
        budget.end(begun)
        clock.now -= 10
    clock.now += 10
    places = budget.admission - budget.base
    waits = [budget.refuse() for _ in range(int(places) * 2)]
    assert waits == sorted(waits)
    assert waits[0] == 1
    assert waits[-1] == 20


def test_those_whose_time_has_come_are_no_longer_before_others(clock: _Clock) -> None:
    budget = _budget(clock)
    begun = budget.begin()
    clock.now += 10
    budget.end(begun)
    first = [budget.refuse() for _ in range(100)]
    clock.now += max(first)
    assert budget.refuse() == 1


def test_a_rack_that_was_refused_together_does_not_come_back_together(clock: _Clock) -> None:
    budget = Budget(64, 12, clock=clock)
    waits = {budget.refuse() for _ in range(200)}
    assert len(waits) > 2


@given(
    st.integers(1, 200) | st.integers(1, 1 << 20),
    st.integers(3, 200),
    st.lists(st.floats(0, 1e5), max_size=20),
    st.floats(0, 0.999),
)
def test_lines_and_waits_are_sane_whatever_the_limit(
    limit: int, base: int, durations: list[float], spread: float
) -> None:
    clock = _Clock()
    budget = _budget(clock, limit, base, spread)
    assert base < budget.admission < budget.ceiling <= max(limit, base + 2)
    budget.connections = int(budget.admission) - base
    # With fewer there is no room for both lines.
    assert limit < 48 or not budget.is_healthy
    budget.connections = 0
    assert budget.may_accept
    assert budget.may_begin()
    for seconds in durations:
        begun = budget.begin()
        clock.now += seconds
        budget.end(begun)
    assert budget.transfers == 0
    waits = [budget.refuse() for _ in range(50)]
    assert all(isinstance(wait, int) and 1 <= wait <= math.ceil(60 * 1.25) for wait in waits)
    assert budget.refused == 50


def test_who_waits_for_a_descriptor_is_called_once(clock: _Clock) -> None:
    budget = _budget(clock)
    calls: list[str] = []

    def again() -> None:
        calls.append("called")
        if len(calls) < 2:
            budget.on_free(again)

    budget.on_free(again)
    budget.on_free(again)
    budget.freed()
    assert calls == ["called"]
    budget.freed()
    budget.freed()
    assert calls == ["called", "called"]


def test_files_of_firmware_may_use_half_of_the_reserve_and_no_more(clock: _Clock) -> None:
    budget = _budget(clock, limit=1024)
    while budget.may_begin():
        budget.begin()
    big = budget.transfers
    while budget.may_begin(BIG_FILE - 1):
        budget.begin()
    reserve = budget.ceiling - budget.admission
    assert budget.transfers - big == reserve // 2
    assert budget.may_begin(TRIFLE)
    budget.connections = budget.transfers
    assert budget.may_accept, "nothing is left for scripts and health"


def test_those_that_run_tell_how_long_they_take_when_none_has_ended(clock: _Clock) -> None:
    budget = _budget(clock)
    while budget.may_begin():
        budget.begin()
    clock.now += 600
    assert budget.refuse() > 10


def test_clients_that_leave_early_do_not_make_the_wait_short(clock: _Clock) -> None:
    budget = _budget(clock)
    for _ in range(300):
        budget.end(budget.begin(), is_whole=False)
    waits = [budget.refuse() for _ in range(100)]
    assert min(waits) >= 5
