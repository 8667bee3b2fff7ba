"""Clients that drop what comes at once, in a simulated network and rule by rule."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootserve.tftp.bursts import Bursts
from bootserve.tftp.options import Terms
from bootserve.tftp.session import Finish
from bootserve.watch.ledger import End

from .network import GOOD, Fate, Run

WITH_OACK = (("windowsize", "16"),)


def through_a_ring(
    places: int, windowsize: int, *, blocks: int = 2000, client_timeout: float = 3.0
) -> Run:
    """A transfer to a client that keeps the first ``places`` packets of what arrives at once."""
    arrived: dict[float, int] = {}

    def fate(from_client: bool, index: int) -> Fate:
        if from_client:
            return GOOD
        moment = round(run.now, 4)
        arrived[moment] = arrived.get(moment, 0) + 1
        return GOOD if arrived[moment] <= places else Fate(())

    content = random.Random(places).randbytes(8 * blocks)
    terms = Terms(8, windowsize, None, WITH_OACK)
    run = Run(content, terms, fate=fate, client_timeout=client_timeout)
    assert run.to_the_end() == Finish(End.COMPLETE)
    assert run.client.received == content
    return run


@pytest.mark.parametrize("windowsize", [4, 16, 44, 64])
@pytest.mark.parametrize("places", [1, 2, 4, 7, 16])
def test_a_client_that_drops_bursts_is_served_at_a_decent_rate(
    places: int, windowsize: int
) -> None:
    run = through_a_ring(places, windowsize)
    if places >= windowsize:
        assert run.session.resent == 0
        return
    # Were each window to cost a timer of the client's or ours, it would be 2000 / 16 * 0.25 s.
    assert run.now < 2000 / places * 0.05 + 10
    # And what is sent in vain is little beside what arrives.
    assert run.session.resent < 1000


def test_a_client_that_takes_everything_gets_whole_windows() -> None:
    run = through_a_ring(64, 64)
    moments = [round(when, 4) for when, _ in run.data_sent]
    assert max(map(moments.count, set(moments))) == 64
    assert run.session.bursts.halvings == 0


def test_after_one_accident_bursts_grow_to_the_window_again() -> None:
    lost = set(range(17, 33))  # one whole window

    def fate(from_client: bool, index: int) -> Fate:
        return Fate(()) if not from_client and index in lost else GOOD

    content = random.Random(1).randbytes(8 * 1000)
    run = Run(content, Terms(8, 16, None, WITH_OACK), fate=fate)
    assert run.to_the_end() == Finish(End.COMPLETE)
    assert run.session.bursts.halvings == 1
    assert run.session.bursts.size == 16


@pytest.mark.parametrize("seed", range(5))
def test_a_network_that_loses_a_packet_now_and_then_is_no_client_that_drops_bursts(
    seed: int,
) -> None:
    chance = random.Random(seed)

    def fate(from_client: bool, index: int) -> Fate:
        return Fate(()) if chance.randrange(100) == 0 else GOOD

    content = random.Random(2).randbytes(8 * 20_000)
    run = Run(content, Terms(8, 16, None, WITH_OACK), fate=fate)
    assert run.to_the_end() == Finish(End.COMPLETE)
    whole = [round(when, 4) for when, _ in run.data_sent]
    of_16 = sum(whole.count(moment) == 16 for moment in set(whole))
    assert of_16 * 16 > len(run.data_sent) / 2


events = st.lists(st.sampled_from(["arrived", "torn", "lost"]), max_size=200)


@given(st.integers(1, 64), events)
def test_a_burst_is_never_empty_and_never_more_than_the_window(
    windowsize: int, sequence: list[str]
) -> None:
    bursts = Bursts(windowsize)
    for event in sequence:
        before = bursts.size
        getattr(bursts, event)()
        assert 1 <= bursts.size <= windowsize
        if event == "arrived":
            assert bursts.size >= before
        elif event == "lost" and before > 1:
            assert bursts.size == before // 2
    for _ in range(64 * 256):
        bursts.arrived()
    assert bursts.size == windowsize
