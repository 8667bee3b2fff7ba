"""A lane on a socket: SO_MAX_PACING_RATE and SO_SNDBUF (socket(7)).

How much is on its way is bounded by two things together, because Linux alone does not keep to
SO_SNDBUF (measured on 6.18, 100 ms of delay): it looks at the bound when a new buffer begins, and
fills up what has begun, up to 64 KiB. So

* the bound is set to the window (half of it is asked for: the kernel doubles what it is asked), and
* whoever sends waits until the socket has room, which it has while at most two thirds of the bound
  are taken (``sk_stream_is_writeable``), and then sends no more than the last third.

An answer that is copied instead (small files, file systems that cannot be asked what is in memory)
goes through asyncio, which writes without waiting: it may exceed the window by those 64 KiB.
"""

from __future__ import annotations

import logging
import math
import socket
import struct
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Final

from bootserve.catalog.lanes import UNLIMITED, Lane
from bootserve.sections import DEFAULT_WINDOW

logger = logging.getLogger("bootserve.http")

SO_MAX_PACING_RATE: Final = 47
SO_BUF_LOCK: Final = 72
SO_SNDBUFFORCE: Final = 32
_SNDBUF_LOCK: Final = 1
"""asm-generic/socket.h, and SOCK_SNDBUF_LOCK of linux/socket.h."""

_RATE: Final = struct.Struct("@L")
_UNLIMITED: Final = 2 ** (8 * _RATE.size) - 1

_WMEM_MAX: Final = Path("/proc/sys/net/core/wmem_max")
_TCP_WMEM: Final = Path("/proc/sys/net/ipv4/tcp_wmem")

_told: set[str] = set()


@lru_cache(maxsize=256)
def needed(lane: Lane) -> Lane:
    """Return what of a lane the kernel does not do by itself.

    It never has more on its way than the largest of ``net.ipv4.tcp_wmem`` (tcp(7)), 4 MiB unless
    somebody has raised it, and it costs less to leave that to it.
    """
    if lane.window is None or lane.window < _own_bound():
        return lane
    return replace(lane, window=None) if lane.pace is not None else UNLIMITED


def _own_bound() -> float:
    try:
        return int(_TCP_WMEM.read_text().split()[2])
    except (OSError, ValueError, IndexError):
        return math.inf


def burst(lane: Lane, most: int) -> int:
    """Return how many bytes may be sent, ``most`` at most, when the socket has room."""
    return most if lane.window is None else min(most, lane.window // 3)


def apply(sock: socket.socket, lane: Lane, before: Lane) -> None:
    """Hold a connection to a lane. A kernel that cannot do it is no reason to serve nothing.

    Args:
        before: the lane that it is held to now. What is the same in both costs no system call.
    """
    if lane.pace != before.pace:
        try:
            _pace(sock, lane.pace)
        except OSError as error:
            _tell_once("pace", "the kernel cannot pace connections: %s", error.strerror)
    if lane.window != before.window:
        try:
            _window(sock, lane.window)
        except OSError as error:
            _tell_once("window", "the kernel cannot bound windows: %s", error.strerror)


def _pace(sock: socket.socket, pace: int | None) -> None:
    rate = _UNLIMITED if pace is None else min(pace, _UNLIMITED)
    # Works with every queueing discipline: TCP keeps the time itself where `fq` does not.
    sock.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, _RATE.pack(rate))


def _window(sock: socket.socket, window: int | None) -> None:
    if window is None:
        _give_back(sock)
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, window // 2)
    if _bound(sock) >= window // 2 * 2:
        return
    try:
        # Beyond net.core.wmem_max with CAP_NET_ADMIN alone.
        sock.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, window // 2)
    except PermissionError:
        permitted = _bound(sock)
        # That window is there to bound, and not to be kind: none is better than a tenth of it.
        is_dropped = window == DEFAULT_WINDOW
        if is_dropped:
            _give_back(sock)
        _tell_once(
            f"window {window}",
            "a window of %d bytes is set, and the kernel permits %d at most; %s;"
            " `sysctl -w net.core.wmem_max=%d` as root permits it",
            window,
            permitted,
            "it is left to the kernel" if is_dropped else f"it is {permitted} bytes now",
            window // 2,
        )


def _give_back(sock: socket.socket) -> None:
    """Let the kernel choose again, as it does for a connection on which nothing was set."""
    try:
        kept = sock.getsockopt(socket.SOL_SOCKET, SO_BUF_LOCK) & ~_SNDBUF_LOCK
        sock.setsockopt(socket.SOL_SOCKET, SO_BUF_LOCK, kept)
    except OSError:
        # Before Linux 5.15 it never chooses again: the largest that is permitted has to do.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _largest())


def _largest() -> int:
    try:
        return int(_WMEM_MAX.read_text())
    except (OSError, ValueError):
        return 1 << 20


def _bound(sock: socket.socket) -> int:
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)


def _tell_once(what: str, message: str, *args: object) -> None:
    if what not in _told:
        _told.add(what)
        logger.warning(message, *args)
