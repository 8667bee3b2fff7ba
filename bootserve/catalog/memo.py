"""A bounded memory of what a pure function has returned."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")


class Memo(Generic[_Key, _Value]):
    """Remembers values by key; the one that was made first is forgotten first.

    Args:
        capacity: number of values.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._values: dict[_Key, _Value] = {}

    def get(self, key: _Key, make: Callable[[], _Value]) -> _Value:
        """Return the value for ``key``, made by ``make`` if it is not remembered."""
        found = self._values.get(key)
        if found is None:
            found = make()
            while len(self._values) >= self._capacity:
                del self._values[next(iter(self._values))]
            self._values[key] = found
        return found
