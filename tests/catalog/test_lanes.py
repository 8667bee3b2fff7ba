"""How lanes are written, and which of several that would fit a client gets."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootserve.catalog.entries import Machine
from bootserve.catalog.lanes import Lane, Lanes
from bootserve.catalog.limits import (
    OFF,
    describe_pace,
    describe_window,
    parse_pace,
    parse_window,
)
from bootserve.catalog.machines import Sighting


@pytest.mark.parametrize(
    ("text", "pace"),
    [
        ("8kbit/s", 1000),
        ("10Mbit/s", 1_250_000),
        ("10 Mbit/s", 1_250_000),
        ("2.5Mbit/s", 312_500),
        ("1Gbit/s", 125_000_000),
        ("400Gbit/s", 50_000_000_000),
        ("800kbit/s", 100_000),
        ("8000bit/s", 1000),
        ("1Mibit/s", 131_072),
        ("1MB/s", 1_000_000),
        ("1MiB/s", 1_048_576),
        ("512KiB/s", 524_288),
        ("512kB/s", 512_000),
        ("1000B/s", 1000),
        ("off", OFF),
    ],
)
def test_a_pace(text: str, pace: int) -> None:
    assert parse_pace(text) == pace


@pytest.mark.parametrize(
    "value", ["10", 10, True, "10Mb/s", "10Mbit", "10 Mbps", "fast", "ibit/s", "1 ibit/s", "-1MB/s"]
)
def test_what_is_no_pace(value: object) -> None:
    with pytest.raises(ValueError, match="is not a pace; write it like"):
        parse_pace(value)


@pytest.mark.parametrize("value", ["0bit/s", "7kbit/s", "7999bit/s", "401Gbit/s", "51GB/s"])
def test_a_pace_out_of_range(value: str) -> None:
    with pytest.raises(ValueError, match="between 8kbit/s and 400Gbit/s"):
        parse_pace(value)


@pytest.mark.parametrize(
    ("value", "window"),
    [
        ("256KiB", 262_144),
        ("256 kB", 256_000),
        ("1MB", 1_000_000),
        ("1MiB", 1_048_576),
        ("64MiB", 67_108_864),
        ("65536", 65_536),
        ("65536B", 65_536),
        (65_536, 65_536),
        (4096, 4096),
        ("off", OFF),
    ],
)
def test_a_window(value: object, window: int) -> None:
    assert parse_window(value) == window


@pytest.mark.parametrize("value", ["256K", "256Kibit", "1MB/s", "", 1.5, True, None, -4096])
def test_what_is_no_window(value: object) -> None:
    with pytest.raises(ValueError, match="is not a window; write it like"):
        parse_window(value)


@pytest.mark.parametrize("value", [0, 4095, "1KiB", "65MiB", 2**40])
def test_a_window_out_of_range(value: object) -> None:
    with pytest.raises(ValueError, match="between 4KiB and 64MiB"):
        parse_window(value)


@given(st.integers(1000, 50_000_000_000))
def test_a_pace_is_read_as_it_is_described(pace: int) -> None:
    assert parse_pace(describe_pace(pace)) == pace
    assert parse_pace(f"{pace}B/s") == pace


@given(st.integers(4096, 64 << 20))
def test_a_window_is_read_as_it_is_described(window: int) -> None:
    assert parse_window(describe_window(window)) == window


def test_the_words_for_a_lane() -> None:
    assert str(Lane(1_250_000, 65_536)) == "10 Mbit/s, 64 KiB"
    assert str(Lane(125_000_000, 1 << 20)) == "1 Gbit/s, 1 MiB"
    assert str(Lane(1001, 100_000)) == "8.008 kbit/s, 100000 B"
    assert str(Lane()) == "off, off"


@dataclass(frozen=True)
class _Says:
    pace: int | None = None
    window: int | None = None
    user_agent: str = "*"


_values = st.none() | st.integers(0, 3)
_says = st.builds(_Says, _values, _values)

MAC = "52:54:00:12:34:56"


def _machine(says: _Says) -> Machine:
    # As they are: small numbers are no paces that an operator could set.
    return Machine.model_construct(
        mac=(MAC,), profile="p", pace=says.pace, window=says.window, name=None
    )


@given(_says, _says, _says, _says, st.builds(_Says, st.integers(0, 3), st.integers(0, 3)))
def test_each_value_is_that_of_the_most_specific_source_that_sets_it(
    machine: _Says, slow: _Says, profile: _Says, agent: _Says, default: _Says
) -> None:
    lanes = Lanes(default=default, slow=slow, profiles={"p": profile}, agents=[agent])
    seen = Sighting(MAC, _machine(machine), "p")
    lane = lanes.choose(seen, "192.0.2.1", "iPXE")
    sources = [machine, profile, agent, default]
    pace = next(source.pace for source in sources if source.pace is not None)
    window = next(source.window for source in sources if source.window is not None)
    assert lane == Lane(pace or None, window or None)

    lanes.slow_down(MAC)
    slowed = lanes.choose(seen, "192.0.2.1", "iPXE")
    for value, own, ordinary, limit in (
        (slowed.pace, machine.pace, pace, slow.pace),
        (slowed.window, machine.window, window, slow.window),
    ):
        limits = [found for found in (ordinary, limit) if found]
        assert value == (own or None if own is not None else min(limits, default=None))
    assert lanes.choose_unslowed(seen, "iPXE") == lane


@given(_says, _says)
def test_who_is_not_meant_is_left_alone(one: _Says, other: _Says) -> None:
    default = _Says(7, 8)
    lanes = Lanes(
        default=default,
        slow=_Says(1, 1),
        profiles={"p": one},
        agents=[_Says(other.pace, other.window, "iPXE/1.0.0*")],
    )
    lanes.slow_down(MAC)
    for seen in (None, Sighting("52:54:00:00:00:01", None, "q"), Sighting(None, None, None)):
        for agent in (None, "", "curl/8", "iPXE/1.0.1"):
            assert lanes.choose(seen, "192.0.2.1", agent) == Lane(7, 8)


@pytest.mark.parametrize(
    ("agent", "pace"),
    [
        ("iPXE/1.0.0+git-20190125", 1),
        ("ipxe/1.0.0", 1),
        ("iPXE/1.21.1", 2),
        ("UefiHttpBoot/1.0", 3),
        ("x iPXE/1.0.0", 3),
    ],
)
def test_the_first_user_agent_that_matches_counts(agent: str, pace: int) -> None:
    agents = [_Says(1, None, "iPXE/1.0.0*"), _Says(2, None, "IPXE/*")]
    lanes = Lanes(default=_Says(3, 0), slow=_Says(), profiles={}, agents=agents)
    for _ in range(2):
        assert lanes.choose(None, "192.0.2.1", agent) == Lane(pace, None)


def test_those_who_are_held_to_the_same_share_one_lane() -> None:
    lanes = Lanes(default=_Says(0, 0), slow=_Says(), profiles={"p": _Says(5), "q": _Says(5)})
    one = lanes.choose(Sighting(None, None, "p"), "192.0.2.1")
    other = lanes.choose(Sighting("x", None, "q"), "192.0.2.2")
    assert one == Lane(5, None)
    assert one is other


def test_the_slow_lane_is_for_a_machine_by_its_label_or_else_for_an_address() -> None:
    lanes = Lanes(default=_Says(0, 0), slow=_Says(9, 9), profiles={}, capacity=2)
    assert lanes.slow_down("192.0.2.1")
    assert not lanes.slow_down("192.0.2.1")
    assert lanes.choose(None, "192.0.2.1") == Lane(9, 9)
    assert lanes.choose(None, "192.0.2.2") == Lane()
    # Whoever has that address now has a name of its own.
    assert lanes.choose(Sighting(MAC), "192.0.2.1") == Lane()
    lanes.slow_down(MAC)
    assert lanes.choose(Sighting(MAC), "192.0.2.7") == Lane(9, 9)
    lanes.slow_down("192.0.2.3")
    assert lanes.choose(None, "192.0.2.1") == Lane()  # forgotten: there is room for two
    assert lanes.choose(Sighting(MAC), "192.0.2.7") == Lane(9, 9)
