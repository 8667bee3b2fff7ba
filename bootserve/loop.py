"""An event loop that can call a socket's reader at once, from within its wait (Linux).

asyncio makes a turn of its loop for each batch of events: the timers looked at, a handle queued,
taken out and run in a context. That is nothing beside what an HTTP request costs, but as much as
the rest of an answer to TFTP's ACK. A direct reader is called as soon as the kernel reports its
descriptor, and as long as there is nothing else to do the loop goes on waiting.

What asyncio itself registers is treated as by its own selector. Built on what it documents:
`asyncio.SelectorEventLoop` takes any `selectors.BaseSelector`.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import select
import selectors
import socket
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

DirectReader = Callable[[], bool]
"""Called when there is something to read; must not block. Returns whether the loop has nothing new
to do: no timer set, nothing scheduled, no task started. ``False`` is always right."""


def add_direct_reader(sock: socket.socket, callback: DirectReader) -> None:
    """Have ``callback`` called for what ``sock`` receives, by any loop; directly if it can."""
    loop = asyncio.get_running_loop()
    if isinstance(loop, DirectLoop):
        loop.add_direct_reader(sock.fileno(), callback)
    else:
        loop.add_reader(sock, callback)


def remove_direct_reader(sock: socket.socket) -> None:
    """End what `add_direct_reader` has begun; to be called before the socket is closed."""
    loop = asyncio.get_running_loop()
    if isinstance(loop, DirectLoop):
        loop.remove_direct_reader(sock.fileno())
    else:
        loop.remove_reader(sock)


class DirectLoop(asyncio.SelectorEventLoop):
    """asyncio's own loop, with direct readers."""

    def __init__(self) -> None:
        self._direct = _DirectSelector(self._failed)
        super().__init__(self._direct)

    def add_direct_reader(self, fd: int, callback: DirectReader) -> None:
        """Call ``callback`` whenever ``fd`` is readable; replaces an earlier one."""
        self._direct.add(fd, callback)

    def remove_direct_reader(self, fd: int) -> None:
        """End it, if there is one."""
        self._direct.remove(fd)

    def _failed(self, error: Exception) -> None:
        self.call_exception_handler({"message": "a direct reader has failed", "exception": error})


_EVENTS = 256
"""Of one look; what is left comes with the next."""

_TIMERS = 0.001
"""Seconds after which the time left until asyncio's next timer is worked out anew; epoll(7) is not
more exact."""


class _DirectSelector(selectors.BaseSelector):
    """epoll(7), level-triggered as asyncio expects it, with callbacks beside the keys."""

    def __init__(self, on_error: Callable[[Exception], None]) -> None:
        self._epoll = select.epoll()
        self._keys: dict[int, selectors.SelectorKey] = {}
        self._readers: dict[int, DirectReader] = {}
        self._on_error = on_error

    def add(self, fd: int, callback: DirectReader) -> None:
        before = self._mask(fd)
        self._readers[fd] = callback
        self._update(fd, before)

    def remove(self, fd: int) -> None:
        before = self._mask(fd)
        self._readers.pop(fd, None)
        self._update(fd, before)

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        if not events or events & ~(selectors.EVENT_READ | selectors.EVENT_WRITE):
            raise ValueError(f"Invalid events: {events!r}")
        fd = _descriptor(fileobj)
        if fd in self._keys:
            raise KeyError(f"{fileobj!r} (FD {fd}) is already registered")
        return self._set(selectors.SelectorKey(fileobj, fd, events, data))

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        key = self.get_key(fileobj)
        before = self._mask(key.fd)
        del self._keys[key.fd]
        self._update(key.fd, before)
        return key

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = self.get_key(fileobj)
        return self._set(key._replace(events=events, data=data))

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        try:
            return self._keys[_descriptor(fileobj)]
        except ValueError:
            # It has been closed meanwhile.
            for key in self._keys.values():
                if key.fileobj is fileobj:
                    return key
            raise KeyError(f"{fileobj!r} is not registered") from None

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return MappingProxyType(self._keys)

    def close(self) -> None:
        self._epoll.close()
        self._keys.clear()
        self._readers.clear()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        wait = -1.0 if timeout is None else _whole_milliseconds(timeout)
        now = time.monotonic()
        due = math.inf if timeout is None else now + timeout
        exact_until = now + _TIMERS
        while True:
            ready = []
            events = self._epoll.poll(wait, _EVENTS)
            is_quiet = bool(events)
            for fd, event in events:
                reader = self._readers.get(fd)
                if reader is not None and event != select.EPOLLOUT:
                    event &= select.EPOLLOUT
                    try:
                        if not reader():
                            is_quiet = False
                    except Exception as error:
                        self._on_error(error)
                        is_quiet = False
                if event:
                    key = self._keys.get(fd)
                    if key is None:
                        continue
                    found = selectors.EVENT_WRITE if event & ~select.EPOLLIN else 0
                    found |= selectors.EVENT_READ if event & ~select.EPOLLOUT else 0
                    if found & key.events:
                        ready.append((key, found & key.events))
            if ready or not is_quiet or not wait:
                return ready  # with no time to wait something else is to be done already
            now = time.monotonic()
            if now > exact_until:
                if now >= due:
                    return ready
                exact_until = now + _TIMERS
                if timeout is not None:
                    wait = _whole_milliseconds(due - now)

    def _set(self, key: selectors.SelectorKey) -> selectors.SelectorKey:
        before = self._mask(key.fd)
        known = self._keys.get(key.fd)
        self._keys[key.fd] = key
        try:
            self._update(key.fd, before)
        except BaseException:
            if known is None:
                del self._keys[key.fd]
            raise
        return key

    def _mask(self, fd: int) -> int:
        key = self._keys.get(fd)
        wanted = 0 if key is None else key.events
        mask = select.EPOLLIN if wanted & selectors.EVENT_READ or fd in self._readers else 0
        return mask | (select.EPOLLOUT if wanted & selectors.EVENT_WRITE else 0)

    def _update(self, fd: int, before: int) -> None:
        mask = self._mask(fd)
        if not mask:
            if before:
                # Closing it, which may have happened meanwhile, does the same.
                with contextlib.suppress(OSError):
                    self._epoll.unregister(fd)
        elif not before:
            self._epoll.register(fd, mask)
        elif mask != before:
            self._epoll.modify(fd, mask)


def _descriptor(fileobj: Any) -> int:
    fd = fileobj if isinstance(fileobj, int) else int(fileobj.fileno())
    if fd < 0:
        raise ValueError(f"Invalid file descriptor: {fd}")
    return fd


def _whole_milliseconds(seconds: float) -> float:
    """epoll(7) counts in them; rounded up, or the loop would turn for nothing until the time."""
    return math.ceil(seconds * 1e3) * 1e-3 if seconds > 0 else 0
