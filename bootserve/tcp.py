"""What Linux knows of one TCP connection: ``TCP_INFO`` and ``SIOCOUTQ`` (tcp(7)).

The layout is that of ``struct tcp_info`` in ``linux/tcp.h``, which only ever grows at its end.
"""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
import termios
from pathlib import Path
from typing import Final, NamedTuple

TCP_RTO_MAX_MS: Final = 44
"""Linux 6.15: the longest interval between retransmissions and between window probes, in
milliseconds, 1000 to 120000. Python 3.11 has no name for it."""

KERNEL_RTO_MAX_MS: Final = 120_000
"""What the kernel does without `TCP_RTO_MAX_MS` (``TCP_RTO_MAX`` in ``net/tcp.h``)."""

_USER_TIMEOUT_MS: Final = 10 * 24 * 3600 * 1000

_RETRIES: Final = Path("/proc/sys/net/ipv4/tcp_retries2")

_CLOSE: Final = 7

_INFO = struct.Struct("=BxBB 20x I 24x II 40x I 16x Q")
_WINDOW = struct.Struct("=I")
_WINDOW_AT: Final = 228
"""Where ``tcpi_snd_wnd`` stands (Linux 5.4)."""


class TcpFacts(NamedTuple):
    """One look at a connection."""

    state: int
    """``tcpi_state``; 0 if the socket could not be asked."""
    retransmits: int
    """Timeouts in a row without an ACK that acknowledged something."""
    probes: int
    """Window and keepalive probes without any ACK since."""
    unacked: int
    """Segments in flight."""
    last_data_ms: int
    """Milliseconds since data came."""
    last_ack_ms: int
    """Milliseconds since an ACK came; whether it acknowledged anything does not matter."""
    total_retrans: int
    """Segments sent again in the connection's life."""
    bytes_acked: int
    window: int
    """Bytes that the peer has room for, as it last said; -1 where the kernel does not tell."""

    @property
    def took_window_back(self) -> bool:
        """Whether the peer has no room for what it had asked for, and what is in flight (RFC 9293,
        section 3.8.6: it should not, and we are to live with it)."""
        return self.window == 0 and self.unacked > 0

    @property
    def is_dead(self) -> bool:
        """Whether the kernel has given the connection up (reset, or timed out)."""
        return self.state in (0, _CLOSE)


NOTHING_KNOWN: Final = TcpFacts(0, 0, 0, 0, 0, 0, 0, 0, -1)


def facts_of_connection(sock: socket.socket) -> TcpFacts:
    """Return what the kernel knows now; `NOTHING_KNOWN` of a socket that is closed."""
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _WINDOW_AT + _WINDOW.size)
        window = -1
        if len(info) >= _WINDOW_AT + _WINDOW.size:
            (window,) = _WINDOW.unpack_from(info, _WINDOW_AT)
        return TcpFacts._make((*_INFO.unpack_from(info), window))
    except (OSError, struct.error):
        return NOTHING_KNOWN


def bytes_waiting(sock: socket.socket) -> int:
    """Return how many bytes the kernel has taken that are not acknowledged, a FIN among them."""
    try:
        answer = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
    except (OSError, ValueError):
        return 0
    return int(struct.unpack("i", answer)[0])


def watch_over(sock: socket.socket, probe_interval: float) -> bool:
    """Leave the verdict on a silent peer to us, and have the kernel ask often enough for it.

    Two options that only go together, on a listening socket or a connection:

    * ``TCP_RTO_MAX_MS`` bounds the interval between retransmissions and between window probes.
      With it alone the kernel gives live peers up at 20 to 30 % loss, since it counts less time.
      And a peer that `took_window_back` is reset after a silence of twice the interval, whatever
      the user timeout (``tcp_rtx_probe0_timed_out()`` in ``net/ipv4/tcp_timer.c``). And a closed
      window is probed 15 times (``net.ipv4.tcp_retries2``) without an answer, and no more.
    * ``TCP_USER_TIMEOUT`` keeps the kernel from giving up by its own count. It is itself a timer of
      progress: a peer whose window stays closed so long is reset though it answers every probe. So
      it is ten days.

    So a peer that pauses for a day, has taken its window back, or has left enough probes without an
    answer is to be left to the kernel.

    Args:
        probe_interval: seconds, 1 to 120.

    Returns:
        Whether the kernel bounds the interval (Linux 6.15).

    Raises:
        OSError: the socket is none of TCP, or closed.
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)
    return _set_rto_max(sock, round(probe_interval * 1000))


def leave_to_kernel(sock: socket.socket) -> None:
    """Undo `watch_over`: the kernel decides by itself when it has tried often enough.

    A socket that is closed with bytes in it needs this: the kernel's patience with orphans goes by
    the longest interval, and would be seconds.

    Raises:
        OSError: the socket is none of TCP, or closed.
    """
    _set_rto_max(sock, KERNEL_RTO_MAX_MS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 0)


def has_unread(sock: socket.socket) -> bool:
    """Whether data have come that nobody has read (FIONREAD, tcp(7))."""
    try:
        return fcntl.ioctl(sock.fileno(), termios.FIONREAD, bytes(4)) != bytes(4)
    except (OSError, ValueError):
        return False


def probe_retries() -> int:
    """How many window probes without an answer the kernel makes (``net.ipv4.tcp_retries2``)."""
    try:
        return int(_RETRIES.read_text())
    except (OSError, ValueError):
        return 15


def _set_rto_max(sock: socket.socket, milliseconds: int) -> bool:
    try:
        sock.setsockopt(socket.IPPROTO_TCP, TCP_RTO_MAX_MS, milliseconds)
    except OSError as error:
        if error.errno in (errno.ENOPROTOOPT, errno.EINVAL):
            return False
        raise
    return True
