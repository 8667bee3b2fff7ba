"""What transfers come to: nothing is lost, and no client can make the sums grow in number."""

from __future__ import annotations

import bisect
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from bootserve.catalog.model import Arch
from bootserve.watch.ledger import End, Ledger
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
    expected: Counter[tuple[str, str, str, str]] = Counter()
    for protocol, arch, text, end, verdict, size in what:
        transfer = ledger.open(
            protocol=protocol, client=text, machine=text, name=text, total=size, arch=arch
        )
        transfer.sent = size
        if verdict is not None:
            transfer.look(verdict, now)
        now += 2.0
        transfer.close(end, text)
        words = (protocol.lower(), str(arch) or "unknown", verdict or "none", end.name.lower())
        expected[words] += 1
    assert tally.ends == expected
    assert sum(tally.sent.values()) == sum(size for *_, size in what)
    assert sum(histogram.up_to()[-1][1] for histogram in tally.durations.values()) == len(what)
    assert tally.pauses.total() == sum(verdict is Verdict.PAUSED for *_, verdict, _ in what)
    assert sum(histogram.up_to()[-1][1] for histogram in tally.rates.values()) == sum(
        end in (End.COMPLETE, End.UNCONFIRMED) and size >= MEANINGFUL for *_, end, _, size in what
    )


def test_the_first_byte_counts_from_the_request() -> None:
    tally = Tally()
    ledger = Ledger(lambda: 100.0, observers=(tally,))
    first = ledger.open(
        protocol="HTTP", client="c", machine=None, name="f", total=9, arch="i386", asked=99.0
    )
    first.sends(99.5)
    ledger.open(protocol="HTTP", client="c", machine=None, name="f", total=9).close(End.CLIENT_LEFT)
    first.close(End.COMPLETE)
    assert {kind: seen.sum for kind, seen in tally.first_bytes.items()} == {("http", "i386"): 0.5}
