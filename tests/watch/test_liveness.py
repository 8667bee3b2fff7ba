"""The verdict on a peer, from samples as Linux gives them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootserve.watch.liveness import (
    SLOW_RATE,
    UNANSWERED,
    Limits,
    Peer,
    Sample,
    Verdict,
    first_to_go,
)

LIMITS = Limits(600.0)
STEP = LIMITS.sweep_interval


@dataclass
class Wire:
    """A connection whose peer does as it is told, looked at as often as the sweep does."""

    now: float = 1000.0
    heard_at: float = 1000.0
    probes: int = 0
    total_retrans: int = 0
    acked: int = 0
    waiting: int = 100_000
    is_owed: bool = True
    limits: Limits = LIMITS

    def __post_init__(self) -> None:
        self.peer = Peer(self._sample())

    def _sample(self) -> Sample:
        return Sample(
            now=self.now,
            heard=self.now - self.heard_at,
            probes=self.probes,
            total_retrans=self.total_retrans,
            acked=self.acked,
            waiting=self.waiting,
            is_owed=self.is_owed,
        )

    def ack(self, count: int = 0) -> None:
        self.heard_at = self.now
        self.probes = 0
        self.acked += count

    def look(self) -> Verdict:
        return self.peer.look(self._sample(), self.limits)

    def after(self, seconds: float) -> Verdict:
        self.now += seconds
        return self.look()


def test_a_fast_reader_is_moving() -> None:
    wire = Wire()
    for _ in range(10):
        wire.now += STEP
        wire.ack(50_000_000)
        assert wire.look() is Verdict.MOVING


def test_a_slow_reader_is_slow_and_stays_it_for_a_day() -> None:
    wire = Wire()
    for _ in range(24 * 3600 // 5):
        wire.now += STEP
        wire.ack(20 * 5)
        assert wire.look() is Verdict.SLOW


def test_a_reader_whose_window_opens_in_steps_is_slow_or_paused_and_never_silent() -> None:
    """At 20 B/s a window of one segment opens every minute; probes of it are answered between."""
    wire = Wire()
    seen = set()
    for number in range(1000):
        wire.now += STEP
        wire.ack(1460 if number % 15 == 0 else 0)
        seen.add(wire.look())
    assert seen <= {Verdict.SLOW, Verdict.PAUSED, Verdict.MOVING}
    assert wire.look() is not Verdict.MOVING


def test_a_closed_window_that_answers_its_probes_is_paused_for_ever() -> None:
    wire = Wire()
    verdicts = []
    for _ in range(30 * 24 * 60):
        wire.now += 60
        wire.ack()
        verdicts.append(wire.look())
    assert set(verdicts[1:]) == {Verdict.PAUSED}


def test_a_peer_that_vanished_in_flight_is_silent_and_then_gone() -> None:
    wire = Wire()
    wire.after(STEP)
    vanished = wire.now
    wire.ack(1000)
    verdicts = []
    for _ in range(200):
        wire.total_retrans += 1
        verdicts.append(wire.after(STEP))
        if verdicts[-1] is Verdict.GONE:
            break
    assert verdicts[-1] is Verdict.GONE
    assert Verdict.SILENT in verdicts
    assert LIMITS.silence <= wire.now - vanished <= LIMITS.silence + STEP


def test_a_peer_that_vanished_behind_its_closed_window_is_gone() -> None:
    wire = Wire()
    for number in range(121):
        wire.probes = number // 2
        verdict = wire.after(STEP)
    assert verdict is Verdict.GONE


def test_silence_alone_is_no_end() -> None:
    """Nothing is in flight, so nobody is asked: a server's disk may be what all wait for."""
    wire = Wire(waiting=0)
    for _ in range(1000):
        assert wire.after(STEP) is Verdict.STARVED
    wire.is_owed = False
    assert wire.after(STEP) is Verdict.IDLE


