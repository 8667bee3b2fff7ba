"""Two hosts with a line of a given length and speed between them, on one machine.

Each host is a network namespace with a TUN device; a process in the middle carries packets from one
to the other, each after its time. Packets are as large as TCP makes them (TUN_F_TSO4), as with a
network card that cuts them up itself, so that one core carries some 15 Gbit/s.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import select
import struct
import subprocess
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Final, Self

from bench.process import BenchError

if TYPE_CHECKING:
    from types import TracebackType

SERVER: Final = "10.78.0.1"
CLIENT: Final = "10.78.0.2"
DEVICE: Final = "far0"

_CLONE_NEWNET: Final = 0x40000000  # linux/sched.h
_PR_SET_TIMERSLACK: Final = 29  # linux/prctl.h
# linux/if_tun.h
_TUNSETIFF: Final = 0x400454CA
_TUNSETOFFLOAD: Final = 0x400454D0
_IFF_TUN: Final = 0x0001
_IFF_NO_PI: Final = 0x1000
_IFF_VNET_HDR: Final = 0x4000
_TUN_F_CSUM: Final = 0x01
_TUN_F_TSO4: Final = 0x02
_LARGEST: Final = 70_000
_PACKETS_PER_LOOK: Final = 8


class Distance:
    """The two hosts, while the block lasts.

    Args:
        delay: seconds in each direction.
        rate: bytes per second in each direction.
        core: on which packets are carried.
    """

    def __init__(self, delay: float, rate: float, core: int) -> None:
        self._words = [str(delay), str(rate), str(core)]
        self._name = f"bench-{os.getpid()}"
        self._relay: subprocess.Popen[str] | None = None

    @property
    def server(self) -> list[str]:
        """What stands before a command that is to run on the server's host."""
        return ["ip", "netns", "exec", f"{self._name}-s"]

    @property
    def client(self) -> list[str]:
        return ["ip", "netns", "exec", f"{self._name}-c"]

    def __enter__(self) -> Self:
        try:
            for side in "sc":
                _run("ip", "netns", "add", f"{self._name}-{side}")
            self._relay = subprocess.Popen(
                [sys.executable, "-m", __name__, self._name, *self._words],
                stdout=subprocess.PIPE,
                text=True,
            )
            assert self._relay.stdout is not None
            if not self._relay.stdout.readline():
                raise BenchError("no line between two network namespaces is to be had here")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        if self._relay is not None:
            self._relay.kill()
            self._relay.communicate()
        for side in "sc":
            with contextlib.suppress(BenchError):
                _run("ip", "netns", "delete", f"{self._name}-{side}")


def _run(*words: str) -> None:
    try:
        done = subprocess.run(words, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise BenchError(f"the program {words[0]} is missing: install iproute2") from error
    if done.returncode != 0:
        raise BenchError(f"{' '.join(words)}: {done.stderr.strip()}")


def _open_tun(namespace: str, address: str) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        if libc.setns(there, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")
        tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        flags = _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR
        fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH14x", DEVICE.encode(), flags))
        fcntl.ioctl(tun, _TUNSETOFFLOAD, _TUN_F_CSUM | _TUN_F_TSO4)
        _run("ip", "address", "add", f"{address}/24", "dev", DEVICE)
        _run("ip", "link", "set", DEVICE, "txqueuelen", "20000", "up")
        _run("ip", "link", "set", "lo", "up")
    finally:
        libc.setns(home, _CLONE_NEWNET)
        os.close(there)
        os.close(home)
    return tun


class _Direction:
    """What is on its way one way."""

    def __init__(self, to: int, delay: float, rate: float) -> None:
        self._to = to
        self._delay = delay
        self._rate = rate
        self._free_at = 0.0
        self._packets: deque[tuple[float, bytes]] = deque()

    def put(self, packet: bytes, now: float) -> None:
        self._free_at = max(self._free_at, now) + len(packet) / self._rate
        self._packets.append((self._free_at + self._delay, packet))

    def deliver(self, now: float) -> None:
        while self._packets and self._packets[0][0] <= now:
            # A full queue loses packets, as queues do.
            with contextlib.suppress(OSError):
                os.write(self._to, self._packets.popleft()[1])

    def next_in(self, now: float) -> float:
        return max(self._packets[0][0] - now, 0.0) if self._packets else 1.0


def _carry(name: str, delay: float, rate: float) -> None:
    server = _open_tun(f"{name}-s", SERVER)
    client = _open_tun(f"{name}-c", CLIENT)
    ways = {server: _Direction(client, delay, rate), client: _Direction(server, delay, rate)}
    # The default would add 50 us to each delay (prctl(2)).
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    print("up", flush=True)
    while True:
        now = time.monotonic()
        for way in ways.values():
            way.deliver(now)
        now = time.monotonic()
        # Not epoll, whose timeouts are whole milliseconds.
        ready, _, _ = select.select([*ways], [], [], min(w.next_in(now) for w in ways.values()))
        now = time.monotonic()
        for tun in ready:
            with contextlib.suppress(BlockingIOError):
                for _ in range(_PACKETS_PER_LOOK):
                    ways[tun].put(os.read(tun, _LARGEST), now)


if __name__ == "__main__":
    os.sched_setaffinity(0, {int(sys.argv[4])})
    _carry(sys.argv[1], float(sys.argv[2]), float(sys.argv[3]))
