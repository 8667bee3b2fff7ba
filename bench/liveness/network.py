"""Hosts on one machine: a server, clients, a bridge between them, and what can befall their cables.

Every host is a network namespace of its own, so that each client has a fate of its own.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import re
import subprocess
import threading
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from bench.peers import program
from bench.process import BenchError

if TYPE_CHECKING:
    from types import TracebackType

SERVER: Final = "10.78.0.1"
CONGESTION: Final = "reno"
"""The server's congestion control: any namespace may choose it."""
_CONGESTION_SETTING: Final = "/proc/sys/net/ipv4/tcp_congestion_control"
SHRINKING: Final = "/proc/sys/net/ipv4/tcp_shrink_window"
_MOST_CLIENTS: Final = 250
_CLONE_NEWNET: Final = 0x40000000  # linux/sched.h

_TABLE: Final = """\
add table ip trouble
delete table ip trouble
add table ip trouble
add chain ip trouble in {{ type filter hook input priority 0; }}
add chain ip trouble out {{ type filter hook output priority 0; }}
add rule ip trouble in {rule}
add rule ip trouble out {rule}
"""


class NetworkUnavailable(BenchError):
    """Namespaces, or what is needed in them, cannot be had here."""


class Client:
    """A client's host. Made by `Network.client`."""

    def __init__(self, network: Network, number: int, rate: str) -> None:
        self.namespace = f"{network.name}-{number}"
        self.address = f"10.78.0.{number + 1}"
        self._network = network
        self._port = f"p{number}"
        self._nft = program("nft", "nftables")
        run(network.ip, "netns", "add", self.namespace)
        try:
            self._connect(rate)
        except BaseException:
            self.remove()
            raise

    def _connect(self, rate: str) -> None:
        server, inside = self._network.namespace, ("-n", self.namespace)
        ip = self._network.ip
        peer = ("peer", "name", "eth0", "netns", self.namespace)
        run(ip, "-n", server, "link", "add", self._port, "type", "veth", *peer)
        run(ip, *inside, "address", "add", f"{self.address}/24", "dev", "eth0")
        run(ip, *inside, "link", "set", "lo", "up")
        run(ip, *inside, "link", "set", "eth0", "up")
        run(ip, "-n", server, "link", "set", self._port, "master", "br0", "up")
        if rate:
            tc = program("tc", "iproute2")
            bucket = ("tbf", "rate", rate, "burst", "64kb", "latency", "400ms")
            run(tc, "-n", server, "qdisc", "add", "dev", self._port, "root", *bucket)

    def remove(self) -> None:
        subprocess.run([self._network.ip, "netns", "delete", self.namespace], capture_output=True)

    def command(self, *words: str) -> list[str]:
        """The words of a command that runs on this host."""
        return [self._network.ip, "netns", "exec", self.namespace, *words]

    def cut(self) -> None:
        """Drop every IP packet from and to this host; ARP still answers, as a router's would."""
        self._rules(_TABLE.format(rule="drop"))

    def drop_data(self) -> None:
        """Drop what is larger than an ACK on its way in, and let this host shrink its windows."""
        # An option of Linux 6.5, for each namespace.
        run(*self.command("sh", "-c", f"echo 1 >{SHRINKING}"))
        self._rules(_TABLE.format(rule="meta length > 500 drop"))

    def lose(self, percent: int) -> None:
        """Drop every packet with this chance, once on its way in and once on its way out."""
        self._rules(_TABLE.format(rule=f"numgen random mod 100 < {percent} counter drop"))

    def lost(self) -> int:
        """How many packets `lose` has dropped so far, as nft counts them."""
        text = run(*self.command(self._nft, "list", "table", "ip", "trouble"))
        return sum(int(count) for count in re.findall(r"packets (\d+)", text))

    def mend(self) -> None:
        """End what `cut`, `drop_data` or `lose` began."""
        self._rules("delete table ip trouble")

    def unplug(self) -> None:
        """Pull the plug: the server's ARP requests, too, remain unanswered before long."""
        run(self._network.ip, "-n", self._network.namespace, "link", "set", self._port, "down")

    def plug(self) -> None:
        run(self._network.ip, "-n", self._network.namespace, "link", "set", self._port, "up")

    def _rules(self, text: str) -> None:
        run(*self.command(self._nft, "-f", "-"), text=text)


class Network:
    """The server's host and the bridge, as a context manager; all hosts end with it.

    Raises:
        NetworkUnavailable: without root, or where the kernel has none of it.
    """

    def __init__(self) -> None:
        if os.geteuid() != 0:
            raise NetworkUnavailable("network namespaces need root")
        self.ip = program("ip", "iproute2")
        self.name = f"liveness-{uuid.uuid4().hex[:8]}"
        self.namespace = f"{self.name}-s"
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            inside = ("-n", self.namespace)
            try:
                run(self.ip, "netns", "add", self.namespace)
                stack.callback(
                    subprocess.run,
                    [self.ip, "netns", "delete", self.namespace],
                    capture_output=True,
                )
                run(self.ip, *inside, "link", "set", "lo", "up")
                run(self.ip, *inside, "link", "add", "br0", "type", "bridge")
                run(self.ip, *inside, "address", "add", f"{SERVER}/24", "dev", "br0")
                # Or the kernel would hand on, and lose, tens of segments as one packet.
                run(self.ip, *inside, "link", "set", "br0", "up", "gso_max_segs", "1")
                # Whatever the host has chosen for itself, its BBR, say, which paces by timers.
                run(*self.command("sh", "-c", f"echo {CONGESTION} >{_CONGESTION_SETTING}"))
            except BenchError as error:
                raise NetworkUnavailable(f"no network namespace here: {error}") from error
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def client(self, rate: str = "") -> Client:
        """A new host. ``rate`` (as tc has it: 8mbit) limits what reaches it."""
        with self._lock:
            number = next(self._numbers)
            if number > _MOST_CLIENTS:
                raise BenchError(f"a network has {_MOST_CLIENTS} clients at most")
            client = Client(self, number, rate)
            self._stack.callback(client.remove)
            return client

    def command(self, *words: str) -> list[str]:
        """The words of a command that runs on the server's host."""
        return [self.ip, "netns", "exec", self.namespace, *words]

    def enter(self) -> None:
        """Move the calling thread, and what it starts, to the server's host."""
        libc = ctypes.CDLL(None, use_errno=True)
        with Path(f"/run/netns/{self.namespace}").open("rb") as namespace:
            if libc.setns(namespace.fileno(), _CLONE_NEWNET) != 0:
                error = ctypes.get_errno()
                raise OSError(error, os.strerror(error), self.namespace)


def run(*command: str, text: str | None = None) -> str:
    """Run a command; its output.

    Raises:
        BenchError: it failed; with what it said.
    """
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    if done.returncode:
        raise BenchError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
