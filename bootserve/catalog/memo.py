"""A bounded memory of what a pure function has returned."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")

_MISSING: Final = object()


class Memo(Generic[_Key, _Value]):
    """Remembers values by key; those that were made first are forgotten first.

    Args:
        capacity: how many values, or what they may weigh together. Keys are often chosen by
            clients, so it is what a flood of them may cost.
        weigh: the weight of a value.
    """

    def __init__(self, capacity: int, weigh: Callable[[_Value], int] = lambda _: 1) -> None:
        self._capacity = capacity
        self._weigh = weigh
        self._weight = 0
        self._values: dict[_Key, _Value] = {}

    def get(self, key: _Key, make: Callable[[], _Value]) -> _Value:
        """Return the value for ``key``, made by ``make`` if it is not remembered."""
        found = self._values.get(key, _MISSING)
        return self._make(key, make) if found is _MISSING else found  # type: ignore[return-value]

    def _make(self, key: _Key, make: Callable[[], _Value]) -> _Value:
        made = make()
        weight = self._weigh(made)
        if weight <= self._capacity:
            self._weight += weight
            while self._weight > self._capacity:
                self._weight -= self._weigh(self._values.pop(next(iter(self._values))))
            self._values[key] = made
        return made
