"""What the kernel knows of one TCP connection, and a close that loses nothing.

A server's last ``send()`` says that the kernel took the bytes, not that the client has them:
megabytes may still wait in the socket. Only acknowledgements count, and they are in ``TCP_INFO``
(tcp(7), ``struct tcp_info`` in ``linux/tcp.h``) and ``SIOCOUTQ`` (tcp(7)).
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import socket
import struct
import termios
from collections.abc import Iterable
from enum import Enum, auto
from typing import Any, Final, NamedTuple

import anyio

EXTENSION: Final = "bootserve.connection"
"""ASGI extension: ``scope["extensions"][EXTENSION]["connection"]`` is the `Connection`."""

_TCP_INFO = struct.Struct("=BxBB 52x I 60x Q")
"""``tcpi_state``, ``tcpi_retransmits``, ``tcpi_probes``, ``tcpi_last_ack_recv`` (milliseconds ago)
and ``tcpi_bytes_acked``."""

_TCP_CLOSE: Final = 7

_FIRST_LOOK = 0.002
_LONGEST_LOOK = 1.0
"""Seconds between two looks at a connection whose last bytes are on their way; no limit to how
many looks there are."""

TAIL_SILENCE = 60.0
TAIL_UNANSWERED = 3
"""When the process is about to leave: seconds without any ACK, and retransmissions or probes that
nobody answered, after which a tail that is wholly in the kernel is left to the kernel, which goes
on sending it. Both are needed: a paused client answers probes, but these may be minutes apart."""


class Delivery(Enum):
    """What became of the last byte of an answer."""

    ACKNOWLEDGED = auto()
    UNCONFIRMED = auto()
    """The kernel was given all of it, and nobody is there to acknowledge the rest: an iPXE under
    UEFI starts its kernel before its last ACKs are out."""
    LOST = auto()
    """The connection ended before the client had everything."""


class _Facts(NamedTuple):
    state: int
    retransmits: int
    probes: int
    last_ack_ms: int
    bytes_acked: int

    @property
    def is_dead(self) -> bool:
        """Whether the kernel has given the connection up (reset, or timed out)."""
        return self.state in (0, _TCP_CLOSE)

    @property
    def is_silent(self) -> bool:
        unanswered = max(self.retransmits, self.probes)
        return unanswered >= TAIL_UNANSWERED and self.last_ack_ms >= TAIL_SILENCE * 1000


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
        self._has_timed_out = False
        self._is_leaving = False

    # --- facts -------------------------------------------------------------------------------

    def acked(self) -> int:
        """Bytes of the whole connection that the client has acknowledged."""
        if self._socket is not None and not self._lost.is_set():
            self._acked = max(self._acked, self._facts().bytes_acked)
        return self._acked

    def waiting(self) -> int:
        """Bytes written that the client has not acknowledged, in our buffer and the kernel's."""
        if self._socket is None or self._lost.is_set():
            return 0
        return self._transport.get_write_buffer_size() + self._out_queue()

    def position(self) -> int:
        """Where in the connection's stream the next byte written will stand, as `acked` counts."""
        while True:
            acked = self.acked()
            waiting = self.waiting()
            # An ACK between the two looks would be missing from both.
            if self.acked() == acked:
                return acked + waiting

    async def delivered(self, position: int) -> Delivery:
        """Wait until the client has acknowledged everything before ``position``.

        Takes as long as the client takes, or the kernel to give it up.
        """
        pause = _FIRST_LOOK
        while self.acked() < position:
            if self._lost.is_set() or self._facts().is_dead:
                return Delivery.UNCONFIRMED if self._timed_out() else Delivery.LOST
            if self._is_left_to_the_kernel():
                return Delivery.UNCONFIRMED
            with anyio.move_on_after(pause):
                await self._lost.wait()
            pause = min(pause * 2, _LONGEST_LOOK)
        return Delivery.ACKNOWLEDGED

    def leave(self) -> None:
        """The process wants to end: from now on the kernel may be trusted with a silent tail."""
        self._is_leaving = True

    def connection_lost(self, error: Exception | None) -> None:
        """Keep the last facts; called while the socket is still open."""
        self.acked()
        self._has_timed_out = isinstance(error, TimeoutError)
        self._lost.set()
        if self._linger is not None:
            self._linger.cancel()

    def _facts(self) -> _Facts:
        if self._socket is not None:
            try:
                info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
                return _Facts(*_TCP_INFO.unpack(info))
            except (OSError, struct.error):
                pass
        return _Facts(0, 0, 0, 0, 0)

    def _timed_out(self) -> bool:
        """Whether the kernel gave a silent client up, after it had taken everything from us."""
        if not self._lost.is_set() and self._socket is not None:
            error = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            self._has_timed_out |= error == errno.ETIMEDOUT
        return self._has_timed_out and not self._transport.get_write_buffer_size()

    def _is_left_to_the_kernel(self) -> bool:
        return (
            self._is_leaving
            and not self._transport.get_write_buffer_size()
            and self._facts().is_silent
        )

    def _out_queue(self) -> int:
        assert self._socket is not None
        try:
            answer = fcntl.ioctl(self._socket.fileno(), termios.TIOCOUTQ, bytes(4))
        except (OSError, ValueError):
            return 0
        return int(struct.unpack("i", answer)[0])

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
        if self.waiting() == 0 or self._facts().is_dead or self._is_left_to_the_kernel():
            self._transport.close()
            return
        self._linger = self._loop.call_later(pause, self._look_again, min(pause * 2, _LONGEST_LOOK))

    async def cut(self) -> None:
        """Reset the connection, and return when it is gone; what is under way is dropped.

        Without SO_LINGER (socket(7)) the kernel would go on to deliver what it has, and the client
        would end with more than we know of.
        """
        if self._socket is not None and not self._lost.is_set():
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.abort()
        await self._lost.wait()

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
