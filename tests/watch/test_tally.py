"""What transfers come to: nothing is lost, and no client can make the sums grow in number."""

from __future__ import annotations

import bisect
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from bootserve.catalog.model import Arch
from bootserve.watch.ledger import SENT_AGAIN, End, Ledger
from bootserve.watch.liveness import Verdict
from bootserve.watch.tally import DURATIONS, MEANINGFUL, Histogram, Tally

_PROTOCOLS = st.sampled_from(["HTTP", "TFTP"])
_ARCHES = st.sampled_from(["", *Arch])


@given(st.lists(st.floats(0, 1e6), max_size=50))
def test_a_histogram_counts_what_is_up_to_each_bound(values: list[float]) -> None:
    histogram = Histogram(DURATIONS)
    for value in values:
        histogram.add(value)
    ordered = sorted(values)
    assert histogram.up_to() == [
        *((bound, bisect.bisect_right(ordered, bound)) for bound in DURATIONS),
        (None, len(values)),
    ]
    assert histogram.sum == sum(values)


@given(
    st.lists(
        st.tuples(
            _PROTOCOLS,
            _ARCHES,
            st.text(max_size=8),
            st.sampled_from(End),
            st.sampled_from([None, Verdict.MOVING, Verdict.PAUSED]),
            st.integers(0, 2 * MEANINGFUL),
        ),
        max_size=30,
    )
)
def test_every_end_is_counted_by_words_of_our_own(
    what: list[tuple[str, Arch | str, str, End, Verdict | None, int]],
) -> None:
    tally = Tally()
    now = 100.0
    ledger = Ledger(lambda: now, observers=(tally,))
    expected: Counter[tuple[str, str, str, End]] = Counter()
    for protocol, arch, text, end, verdict, size in what:
        transfer = ledger.open(
            protocol=protocol, client=text, machine=text, name=text, total=size, arch=arch
        )
        transfer.sent = size
        transfer.details = {SENT_AGAIN: 2}
        if verdict is not None:
            transfer.look(verdict, now)
        now += 2.0
        transfer.close(end, text)
        expected[protocol, arch, verdict or "", end] += 1
    kinds = tally.kinds.values()
    assert expected == {
        (*kind, *how): count
        for kind, sums in tally.kinds.items()
        for how, count in sums.ends.items()
    }
    assert sum(sums.sent for sums in kinds) == sum(size for *_, size in what)
    assert sum(sums.durations.up_to()[-1][1] for sums in kinds) == len(what)
    assert sum(sums.pauses for sums in kinds) == sum(v is Verdict.PAUSED for *_, v, _ in what)
    assert sum(sums.sent_again for sums in kinds) == 2 * len(what)
    assert sum(sums.rates.up_to()[-1][1] for sums in kinds) == sum(
        end in (End.COMPLETE, End.UNCONFIRMED) and size >= MEANINGFUL for *_, end, _, size in what
    )


def test_the_first_byte_counts_from_the_request() -> None:
    tally = Tally()
    ledger = Ledger(lambda: 100.0, observers=(tally,))
    first = ledger.open(
        protocol="HTTP", client="c", machine=None, name="f", total=9, arch="i386", asked=99.0
    )
    first.sends(99.5)
    ledger.open(protocol="HTTP", client="c", machine=None, name="f", total=9, arch="i386").close(
        End.CLIENT_LEFT
    )
    first.close(End.COMPLETE)
    sums = tally.kinds["HTTP", "i386"]
    assert (sums.first_bytes.sum, sums.first_bytes.up_to()[-1][1]) == (0.5, 1)
