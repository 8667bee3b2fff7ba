"""The socket factory: what every connection of the HTTP door has set on its socket.

Linux hands the options of a listening socket on to the sockets it accepts (tcp(7)), so that they
hold from the first segment; `missing_options` reads them back all the same.
"""

from __future__ import annotations

import socket
from typing import Protocol

from bootserve.watch.liveness import Limits

KEEPALIVE_IDLE = 60
KEEPALIVE_INTERVAL = 15
KEEPALIVE_COUNT = 8
"""Seconds of silence before a probe, seconds between probes, and unanswered probes until the
kernel calls an idle peer dead. Probes run only while nothing is unacknowledged (tcp(7)), so they
cannot act on a transfer that waits for its reader."""

Option = tuple[str, int, int, int]
"""A socket option: its name, level, number and value."""

_OPTIONS: tuple[Option, ...] = (
    ("SO_KEEPALIVE", socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    ("TCP_KEEPIDLE", socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE),
    ("TCP_KEEPINTVL", socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL),
    ("TCP_KEEPCNT", socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_COUNT),
    ("TCP_NODELAY", socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
)


def open_listener(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    """Return a listening socket with our options on it.

    Raises:
        OSError: the address or port is not to be had.
    """
    # asyncio sets TCP_NODELAY only on sockets whose protocol is IPPROTO_TCP, not 0.
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((host, port))
        # Two sockets with SO_REUSEADDR may bind one port; it is taken only when one listens.
        prepare(listener)
    except OSError:
        listener.close()
        raise
    return listener


def prepare(listener: socket.socket) -> None:
    """Listen with our options, also on a bound socket that somebody else has opened.

    Raises:
        OSError: the address has been taken meanwhile, or this is no TCP socket.
    """
    listener.setblocking(False)
    for _, level, option, value in _OPTIONS:
        listener.setsockopt(level, option, value)
    listener.listen(socket.SOMAXCONN)


def keep_probing(listener: socket.socket, limits: Limits) -> tuple[Option, ...]:
    """Have idle connections probed often enough for a verdict; return what is set on each.

    Raises:
        OSError: the socket is no TCP socket, or closed.
    """
    # A quarter of the limit is waited, and then there is time for all the probes that it takes.
    idle = min(max(int(limits.silence / 4), 1), KEEPALIVE_IDLE)
    interval = min(max(int(limits.silence / 10), 1), KEEPALIVE_INTERVAL)
    values = {"TCP_KEEPIDLE": idle, "TCP_KEEPINTVL": interval}
    options = tuple((name, a, b, values.get(name, value)) for name, a, b, value in _OPTIONS)
    for _, level, option, value in options:
        listener.setsockopt(level, option, value)
    return options


class _HasOptions(Protocol):
    def getsockopt(self, level: int, option: int, /) -> int: ...


def missing_options(sock: _HasOptions, options: tuple[Option, ...] | None = None) -> list[str]:
    """Return the names of the options that do not hold on an accepted socket.

    Args:
        options: those that should; default are those of `open_listener`.

    Raises:
        OSError: the socket is no TCP socket, or closed.
    """
    return [
        name
        for name, level, option, value in options or _OPTIONS
        if sock.getsockopt(level, option) != value
    ]
