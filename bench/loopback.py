"""A loopback of the benchmark's own: a network namespace, which ends with this process.

The host's TCP settings are for its own purposes. On one with BBR, say, whose pacing means nothing
on a loopback, thousands of timers would keep the clients' core busy.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import socket
import struct
from pathlib import Path
from typing import Final

CONGESTION: Final = "reno"
"""Any namespace may choose it; where nothing is lost it does as Linux's default, cubic, does."""

_CLONE_NEWNET: Final = 0x40000000  # linux/sched.h
_SIOCSIFFLAGS: Final = 0x8914  # linux/sockios.h
_SIOCSIFMTU: Final = 0x8922
_IFF_UP: Final = 1  # linux/if.h
_SETTING: Final = Path("/proc/sys/net/ipv4/tcp_congestion_control")


def isolate(mtu: int | None = None) -> bool:
    """Move this process, and what it starts from now on, there; whether that is permitted.

    Args:
        mtu: bytes that a packet may have; a loopback's own are 65536.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET) != 0:
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        if mtu is not None:
            fcntl.ioctl(any_socket, _SIOCSIFMTU, struct.pack("16si12x", b"lo", mtu))
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))
    with contextlib.suppress(OSError):
        _SETTING.write_text(f"{CONGESTION}\n")
    return True


def congestion_control() -> str:
    """What new connections use."""
    return _SETTING.read_text().strip()
