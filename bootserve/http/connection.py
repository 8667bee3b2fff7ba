"""What the kernel knows of one TCP connection, and a close that loses nothing.

A server's last ``send()`` says that the kernel took the bytes, not that the client has them:
megabytes may still wait in the socket. Only acknowledgements count, and they are in ``TCP_INFO``
(tcp(7), ``struct tcp_info`` in ``linux/tcp.h``) and ``SIOCOUTQ`` (tcp(7)).
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
from collections.abc import Iterable
from typing import Any, Final

import anyio

_BYTES_ACKED_OFFSET: Final = 120
_TCP_INFO_LENGTH: Final = 128
_TCP_CLOSE: Final = 7

_FIRST_LOOK = 0.002
_LONGEST_LOOK = 1.0
"""Seconds between two looks at a connection whose last bytes are on their way; no limit to how
many looks there are."""


class Connection(asyncio.Transport):
    """A connection of the HTTP door: asyncio's transport, with the kernel's facts and a kind close.

    `close` sends all that was written, then FIN, and closes the socket only when the client has
    acknowledged everything. A socket that is closed earlier is an orphan: the kernel gives its
    tail less patience, and drops it if the client sends anything more (RFC 9112, section 9.6).
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        sock = transport.get_extra_info("socket")
        self._socket: socket.socket | None = sock if _is_tcp(sock) else None
        self._closing = False
        self._linger: asyncio.TimerHandle | None = None
        self._acked = 0
        self._lost = asyncio.Event()

    # --- facts -------------------------------------------------------------------------------

    def acked(self) -> int:
        """Bytes of the whole connection that the client has acknowledged."""
        if self._socket is not None and not self._lost.is_set():
            count: int = struct.unpack_from("Q", self._tcp_info(), _BYTES_ACKED_OFFSET)[0]
            self._acked = max(self._acked, count)
        return self._acked

    def waiting(self) -> int:
        """Bytes written that the client has not acknowledged, in our buffer and the kernel's."""
        if self._socket is None or self._lost.is_set():
            return 0
        return self._transport.get_write_buffer_size() + self._out_queue()

    def position(self) -> int:
        """Where in the connection's stream the next byte written will stand, as `acked` counts."""
        return self.acked() + self.waiting()

    async def delivered(self, position: int) -> bool:
        """Wait until the client has acknowledged everything before ``position``.

        Takes as long as the client takes. Returns whether it did; if not, the connection is lost.
        """
        pause = _FIRST_LOOK
        while self.acked() < position:
            if self._lost.is_set() or self._is_dead():
                return False
            with anyio.move_on_after(pause):
                await self._lost.wait()
            pause = min(pause * 2, _LONGEST_LOOK)
        return True

    def connection_lost(self) -> None:
        """Keep the last facts; called while the socket is still open."""
        self.acked()
        self._lost.set()
        if self._linger is not None:
            self._linger.cancel()

    def _tcp_info(self) -> bytes:
        assert self._socket is not None
        try:
            return self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_LENGTH)
        except OSError:
            return bytes(_TCP_INFO_LENGTH)

    def _out_queue(self) -> int:
        assert self._socket is not None
        try:
            answer = fcntl.ioctl(self._socket.fileno(), termios.TIOCOUTQ, bytes(4))
        except (OSError, ValueError):
            return 0
        return int(struct.unpack("i", answer)[0])

    def _is_dead(self) -> bool:
        """Whether the kernel has given the connection up (reset, or timed out)."""
        return self._socket is None or self._tcp_info()[0] in (0, _TCP_CLOSE)

    # --- closing -----------------------------------------------------------------------------

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        if self.waiting() == 0:
            self._transport.close()
            return
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._look_again(_FIRST_LOOK)

    def _look_again(self, pause: float) -> None:
        if self._lost.is_set():
            return
        if self.waiting() == 0 or self._is_dead():
            self._transport.close()
            return
        self._linger = self._loop.call_later(pause, self._look_again, min(pause * 2, _LONGEST_LOOK))

    def abort(self) -> None:
        self._closing = True
        self._transport.abort()

    def is_closing(self) -> bool:
        return self._closing or self._transport.is_closing()

    # --- all else is asyncio's ---------------------------------------------------------------

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if not self.is_closing():
            self._transport.write(data)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview[Any]]) -> None:
        if not self.is_closing():
            self._transport.writelines(list_of_data)

    def get_write_buffer_size(self) -> int:
        return self._transport.get_write_buffer_size()

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._transport.set_protocol(protocol)


def _is_tcp(sock: Any) -> bool:
    return sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6)
