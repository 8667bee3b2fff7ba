"""An event loop whose time passes only while nothing happens: minutes of patience in a millisecond.

Sockets are real. As soon as none of them has anything and no callback is due, the clock jumps to
the next timer. So a datagram that the kernel still holds back arrives late, which a network may do.
"""

from __future__ import annotations

import asyncio
import select
import selectors
import time
from typing import TYPE_CHECKING, Any
from unittest import mock

import anyio.to_thread

from bootserve.loop import DirectLoop

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

_REAL_WAIT = 0.01
"""Seconds for which a thread's result or a hanging test's end is really waited for at a time."""
_MOST_WAITS = 1000


class Stuck(AssertionError):
    """Nothing is due, ever, and the test is not over."""


class _Selector(selectors.BaseSelector):
    """A selector that lets the loop's clock jump instead of waiting."""

    def __init__(self) -> None:
        self._real = selectors.DefaultSelector()
        self._waits = 0
        self.now = 0.0
        self.threads: anyio.CapacityLimiter | None = None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = self._real.select(0)
        if found or (timeout is not None and timeout <= 0):
            self._waits = 0
            return found
        self.pass_time(timeout)
        return self._real.select(0)

    def pass_time(self, timeout: float | None) -> None:
        """Jump over a wait for which there is no reason; really wait for threads."""
        if timeout is None or (self.threads is not None and self.threads.borrowed_tokens):
            self._waits += 1
            if self._waits > _MOST_WAITS:
                raise Stuck("nothing is due any more")
            time.sleep(_REAL_WAIT)
        else:
            self._waits = 0
            self.now += timeout

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.modify(fileobj, events, data)

    def close(self) -> None:
        self._real.close()

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._real.get_map()


class _Epoll:
    """The same for the loop that reads TFTP's sockets directly, which waits in epoll(7) itself."""

    def __init__(self, real: select.epoll, virtual: _Selector) -> None:
        self._real = real
        self._virtual = virtual

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def poll(self, timeout: float, maxevents: int) -> list[tuple[int, int]]:
        found = self._real.poll(0, maxevents)
        if not found and timeout:
            self._virtual.pass_time(None if timeout < 0 else timeout)
            found = self._real.poll(0, maxevents)
        return found


class _DirectLoop(DirectLoop):
    def __init__(self, virtual: _Selector) -> None:
        self._virtual = virtual
        super().__init__()
        self._direct._epoll = _Epoll(self._direct._epoll, virtual)  # type: ignore[assignment]

    def time(self) -> float:
        return self._virtual.now


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self, selector: _Selector) -> None:
        self._virtual = selector
        super().__init__(selector)

    def time(self) -> float:
        return self._virtual.now


class VirtualTime:
    """Runs coroutines, one after the other, in such a loop; `time.monotonic` is then its clock too.

    What asyncio reports of callbacks that have raised is collected in ``reported``.
    """

    def __init__(self, *, is_direct: bool = False) -> None:
        self._selector = _Selector()
        loop = _DirectLoop if is_direct else _Loop
        self._runner = asyncio.Runner(loop_factory=lambda: loop(self._selector))
        self.reported: list[str] = []

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        self._runner.get_loop().set_exception_handler(self._report)
        with mock.patch.object(time, "monotonic", self._loop_time):
            self._runner.run(self._watching_threads(work))

    async def _watching_threads(self, work: Coroutine[Any, Any, None]) -> None:
        self._selector.threads = anyio.to_thread.current_default_thread_limiter()
        await work

    def _report(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.reported.append(f"{context.get('message')}: {context.get('exception')!r}")

    def _loop_time(self) -> float:
        return self._selector.now

    def close(self) -> None:
        self._runner.close()