def test_few_unanswered_probes_are_no_end() -> None:
    wire = Wire(probes=UNANSWERED - 1)
    assert wire.after(100 * LIMITS.silence) is Verdict.SILENT
    wire.probes = UNANSWERED
    assert wire.look() is Verdict.GONE


def test_a_machine_that_was_frozen_goes_on() -> None:
    wire = Wire()
    wire.ack(1000)
    for _ in range(int(330 / STEP)):
        wire.total_retrans += 1
        verdict = wire.after(STEP)
    assert verdict is Verdict.SILENT
    wire.now += STEP
    wire.ack(1_000_000)
    assert wire.look() is not Verdict.SILENT
    # What was sent again in vain before does not count against it later.
    assert wire.after(LIMITS.silence) is not Verdict.GONE


def test_an_ack_between_two_looks_forgives_what_was_lost_before_it() -> None:
    wire = Wire()
    wire.total_retrans += 50
    wire.now += 4
    wire.ack()
    assert wire.after(1) is not Verdict.GONE
    assert wire.peer.unanswered == 0


def test_pressure_lowers_the_limit_and_nothing_else() -> None:
    wire = Wire(probes=UNANSWERED)
    wire.after(89)
    assert not wire.peer.is_gone(LIMITS.under_pressure)
    assert wire.after(1) is Verdict.SILENT
    assert wire.peer.is_gone(LIMITS.under_pressure)
    assert Limits(30.0).under_pressure.silence == 30.0


def test_under_pressure_the_longest_silent_go_first_and_no_one_that_answers() -> None:
    wires = {}
    for name, seconds in (("minutes", 400), ("long", 500), ("short", 60), ("answering", 0)):
        wires[name] = Wire(probes=UNANSWERED if seconds else 0)
        if name == "answering":
            wires[name].now += 300
            wires[name].ack()
        wires[name].after(seconds)
    peers = [(wire.peer, name) for name, wire in wires.items()]
    assert first_to_go(peers, LIMITS, 1) == ["long"]
    assert first_to_go(peers, LIMITS, 9) == ["long", "minutes"]
    assert first_to_go(peers, LIMITS, 0) == []


@pytest.mark.parametrize("silence", [5.0, 10.0, 60.0, 90.0, 600.0, 86400.0])
def test_enough_probes_go_out_within_the_limit(silence: float) -> None:
    """Else the verdict would come late: the first few come faster, by the kernel's own backoff."""
    limits = Limits(silence)
    assert limits.probe_interval * (UNANSWERED - 2) <= silence
    assert 1.0 <= limits.probe_interval <= 10.0
    assert limits.sweep_interval <= silence / 4


_EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["ack", "progress", "probe", "retransmit", "nothing"]),
        st.floats(0.01, 400),
    ),
    max_size=60,
)


@given(_EVENTS, st.booleans(), st.booleans())
def test_only_silence_and_unanswered_questions_together_make_a_peer_gone(
    events: list[tuple[str, float]], has_waiting: bool, is_owed: bool
) -> None:
    wire = Wire(waiting=1000 * has_waiting, is_owed=is_owed)
    asked = 0
    for event, seconds in events:
        wire.now += seconds
        if event in ("ack", "progress"):
            wire.ack(SLOW_RATE if event == "progress" else 0)
            asked = 0
        elif event == "probe":
            wire.probes += 1
            asked += 1
        elif event == "retransmit":
            wire.total_retrans += 1
            asked += 1
        verdict = wire.look()
        if verdict is Verdict.GONE:
            assert wire.now - wire.heard_at >= LIMITS.silence
            assert asked >= UNANSWERED
        if event in ("ack", "progress"):
            assert verdict not in (Verdict.SILENT, Verdict.GONE)


@given(st.integers(UNANSWERED, 1000), st.floats(600, 1e6))
def test_whoever_answers_nothing_for_long_enough_is_gone(count: int, seconds: float) -> None:
    for one in (Wire(probes=count), replace(Wire(), total_retrans=0)):
        one.total_retrans += count
        assert one.after(seconds) is Verdict.GONE
