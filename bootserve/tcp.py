"""What Linux knows of one TCP connection: ``TCP_INFO`` and ``SIOCOUTQ`` (tcp(7)).

The layout is that of ``struct tcp_info`` in ``linux/tcp.h``, which only ever grows at its end.
"""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
import termios
from typing import Final, NamedTuple

TCP_RTO_MAX_MS: Final = 44
"""Linux 6.15: the longest interval between retransmissions and between window probes, in
milliseconds, 1000 to 120000. Python 3.11 has no name for it."""

KERNEL_RTO_MAX_MS: Final = 120_000
"""What the kernel does without `TCP_RTO_MAX_MS` (``TCP_RTO_MAX`` in ``net/tcp.h``)."""

_USER_TIMEOUT_MS: Final = 10 * 24 * 3600 * 1000

_CLOSE: Final = 7

_INFO = struct.Struct("=BxBB 48x II 40x I 16x Q")


class TcpFacts(NamedTuple):
    """One look at a connection."""

    state: int
    """``tcpi_state``; 0 if the socket could not be asked."""
    retransmits: int
    """Timeouts in a row without an ACK that acknowledged something."""
    probes: int
    """Window and keepalive probes without any ACK since."""
    last_data_ms: int
    """Milliseconds since data came."""
    last_ack_ms: int
    """Milliseconds since an ACK came; whether it acknowledged anything does not matter."""
    total_retrans: int
    """Segments sent again in the connection's life."""
    bytes_acked: int

    @property
    def is_dead(self) -> bool:
        """Whether the kernel has given the connection up (reset, or timed out)."""
        return self.state in (0, _CLOSE)


NOTHING_KNOWN: Final = TcpFacts(0, 0, 0, 0, 0, 0, 0)


def facts_of_connection(sock: socket.socket) -> TcpFacts:
    """Return what the kernel knows now; `NOTHING_KNOWN` of a socket that is closed."""
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.size)
        return TcpFacts._make(_INFO.unpack(info))
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
    * ``TCP_USER_TIMEOUT`` keeps the kernel from giving up by its own count. It is itself a timer of
      progress: a peer whose window stays closed so long is reset though it answers every probe. So
      it is ten days, and is to be taken away (`leave_to_kernel`) from a peer that pauses for one.

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


def _set_rto_max(sock: socket.socket, milliseconds: int) -> bool:
    try:
        sock.setsockopt(socket.IPPROTO_TCP, TCP_RTO_MAX_MS, milliseconds)
    except OSError as error:
        if error.errno in (errno.ENOPROTOOPT, errno.EINVAL):
            return False
        raise
    return True
