"""What the asset roots hold, looked up once for all who ask at about the same time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import anyio
import anyio.to_thread

from bootserve.catalog.profiles import Found


class Discovery:
    """Walks the asset roots in a thread, one walk at a time.

    Nothing is remembered from one walk to the next, so that what is put into a root is there at
    once. But a rack that is switched on asks in one burst: whoever comes while a walk is under way
    gets, with all others who came meanwhile, the result of the next.

    Args:
        look: the walk; it may raise, and whoever it was made for gets the error.
    """

    def __init__(self, look: Callable[[], Sequence[Found]]) -> None:
        self._look = look
        self._lock = anyio.Lock()
        self._begun = 0
        self._result_of = 0
        self._result: Sequence[Found] = ()

    async def now(self) -> Sequence[Found]:
        """Return what the roots held at some moment after this call."""
        begun_before = self._begun
        async with self._lock:
            if self._result_of <= begun_before:
                self._begun += 1
                walk = self._begun
                self._result = await anyio.to_thread.run_sync(self._look, abandon_on_cancel=True)
                self._result_of = walk
            return self._result
