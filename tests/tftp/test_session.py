"""The rules of a transfer, first through a hostile network, then one by one."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootserve.tftp.options import Terms, negotiate
from bootserve.tftp.packet import Ack, Error, OutOfPlace, Packet, encode_oack
from bootserve.tftp.session import COPIES, Action, Finish, ReadSession, Send, SendBlocks
from bootserve.watch.ledger import End

from .network import GOOD, Fate, Run

WITH_OACK = (("tsize", "0"),)

# Delays well beyond a round trip reorder; several copies duplicate; none is a loss.
delays = st.sampled_from([0.0, 0.001, 0.01, 0.02, 0.3, 2.0, 12.0])
fates = st.lists(delays, max_size=3).map(lambda found: Fate(tuple(found)))


@st.composite
def contents_and_terms(draw: st.DrawFn) -> tuple[bytes, Terms]:
    terms = Terms(
        blksize=8,
        windowsize=draw(st.sampled_from([1, 2, 3, 4, 8, 16, 64])),
        timeout=draw(st.sampled_from([None, None, 1, 3, 20])),
        accepted=WITH_OACK,
    )
    if draw(st.integers(0, 3)) == 0:
        terms = Terms()
    blocks = draw(st.integers(0, 40))
    size = blocks * terms.blksize + draw(st.integers(0, terms.blksize - 1))
    return random.Random(size).randbytes(size), terms


def checked(run: Run) -> Finish:
    """Run to the end, and check what holds at the end of any run."""
    finish = run.to_the_end()
    client = run.client
    assert run.content.startswith(client.received)
    if client.has_all:
        assert client.received == run.content
    if finish.end is End.COMPLETE:
        assert max(block for _, block in run.data_sent) == len(run.content) // client.blksize + 1
        if not finish.reason:
            assert client.has_all
            assert run.session.acknowledged == len(run.content)
    else:
        assert finish.end is End.CLIENT_SILENT
    return finish


@settings(max_examples=250, deadline=None)
@given(
    contents_and_terms(),
    st.lists(fates, max_size=40),
    st.lists(fates, max_size=40),
    st.sampled_from([1, 3, 64]),
)
def test_the_file_arrives_when_the_network_calms_down(
    what: tuple[bytes, Terms], down: list[Fate], up: list[Fate], room: int
) -> None:
    def fate(from_client: bool, index: int) -> Fate:
        bad = up if from_client else down
        return bad[index] if index < len(bad) else GOOD

    run = Run(*what, fate=fate, room=room)
    finish = checked(run)
    if finish.end is not End.COMPLETE:
        # The only way to lose a client: of the first packet and its three repetitions each one or
        # its answer is lost, and the client does not ask again (for it has heard nothing, or that
        # was all of the file).
        assert not run.session.is_proven
        assert run.client.last_sent is None or run.client.has_all
        assert sum(not found.delays for found in down[:4] + up[:4]) >= 4


@settings(max_examples=100, deadline=None)
@given(contents_and_terms(), st.integers(), st.integers(0, 50), st.integers(0, 30))
def test_half_of_everything_lost(
    what: tuple[bytes, Terms], seed: int, loss: int, duplication: int
) -> None:
    chance = random.Random(seed)

    def fate(from_client: bool, index: int) -> Fate:
        if chance.randrange(100) < loss:
            return Fate(())
        copies = 2 if chance.randrange(100) < duplication else 1
        return Fate(tuple(chance.choice([0.001, 0.01, 0.4]) for _ in range(copies)))

    finish = checked(run := Run(*what, fate=fate))
    assert finish.end is End.COMPLETE or not run.session.is_proven


@settings(max_examples=150, deadline=None)
@given(
    contents_and_terms(),
    st.lists(fates, max_size=30),
    st.lists(fates, max_size=30),
    st.sampled_from([0.0, 0.005, 0.1, 5.0]),
)
def test_duplicated_acks_change_nothing_that_is_sent(
    what: tuple[bytes, Terms], down: list[Fate], up: list[Fate], after: float
) -> None:
    def fate(from_client: bool, index: int) -> Fate:
        bad = up if from_client else down
        return bad[index] if index < len(bad) else GOOD

    once, twice = Run(*what, fate=fate), Run(*what, fate=fate, duplicate_acks=after)
    once.to_the_end()
    twice.to_the_end()
    assert twice.data_sent == once.data_sent


@pytest.mark.parametrize("windowsize", [1, 4, 64])
@pytest.mark.parametrize("keeps_queue", [True, False])
def test_a_client_frozen_for_minutes_goes_on(windowsize: int, keeps_queue: bool) -> None:
    content = bytes(range(256)) * 20
    frozen = (0.05, 290.0)
    terms = Terms(8, windowsize, None, WITH_OACK)
    run = Run(content, terms, frozen=frozen)

    def fate(from_client: bool, index: int) -> Fate:
        return GOOD if keeps_queue or not frozen[0] <= run.now < frozen[1] else Fate(())

    run._fate = fate
    assert checked(run) == Finish(End.COMPLETE)
    while_frozen = [block for when, block in run.data_sent if 1 < when < 290]
    # A repetition at least every 8 s, so that it goes on soon; and no flood meanwhile.
    assert 30 <= len(while_frozen) <= 30 + 10 + 2 * windowsize


def test_a_client_frozen_for_longer_than_our_patience_is_given_up() -> None:
    run = Run(bytes(1000), Terms(8, 4, None, WITH_OACK), frozen=(0.05, 400.0))
    assert checked(run) == Finish(End.CLIENT_SILENT, "nothing heard for 300 s")
    assert 300 <= run.now <= 300.1


@pytest.mark.parametrize("windowsize", [1, 64])
@pytest.mark.parametrize("extra", [0, 3])
def test_block_numbers_roll_over_to_zero(windowsize: int, extra: int) -> None:
    content = random.Random(1).randbytes(8 * 2 * 65536 + 8 + extra)
    run = Run(content, Terms(8, windowsize, None, WITH_OACK))
    assert checked(run) == Finish(End.COMPLETE)
    assert run.client.received == content
    assert run.session.resent == 0


def test_block_numbers_roll_over_through_losses() -> None:
    content = random.Random(1).randbytes(8 * 65600)
    chance = random.Random(2)

    def fate(from_client: bool, index: int) -> Fate:
        near = run.acked > 65400
        return Fate(()) if near and chance.randrange(3) == 0 else GOOD

    run = Run(content, Terms(8, 16, None, WITH_OACK), fate=fate)
    assert checked(run) == Finish(End.COMPLETE)
    assert run.session.resent > 0


@pytest.mark.parametrize(
    ("size", "blocks"), [(0, 1), (1, 1), (511, 1), (512, 2), (513, 2), (1024, 3)]
)
def test_the_last_block_is_short_or_empty(size: int, blocks: int) -> None:
    run = Run(bytes(size), Terms())
    assert checked(run) == Finish(End.COMPLETE)
    assert [block for _, block in run.data_sent] == list(range(1, blocks + 1))


# The rules, one by one.


def session(
    size: int = 4000,
    windowsize: int = 4,
    *,
    timeout: int | None = None,
    accepted: tuple[tuple[str, str], ...] = WITH_OACK,
    patience: float = 300.0,
) -> ReadSession:
    """A session at time 0, blocks of 8 bytes."""
    terms = Terms(8, windowsize, timeout, accepted)
    return ReadSession(size=size, terms=terms, patience=patience, now=0.0)


def out(found: ReadSession, action: Action | None, now: float) -> Action | None:
    """Have the blocks gone out at once, as on a good day."""
    if isinstance(action, SendBlocks):
        action = replace(action)  # the session uses its own again
        found.went_out(action.number, now, is_over=True)
    return action


def started(windowsize: int = 4, *, size: int = 4000, timeout: int | None = None) -> ReadSession:
    """A session whose first window went out at time 0.1, after a round trip of 0.1 s."""
    found = session(size, windowsize, timeout=timeout)
    found.start(0.0)
    assert out(found, found.receive(Ack(0), 0.1), 0.1)
    return found


def test_options_are_answered_and_block_1_waits_for_the_ack() -> None:
    terms = negotiate([("tsize", "0"), ("blksize", "8"), ("windowsize", "4")], tsize=100)
    found = ReadSession(size=100, terms=terms, now=0.0)
    assert found.start(0.0) == Send(encode_oack(terms.accepted))
    assert found.receive(Ack(0), 0.1) == SendBlocks(1, 4)


def test_without_accepted_options_block_1_is_the_answer() -> None:
    found = session(windowsize=1, accepted=())
    assert found.start(0.0) == SendBlocks(1, 1)


def test_an_ack_within_the_window_starts_the_next_one_behind_it() -> None:
    found = started()
    assert out(found, found.receive(Ack(2), 0.2), 0.2) == SendBlocks(3, 4)
    assert found.acknowledged == 16
    assert out(found, found.receive(Ack(6), 0.3), 0.3) == SendBlocks(7, 4)


@pytest.mark.parametrize("number", [0, 1, 2, 7, 8, 1000, 32771, 65535])
def test_an_ack_of_nothing_in_flight_does_nothing(number: int) -> None:
    found = started()
    out(found, found.receive(Ack(2), 0.2), 0.2)
    before = found.deadline
    assert found.receive(Ack(number), 0.2) is None
    assert found.deadline == before
    assert found.acknowledged == 16


def test_the_window_ends_with_the_file() -> None:
    found = started(size=8 * 5)
    assert out(found, found.receive(Ack(4), 0.2), 0.2) == SendBlocks(5, 2)
    assert found.receive(Ack(6), 0.3) == Finish(End.COMPLETE)
    assert found.acknowledged == 40


def test_an_unproven_client_gets_four_packets_and_no_more() -> None:
    found = session()
    packets = [found.start(0.0)]
    times = []
    while not found._ended:
        now = found.deadline
        times.append(now)
        packets.append(found.tick(now))
    assert packets[:4] == [Send(encode_oack(WITH_OACK))] * 4
    assert packets[4:] == [Finish(End.CLIENT_SILENT, "nothing heard for 300 s")]
    assert times == [1.0, 3.0, 7.0, 300.0]


def test_an_unproven_client_without_options_gets_four_packets_and_no_more() -> None:
    found = session(windowsize=1, size=3, accepted=())
    packets = [out(found, found.start(0.0), 0.0)]
    while not found._ended:
        now = found.deadline
        packets.append(out(found, found.tick(now), now))
    assert packets[:4] == [SendBlocks(1, 1)] * 4
    # All its bytes are out, but for all we know nobody was there to get them.
    assert packets[4:] == [Finish(End.CLIENT_SILENT, "nothing heard for 300 s")]


def test_an_unproven_client_may_still_come_after_minutes() -> None:
    found = session()
    found.start(0.0)
    for now in (1.0, 3.0, 7.0):
        found.tick(now)
    assert found.receive(Ack(0), 250.0) == SendBlocks(1, 4)


def test_a_repeated_request_is_answered_once_when_our_repetitions_are_used_up() -> None:
    found = session()
    oack = found.start(0.0)
    assert found.repeated(0.5) is None  # the timer will do it
    for now in (1.0, 3.0, 7.0):
        found.tick(now)
    assert found.repeated(20.0) == oack
    assert found.deadline == 320.0
    assert found.repeated(25.0) == oack
    found.receive(Ack(0), 26.0)
    assert found.repeated(27.0) is None


def test_the_same_request_is_a_copy_until_a_while_after_the_first_ack() -> None:
    found = session()
    found.start(0.0)
    assert not found.is_begun_anew(100.0)
    found.receive(Ack(0), 100.0)
    assert not found.is_begun_anew(100.0 + COPIES / 2)
    assert found.repeated(100.0 + COPIES / 2) is None
    found.receive(Ack(1), 100.0 + COPIES / 2)
    assert found.is_begun_anew(100.0 + COPIES)


def test_repetitions_shrink_and_their_intervals_double() -> None:
    found = started(windowsize=16)
    sent = []
    for _ in range(13):
        now = found.deadline
        sent.append((now, out(found, found.tick(now), now)))
    # The first time all of the window, in two bursts, for a client that can take half of it.
    assert [action for _, action in sent[:2]] == [SendBlocks(1, 8), SendBlocks(9, 8)]
    assert [action for _, action in sent[2:]] == [
        SendBlocks(1, count) for count in (4, 2, *[1] * 9)
    ]
    times = [when for when, _ in sent[1:]]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    for gap, later, when in zip(gaps, gaps[1:], times[1:], strict=False):
        # Not beyond 2 s as long as it was heard in the last ten.
        ceiling = 2.0 if when < 10 else 8.0
        assert later == pytest.approx(min(2 * gap, ceiling))
    assert gaps[-1] == pytest.approx(8.0)


def test_progress_ends_the_shrinking() -> None:
    found = started(windowsize=16)
    for _ in range(4):
        now = found.deadline
        out(found, found.tick(now), now)
    sent = [out(found, found.receive(Ack(1), now + 0.1), now + 0.1)]
    while found._is_sending:
        now = found.deadline
        sent.append(out(found, found.tick(now), now))
    # The whole window, in bursts of the size that got through.
    assert sent == [SendBlocks(first, 2) for first in range(2, 18, 2)]


def interval(found: ReadSession, now: float) -> float:
    return found.deadline - now


def test_the_round_trip_is_measured() -> None:
    found = session(windowsize=1)
    found.start(0.0)
    assert interval(found, 0.0) == 1.0
    now = 0.0
    for number in range(100):
        now += 0.2
        out(found, found.receive(Ack(number), now), now)
    # RFC 6298: a steady round trip leaves no variation. Well above it, but near the floor.
    assert 0.25 <= interval(found, now) < 0.3


def test_the_interval_has_a_floor() -> None:
    found = session(windowsize=1)
    found.start(0.0)
    for number in range(100):
        out(found, found.receive(Ack(number), 0.0), 0.0)
    assert interval(found, 0.0) == 0.25


def test_an_ambiguous_round_trip_is_not_measured_and_the_backed_off_interval_is_kept() -> None:
    found = started(windowsize=1)
    first = interval(found, 0.1)
    now = found.deadline
    out(found, found.tick(now), now)
    now += 0.001  # an answer to the first transmission, were it known
    out(found, found.receive(Ack(1), now), now)
    assert interval(found, now) == pytest.approx(2 * first)
    # The next block went out once: its round trip, slow as it is, counts again.
    out(found, found.receive(Ack(2), now + 0.5), now + 0.5)
    assert 0.5 < interval(found, now + 0.5) < 1.5


def test_a_slow_path_does_not_cause_endless_repetitions() -> None:
    run = Run(bytes(8 * 50), Terms(8, 1, None, WITH_OACK), fate=lambda *_: Fate((0.9,)))
    assert checked(run) == Finish(End.COMPLETE)
    assert run.session.resent <= 2


def test_an_answer_as_fast_as_usual_ends_the_backing_off() -> None:
    found = started(windowsize=1)  # the round trip was 0.1 s
    first = interval(found, 0.1)
    for _ in range(3):
        now = found.deadline
        out(found, found.tick(now), now)
    now += 0.1
    out(found, found.receive(Ack(1), now), now)
    assert interval(found, now) == pytest.approx(first)


@pytest.mark.parametrize("later", [0.14, 0.3, 0.9, 3.0])
def test_a_path_that_becomes_slow_does_not_cause_endless_repetitions(later: float) -> None:
    run = Run(
        bytes(8 * 200),
        Terms(8, 1, None, WITH_OACK),
        fate=lambda _, index: Fate((0.01 if index < 50 else later,)),
        client_timeout=100.0,
    )
    assert checked(run) == Finish(End.COMPLETE)
    assert run.session.resent <= 20


@pytest.mark.parametrize("timeout", [1, 5, 100])
def test_the_clients_timeout_is_initial_value_and_floor(timeout: int) -> None:
    found = session(windowsize=1, timeout=timeout)
    found.start(0.0)
    assert interval(found, 0.0) == timeout
    out(found, found.receive(Ack(0), 0.001), 0.001)
    assert interval(found, 0.001) == pytest.approx(timeout)


@pytest.mark.parametrize("code", [0, 1, 8])
def test_an_error_instead_of_the_first_ack_refuses_the_options(code: int) -> None:
    found = session()
    found.start(0.0)
    refusal = found.receive(Error(code, "User aborted"), 0.1)
    assert refusal == Finish(End.OPTIONS_REFUSED, f"code {code}: User aborted")


def test_error_8_refuses_the_options_later_too() -> None:
    found = started()
    assert found.receive(Error(8, ""), 0.1) == Finish(End.OPTIONS_REFUSED, "code 8: ")


def test_any_other_error_is_the_clients() -> None:
    found = started()
    assert found.receive(Error(3, "full"), 0.1) == Finish(End.CLIENT_ERROR, "code 3: full")
    bare = session(windowsize=1, accepted=())
    out(bare, bare.start(0.0), 0.0)
    assert bare.receive(Error(8, "?"), 0.1) == Finish(End.CLIENT_ERROR, "code 8: ?")


def test_three_refusals_without_a_sign_of_life_end_it() -> None:
    found = started()
    assert found.refused() is None
    assert found.refused() is None  # of the same window: counts once
    windows = 1
    while not found._ended:
        now = found.deadline
        out(found, found.tick(now), now)
        windows += not found._is_sending
        last = found.refused()
    assert windows == 3
    assert last == Finish(End.CLIENT_LEFT, "its port is closed")


def test_a_sign_of_life_forgives_refusals() -> None:
    found = started()
    for _ in range(5):
        assert found.refused() is None
        now = found.deadline
        out(found, found.tick(now), now)
        assert found.refused() is None
        assert found.receive(Ack(0), now) is None


def test_refusals_after_the_last_block_mean_that_only_the_last_ack_is_missing() -> None:
    found = started(size=20)
    out(found, found.receive(Ack(1), 0.1), 0.1)
    while not found._ended:
        actions = found.refused()
        now = found.deadline
        out(found, found.tick(now), now)
    assert actions == Finish(End.UNCONFIRMED, "last ACK not seen")
    assert found.acknowledged == 8


def test_a_client_that_got_no_data_for_all_we_know_is_not_said_to_have_it() -> None:
    """The ACK of the OACK shows that it was there, not that a window has reached it."""
    found = started(size=20)
    while not found._ended:
        actions = found.refused()
        now = found.deadline
        out(found, found.tick(now), now)
    assert actions == Finish(End.CLIENT_LEFT, "its port is closed")


def test_silence_after_the_last_block_means_that_only_the_last_ack_is_missing() -> None:
    found = started(size=20)
    actions = out(found, found.receive(Ack(1), 0.1), 0.1)
    while not found._ended:
        now = found.deadline
        actions = out(found, found.tick(now), now)
    assert actions == Finish(End.UNCONFIRMED, "last ACK not seen")


def test_silence_before_the_last_block_is_silence() -> None:
    found = started(size=8 * 4)
    actions: Action | None = None
    while not found._ended:
        now = found.deadline
        actions = out(found, found.tick(now), now)
    assert actions == Finish(End.CLIENT_SILENT, "nothing heard for 300 s")


def test_a_duplicate_ack_shows_that_the_client_lives() -> None:
    found = started()
    for number in range(1, 10):
        assert found.receive(Ack(0), number * 200.0) is None
    assert not isinstance(found.tick(1800.0 + 299.0), Finish)


def test_nothing_is_repeated_while_the_blocks_have_not_gone_out() -> None:
    found = session()
    found.start(0.0)
    found.receive(Ack(0), 0.1)
    assert found.deadline == pytest.approx(300.1)
    assert found.tick(100.0) is None
    found.went_out(2, 100.0, is_over=False)
    assert found.deadline == pytest.approx(300.1)
    found.went_out(2, 101.0, is_over=True)
    assert found.deadline < 103.0


def test_an_ack_replaces_what_is_still_to_go_out() -> None:
    found = session(windowsize=8)
    found.start(0.0)
    found.receive(Ack(0), 0.1)
    found.went_out(3, 0.1, is_over=False)
    assert found.receive(Ack(4), 0.2) is None  # block 4 is not out yet
    assert found.receive(Ack(3), 0.2) == SendBlocks(4, 8)


def test_what_was_given_up_as_lost_is_repeated_by_the_timer() -> None:
    found = session(windowsize=8)
    found.start(0.0)
    found.receive(Ack(0), 0.1)
    found.went_out(3, 0.1, is_over=True)
    assert found.tick(found.deadline) == SendBlocks(1, 4)
    found.went_out(0, 5.0, is_over=True)
    # The network took nothing; that is not the file's fault.
    assert found.tick(300.1) == Finish(End.CLIENT_SILENT, "nothing heard for 300 s")


def test_a_file_that_cannot_be_read_for_minutes_is_not_the_clients_fault() -> None:
    found = session()
    found.start(0.0)
    found.receive(Ack(0), 0.1)
    actions = found.tick(found.deadline)
    assert actions == Finish(End.FILE_ERROR, "no bytes to send for 300 s")


packets = st.one_of(
    st.integers(0, 12).map(Ack),
    st.integers(65530, 65535).map(Ack),
    st.just(OutOfPlace(3)),
    st.builds(Error, st.integers(0, 9), st.just("")),
)
steps = st.one_of(
    packets,
    packets,
    st.sampled_from(["tick", "refused", "repeated", "all out", "some out", "lost"]),
)


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 100), st.sampled_from([1, 2, 5]), st.booleans(), st.lists(steps, max_size=60))
def test_any_sequence_of_inputs_keeps_the_rules(
    size: int, windowsize: int, with_oack: bool, sequence: list[Packet | str]
) -> None:
    found = session(size, windowsize, accepted=WITH_OACK if with_oack else ())
    last = size // 8 + 1
    now = 0.0
    acked = 0
    highest = 0
    ordered: SendBlocks | None = None
    gone = 0
    finished = 0
    action = found.start(now)
    for step in [None, *sequence]:
        sends = 0
        match step:
            case None:
                pass
            case "tick":
                now = max(now, min(found.deadline, now + 400))
                action = found.tick(now)
            case "refused":
                action = found.refused()
            case "repeated":
                action = found.repeated(now)
            case "all out" | "some out" | "lost" if ordered is not None:
                left = ordered.number - gone
                count = {"all out": left, "some out": left // 2, "lost": 0}[str(step)]
                found.went_out(count, now, is_over=step != "some out")
                gone += count
                highest = max(highest, ordered.first + gone - 1)
                if step != "some out":
                    ordered = None
                action = None
            case str():
                action = None
            case _:
                action = found.receive(step, now)
                if isinstance(step, Ack) and not finished and acked < step.number <= highest:
                    acked = step.number
        if action is not None:
            assert finished == 0
        match action:
            case SendBlocks(first, count):
                # Behind what is acknowledged or, within its window, behind what has just gone out.
                assert acked + 1 <= first <= highest + 1
                assert count >= 1
                assert first + count - 1 <= min(last, acked + windowsize)
                ordered, gone = replace(action), 0
                sends += 1
            case Send():
                assert with_oack
                sends += 1
            case Finish(end):
                finished += 1
                assert end is not End.COMPLETE or highest == last
        assert sends <= 1
        assert found.acknowledged == min(acked * 8, size)
        assert (found.deadline == math.inf) == bool(finished)
