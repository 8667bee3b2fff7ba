"""A connection as its protocol uses it: heads, files, and a close that loses nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final

from bootserve.catalog.lanes import UNLIMITED, Lane
from bootserve.http import lane
from bootserve.http.watched import FIRST_LOOK, LONGEST_LOOK, Delivery, WatchedTransport
from bootserve.http.zerocopy import BURST, FilePump
from bootserve.tcp import has_unread

__all__ = ["EXTENSION", "Connection", "Delivery"]

EXTENSION: Final = "bootserve.connection"
"""ASGI extension: ``scope["extensions"][EXTENSION]["connection"]`` is the `Connection`."""

_CLOSE: Final = b"\r\nconnection: close\r\n"

_POLITE: Final = 2.0
"""Seconds between our FIN on an idle connection and its end, in which a request that has crossed
the FIN is read and dropped: closed at once, it would be answered with a reset."""


class Connection(WatchedTransport):
    """A connection of the HTTP door: asyncio's transport, with the kernel's facts and a kind close.

    `close` sends all that was written, then FIN, and closes the socket only when the client has
    acknowledged everything. A socket that is closed earlier is an orphan: the kernel gives its
    tail less patience, and drops it if the client sends anything more (RFC 9112, section 9.6).
    """

    __slots__ = ("_corked", "_is_kept", "_lane", "_linger", "_loop", "_pump", "promise")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(transport)
        self._loop = loop
        self._corked: bytes | None = None
        self._is_kept = False
        self._linger: asyncio.TimerHandle | None = None
        self._pump: FilePump | None = None
        self._lane = UNLIMITED
        self.promise = b""
        """The end of each head after which the connection is kept, with its blank line."""

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        if self._pump is not None:
            self._pump.lose()
        if self._linger is not None:
            self._linger.cancel()

    # --- lanes -------------------------------------------------------------------------------

    @property
    def window(self) -> int | None:
        """Bytes that may be on their way at once, if the lane says so."""
        return self._lane.window

    def set_lane(self, wanted: Lane) -> None:
        """Hold all that is sent from now on to this lane; to be called between two answers."""
        wanted = lane.needed(wanted)
        if wanted is not self._lane and self._socket is not None and not self.is_lost:
            lane.apply(self._socket, wanted, self._lane)
            self._lane = wanted

    # --- heads -------------------------------------------------------------------------------

    def cork(self, *, is_kept: bool) -> None:
        """Keep what is written next until more is written, or `uncork` is called.

        The head of an answer and a small body then share a system call and a segment. ASGI asks for
        it too: a head is to be sent with the first piece of the body, not before.

        Args:
            is_kept: whether the connection is to be kept, as far as is known before the head.
        """
        self._corked = b""
        self._is_kept = is_kept

    def uncork(self) -> None:
        head, self._corked = self._corked, None
        if head and not self.is_closing():
            self._transport.write(head)

    # --- files -------------------------------------------------------------------------------

    @property
    def can_sendfile(self) -> bool:
        """Whether `sendfile` works here: on plain TCP, on a loop that lets us watch the socket."""
        return (
            self._socket is not None
            and self._transport.get_extra_info("sslcontext") is None
            and can_pump(self._loop)
        )

    async def sendfile(self, file: int, offset: int, count: int) -> int:
        """Send from the page cache of an open file; return how many bytes the kernel has taken.

        They are fewer than asked for if the connection is lost, or if this kind of file cannot be
        sent so. Nothing may wait in the transport's buffer, nor be written until this returns.

        Raises:
            OSError: the file could not be read so far.
        """
        if self.is_closing() or self.is_lost:
            return 0
        assert self._socket is not None
        self._pump = FilePump(
            self._loop,
            self._socket.fileno(),
            file,
            offset,
            count,
            burst=lane.burst(self._lane, BURST),
        )
        pump = self._pump
        if self.transfer is not None:
            pump.on_begin = self.transfer.sends
        try:
            return await pump.run()
        except OSError as error:
            if not self.is_lost and not self._facts().is_dead:
                raise
            self._note(error.errno)
            await self._notice_the_end()
            return pump.sent
        finally:
            self._pump = None

    # --- closing -----------------------------------------------------------------------------

    def close(self) -> None:
        if self._closing:
            return
        self.uncork()
        self._closing = True
        if self.waiting() == 0:
            self._transport.close()
            return
        try:
            if self._transport.can_write_eof():
                self._transport.write_eof()
        except OSError:
            # It has been reset, and asyncio has not noticed.
            self._transport.abort()
            return
        self._look_again(FIRST_LOOK)

    def _look_again(self, pause: float) -> None:
        if self.is_lost:
            return
        if self.waiting() == 0 or self._facts().is_dead:
            self._transport.close()
            return
        if self._is_left_to_the_kernel():
            self._has_timed_out = True
            self._transport.close()
            return
        self._linger = self._loop.call_later(pause, self._look_again, min(pause * 2, LONGEST_LOOK))

    @property
    def is_quiet(self) -> bool:
        """Whether the client has all that was sent to it, and has sent nothing since."""
        return not self.waiting() and not (self._socket and has_unread(self._socket))

    def close_idle(self, seconds: float = _POLITE) -> None:
        """Close a connection on which nothing is owed, without a reset for a late request.

        Args:
            seconds: how long the client's own FIN is waited for.
        """
        if self._closing or self._socket is None or self.waiting():
            self.close()
            return
        self._closing = True
        try:
            self._transport.write_eof()
        except (OSError, NotImplementedError):
            self._transport.abort()
            return
        # The client's own FIN ends it sooner, see `eof_received` of the protocol.
        self._linger = self._loop.call_later(seconds, self._transport.close)

    # --- all else is asyncio's ---------------------------------------------------------------

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if self.is_closing():
            return
        if self._corked is None:
            self._transport.write(data)
        elif not self._corked:
            head = bytes(data)
            is_promised = self._is_kept and self.promise and _CLOSE not in head.lower()
            self._corked = head[:-2] + self.promise if is_promised else head
        else:
            head, self._corked = self._corked, None
            self._transport.write(b"".join((head, data)))

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview[Any]]) -> None:
        self.write(b"".join(list_of_data))

    def get_write_buffer_size(self) -> int:
        return self._transport.get_write_buffer_size() + len(self._corked or b"")

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._transport.set_protocol(protocol)


def can_pump(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether this loop's transports leave their socket alone while they have nothing to write.

    asyncio's own do; of others nothing is known.
    """
    return isinstance(loop, asyncio.SelectorEventLoop)
