"""asyncio.Event at an eighth of its size, and uvicorn's flow control with it.

A connection that waits has two or three events, and thousands of connections wait.
"""

from __future__ import annotations

import asyncio
from typing import Literal

from uvicorn.protocols.http.flow_control import FlowControl


class Flag:
    """An event as asyncio.Event, to be waited for by few, whose queue is made only for them."""

    __slots__ = ("_is_set", "_waiters")

    def __init__(self, is_set: bool = False) -> None:
        self._is_set = is_set
        self._waiters: tuple[asyncio.Future[None], ...] = ()

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        waiters, self._waiters = self._waiters, ()
        for waiter in waiters:
            _wake(waiter)

    def clear(self) -> None:
        self._is_set = False

    async def wait(self, seconds: float | None = None) -> Literal[True]:
        """Wait until it is set, or for so many ``seconds``; always ``True``, as asyncio's."""
        if self._is_set:
            return True
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiters += (waiter,)
        timer = None if seconds is None else loop.call_later(seconds, _wake, waiter)
        try:
            await waiter
        finally:
            if timer is not None:
                timer.cancel()
            self._waiters = tuple(other for other in self._waiters if other is not waiter)
        return True


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class Flow(FlowControl):
    """uvicorn's, with a `Flag` for its event."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.read_paused = False
        self.write_paused = False
        self._is_writable_event = Flag(is_set=True)  # type: ignore[assignment]
