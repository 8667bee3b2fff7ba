"""What is agreed to, option by option."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootserve.catalog.assets import READ_SIZE
from bootserve.tftp.options import Terms, negotiate


@pytest.mark.parametrize(
    ("value", "blksize"),
    [
        ("8", 8),
        ("1432", 1432),
        ("01432", 1432),
        ("65464", 65464),
        ("65465", 65464),
        ("65536", 65464),
        ("9" * 19, 65464),
    ],
)
def test_blksize(value: str, blksize: int) -> None:
    terms = negotiate([("blksize", value)], tsize=None)
    assert terms == Terms(blksize=blksize, accepted=(("blksize", str(blksize)),))


@pytest.mark.parametrize("name", ["blksize", "windowsize", "timeout", "tsize"])
@pytest.mark.parametrize(
    "value", ["", "abc", "-1", "+1432", " 1432", "1432 ", "14.5", "0x100", "١٤٣٢", "²", "9" * 2000]
)
def test_what_is_no_number_is_ignored(name: str, value: str) -> None:
    assert negotiate([(name, value)], tsize=100) == Terms()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("blksize", "0"),
        ("blksize", "7"),
        ("windowsize", "0"),
        ("windowsize", "65536"),
        ("timeout", "0"),
        ("timeout", "256"),
        ("multicast", "1"),
        ("rollover", "2"),
    ],
)
def test_what_is_out_of_range_or_unknown_is_ignored(name: str, value: str) -> None:
    assert negotiate([(name, value)], tsize=100) == Terms()


@pytest.mark.parametrize(
    ("value", "windowsize"), [("1", 1), ("4", 4), ("64", 64), ("65", 64), ("65535", 64)]
)
def test_windowsize(value: str, windowsize: int) -> None:
    terms = negotiate([("windowsize", value)], tsize=None)
    assert terms == Terms(windowsize=windowsize, accepted=(("windowsize", str(windowsize)),))


@pytest.mark.parametrize("value", ["1", "255"])
def test_timeout_is_echoed(value: str) -> None:
    terms = negotiate([("timeout", value)], tsize=None)
    assert terms == Terms(timeout=int(value), accepted=(("timeout", value),))


def test_tsize_is_answered_with_the_size() -> None:
    assert negotiate([("tsize", "0")], tsize=2**33).accepted == (("tsize", str(2**33)),)
    assert negotiate([("tsize", "77")], tsize=0).accepted == (("tsize", "0"),)


def test_tsize_is_not_answered_when_it_is_not_known() -> None:
    assert negotiate([("tsize", "0")], tsize=None) == Terms()


def test_names_are_found_in_any_case_and_answered_as_they_were_spelled() -> None:
    terms = negotiate([("TSIZE", "0"), ("BlkSize", "1468"), ("windowsize", "4")], tsize=5)
    assert terms.accepted == (("TSIZE", "5"), ("BlkSize", "1468"), ("windowsize", "4"))
    assert (terms.blksize, terms.windowsize) == (1468, 4)


def test_of_a_name_given_twice_the_first_counts() -> None:
    terms = negotiate([("blksize", "1024"), ("BLKSIZE", "512")], tsize=None)
    assert terms == Terms(blksize=1024, accepted=(("blksize", "1024"),))
    assert negotiate([("blksize", "x"), ("blksize", "1024")], tsize=None) == Terms()


@pytest.mark.parametrize(
    ("asked", "fitting", "answer"),
    [(8192, 1468, 1468), (1468, 1468, 1468), (1432, 1468, 1432), (1468, 400, 512), (300, 400, 300)],
)
def test_blocks_fit_into_what_reaches_the_client(asked: int, fitting: int, answer: int) -> None:
    terms = negotiate([("blksize", str(asked))], tsize=None, max_blksize=fitting)
    assert terms.blksize == answer
    assert terms.is_lowered_to_fit == (answer < asked)


def test_windows_are_bounded_by_the_operator_too() -> None:
    terms = negotiate([("windowsize", "32")], tsize=None, max_windowsize=8)
    assert terms.accepted == (("windowsize", "8"),)


@pytest.mark.parametrize("value", [0, 1])
def test_rollover_is_the_clients_choice_and_else_the_operators(value: int) -> None:
    asked = negotiate([("rollover", str(value))], tsize=None, rollover=1 - value)
    assert (asked.rollover, asked.accepted) == (value, (("rollover", str(value)),))
    assert negotiate([], tsize=None, rollover=value) == Terms(rollover=value)
    assert Terms(rollover=value).modulus == 65536 - value


numbers = st.integers(-10, 10**6).map(str) | st.text(max_size=5)
names = st.sampled_from(
    ["blksize", "windowsize", "timeout", "tsize", "rollover", "BLKSIZE", "other"]
)


@given(st.lists(st.tuples(names, numbers), max_size=8))
def test_never_more_than_was_asked_for(asked: list[tuple[str, str]]) -> None:
    terms = negotiate(asked, tsize=12345)
    first: dict[str, str] = {}
    for name, value in asked:
        first.setdefault(name.lower(), value)
    for name, answer in terms.accepted:
        if name.lower() != "tsize":
            assert int(answer) <= int(first[name.lower()])
    accepted = {name.lower(): value for name, value in terms.accepted}
    assert len(accepted) == len(terms.accepted)
    assert terms.blksize == int(accepted.get("blksize", 512))
    assert terms.windowsize == int(accepted.get("windowsize", 1))
    assert terms.windowsize == 1 or terms.windowsize * terms.blksize <= READ_SIZE // 2
