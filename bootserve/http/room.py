"""When sockets have room, and whose turn it is.

asyncio runs everything that is ready before it looks again. If that is a burst into each of five
hundred sockets, a newcomer, whose first byte takes five looks, waits for all of them five times. So
the sockets of transfers are watched by an epoll instance of their own, nested in the loop's
(epoll(7)), from which each turn of the loop takes a few; the kernel keeps the others in order.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable
from typing import Final
from weakref import WeakKeyDictionary

SOCKETS_PER_TURN: Final = 4
BYTES_PER_TURN: Final = 4 << 20
"""How many sockets are served, and after how many bytes no further one is, before others get their
turn. Fewer cost more looks, more let newcomers wait."""


class Room:
    """Calls back when sockets have room. One for each event loop, on which alone it is used.

    Its epoll instance is there while something is watched, and owned by nobody else.
    """

    def __init__(self) -> None:
        self._epoll: select.epoll | None = None
        self._callbacks: dict[int, Callable[[], int]] = {}

    def watch(self, sock: int, callback: Callable[[], int]) -> None:
        """Call ``callback`` whenever the socket has room, or an error; it returns bytes sent.

        Args:
            sock: a descriptor, which `forget` has to be told of before it is closed.

        Raises:
            OSError: the kernel has no descriptor or no memory for it.
        """
        if self._epoll is None:
            self._epoll = select.epoll()
            asyncio.get_running_loop().add_reader(self._epoll.fileno(), self._serve)
        self._epoll.register(sock, select.EPOLLOUT)
        self._callbacks[sock] = callback

    def forget(self, sock: int) -> None:
        if self._callbacks.pop(sock, None) is None or self._epoll is None:
            return
        self._epoll.unregister(sock)
        if not self._callbacks:
            asyncio.get_running_loop().remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._epoll = None

    def _serve(self) -> None:
        if self._epoll is None:
            return
        sent = 0
        for sock, _ in self._epoll.poll(0, SOCKETS_PER_TURN):
            callback = self._callbacks.get(sock)
            if callback is not None:
                sent += callback()
            if sent >= BYTES_PER_TURN:
                # Those that are left are still ready at the next turn, and are first then.
                break


_rooms: WeakKeyDictionary[asyncio.AbstractEventLoop, Room] = WeakKeyDictionary()


def room_of(loop: asyncio.AbstractEventLoop) -> Room:
    """The one `Room` of an event loop."""
    found = _rooms.get(loop)
    if found is None:
        found = _rooms[loop] = Room()
    return found
