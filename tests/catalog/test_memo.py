"""What is remembered is right, and never more than was allowed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bootserve.catalog.memo import Memo


class _NotRemembered(Exception):
    pass


def _must_remember() -> object:
    raise _NotRemembered


def _remembers(memo: Memo[str, object], key: str) -> bool:
    try:
        memo.get(key, _must_remember)
    except _NotRemembered:
        return False
    return True


_KEYS = "abcdefgh"


def _weigh(value: object) -> int:
    assert isinstance(value, str)
    return len(value)


@given(
    capacity=st.integers(0, 12),
    weights=st.fixed_dictionaries({key: st.integers(1, 9) for key in _KEYS}),
    asked=st.lists(st.sampled_from(_KEYS), max_size=60),
)
@example(capacity=3, weights=dict.fromkeys(_KEYS, 1), asked=[*"abcabcdabcd"])
@example(capacity=9, weights={**dict.fromkeys(_KEYS, 3), "d": 9}, asked=[*"abcdabc"])
@example(capacity=2, weights=dict.fromkeys(_KEYS, 5), asked=[*"aabb"])
def test_it_is_bounded_by_weight_and_forgets_the_oldest(
    capacity: int, weights: dict[str, int], asked: list[str]
) -> None:
    memo = Memo[str, object](capacity, _weigh)
    # What must be remembered, oldest first.
    kept: list[str] = []
    for key in asked:
        value = key * weights[key]
        made: list[str] = []

        def make(value: str = value, made: list[str] = made) -> str:
            made.append(value)
            return value

        assert memo.get(key, make) == value
        assert bool(made) == (key not in kept)
        if made and weights[key] <= capacity:
            kept.append(key)
            while sum(weights[other] for other in kept) > capacity:
                kept.pop(0)
        assert [other for other in _KEYS if _remembers(memo, other)] == sorted(kept)


@given(capacity=st.integers(0, 5), asked=st.lists(st.integers(0, 9), max_size=50))
def test_it_is_bounded_by_count(capacity: int, asked: list[int]) -> None:
    memo = Memo[str, object](capacity)
    for number in asked:
        assert memo.get(str(number), lambda number=number: -number) == -number  # type: ignore[misc]
        assert sum(_remembers(memo, str(other)) for other in range(10)) <= capacity


def test_a_value_that_is_too_heavy_is_given_but_pushes_nothing_out() -> None:
    memo = Memo[str, object](5, _weigh)
    memo.get("a", lambda: "aaaa")
    for _ in range(3):
        assert memo.get("b", lambda: "b" * 6) == "b" * 6
    assert not _remembers(memo, "b")
    assert _remembers(memo, "a")


@pytest.mark.parametrize("value", [False, 0, "", (), b"", 0.0], ids=repr)
def test_a_value_that_is_false_is_remembered_like_any(value: object) -> None:
    memo = Memo[str, object](3)
    assert memo.get("a", lambda: value) is value
    assert memo.get("a", _must_remember) is value


def test_nothing_as_a_value_pushes_nothing_out() -> None:
    memo = Memo[str, object](3)
    memo.get("a", lambda: "kept")
    for _ in range(10):
        assert memo.get("b", lambda: None) is None
    assert _remembers(memo, "a")


def test_an_error_is_not_remembered() -> None:
    memo = Memo[str, object](3)

    def fail() -> object:
        raise KeyError("x")

    for _ in range(5):
        with pytest.raises(KeyError):
            memo.get("a", fail)
    assert memo.get("a", lambda: 1) == 1
    assert memo.get("a", fail) == 1


def test_making_a_value_may_ask_for_another() -> None:
    memo = Memo[str, object](2)

    def nested(depth: int) -> Callable[[], object]:
        return lambda: depth if depth == 0 else memo.get(str(depth - 1), nested(depth - 1))

    assert memo.get("5", nested(5)) == 0
    assert sum(_remembers(memo, str(number)) for number in range(6)) == 2
