"""What the asset roots hold, looked up once for all who ask at about the same time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import anyio

from bootserve.catalog.profiles import Found
from bootserve.catalog.waiting import wait_in_thread


class Discovery:
    """Walks the asset roots in a thread, one walk at a time.

    Nothing is remembered from one walk to the next, so that what is put into a root is there at
    once. But a rack that is switched on asks in one burst: whoever comes while a walk is under way
    gets, with all others who came meanwhile, the result of the next, or its error.

    Args:
        look: the walk.
    """

    def __init__(self, look: Callable[[], Sequence[Found]]) -> None:
        self._look = look
        self._lock = anyio.Lock()
        self._begun = 0
        self._ended = 0
        self._result: Sequence[Found] | Exception = ()

    async def now(self) -> Sequence[Found]:
        """Return what the roots held at some moment after this call.

        Raises:
            AssetUnavailable: they could not be listed.
        """
        begun_before = self._begun
        async with self._lock:
            if self._ended <= begun_before:
                self._begun += 1
                walk = self._begun
                try:
                    self._result = await wait_in_thread(self._look, "the asset roots")
                except Exception as error:
                    self._result = error
                self._ended = walk
            if isinstance(self._result, Exception):
                raise self._result
            return self._result
