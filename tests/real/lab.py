"""A network of its own: a namespace with a bridge, a DHCP server, bootserve and machines.

Nothing in it touches the host's network, so the tests may use the well-known
ports and run beside each other; and nothing of it stays when the block ends.
"""

from __future__ import annotations

import itertools
import os
import subprocess
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

from . import needs, server
from .process import Process
from .vm import Card, Firmware, Vm

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

SERVER = "10.77.0.1"
SERVER_IPV6 = "fd77::1"

# The lab's own half of the DHCP configuration: who listens where, and which
# addresses. What makes a machine boot is printed by `bootserve dhcp-config`.
DNSMASQ_CONF = """\
port=0
interface=br0
bind-interfaces
dhcp-authoritative
dhcp-range=10.77.0.0,static,255.255.255.0,1h
# One address per machine, whichever of its firmware stages asks.
dhcp-ignore-clid
# iPXE waits for a router advertisement on every stage if none comes.
enable-ra
dhcp-range=fd77::,ra-only
dhcp-leasefile={leases}
log-dhcp
"""

# More than a test ever starts; each has an address known beforehand, by which
# its lines in bootserve's log are found.
CARDS = tuple(
    Card(f"52:54:00:77:00:{n:02x}", f"10.77.0.{100 + n}", f"tap{n}") for n in range(1, 33)
)

TFTP_CARD = CARDS[-1]
"""For a machine that is to get everything by TFTP."""

_numbers = itertools.count(1)


class Lab:
    """The network and everything in it, as a context manager."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.namespace = f"bootserve-{os.getpid()}-{next(_numbers)}"
        self._ip = ""
        self._cards = iter(CARDS[:-1])
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        needs.root()
        self._ip = needs.program("ip", "iproute2")
        with ExitStack() as stack:
            self._run(self._ip, "netns", "add", self.namespace)
            stack.callback(self._run, self._ip, "netns", "delete", self.namespace)
            self._link("set", "lo", "up")
            self._link("add", "br0", "type", "bridge")
            self._inside("addr", "add", f"{SERVER}/24", "dev", "br0")
            # Without duplicate address detection: the address is usable at once.
            self._inside("addr", "add", f"{SERVER_IPV6}/64", "dev", "br0", "nodad")
            self._link("set", "br0", "up")
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def bootserve(self, config: Path) -> Process:
        """Start bootserve in the lab; it ends with the lab."""
        return self._stack.enter_context(server.start(config, prefix=self._prefix()))

    def dhcp(self, lines: str) -> Process:
        """Start dnsmasq with the lines a user would paste into its configuration."""
        program = needs.program("dnsmasq", "dnsmasq-base")
        config = self.directory / "dnsmasq.conf"
        own = DNSMASQ_CONF.format(leases=self.directory / "dnsmasq.leases")
        hosts = "".join(f"dhcp-host={card.mac},{card.address}\n" for card in CARDS)
        config.write_text(f"{own}{hosts}{lines}\n")
        options = ("--keep-in-foreground", "--user=root", "--log-facility=-", "--pid-file=")
        command = [*self._prefix(), program, *options, f"--conf-file={config}"]
        dnsmasq = self._stack.enter_context(Process("dnsmasq", command, self.directory))
        dnsmasq.watched = dnsmasq.err
        dnsmasq.wait_for("DHCP, (IP range|static leases)", 10)
        return dnsmasq

    def machine(
        self, name: str, firmware: Firmware, rate: str = "", card: Card | None = None
    ) -> Vm:
        """Switch on a machine; `rate` (as tc has it: 20mbit) limits what reaches it.

        The next free card is put into it, or the one given. The caller ends it, by `with`,
        before the lab ends.
        """
        card = card or next(self._cards)
        self._plug_in(card, rate)
        return Vm(name, firmware, card, self.directory, self._prefix())

    def received(self, vm: Vm) -> int:
        """How many bytes went to the machine, as its tap counts them."""
        counter = f"/sys/class/net/{vm.card.tap}/statistics/tx_bytes"
        return int(self._run(*self._prefix(), "cat", counter))

    def _plug_in(self, card: Card, rate: str) -> None:
        self._inside("tuntap", "add", card.tap, "mode", "tap")
        self._link("set", card.tap, "master", "br0", "up")
        if rate:
            tc = needs.program("tc", "iproute2")
            bucket = ("tbf", "rate", rate, "burst", "64kb", "latency", "400ms")
            self._run(*self._prefix(), tc, *("qdisc", "add", "dev", card.tap, "root"), *bucket)

    def _prefix(self) -> list[str]:
        return [self._ip, "netns", "exec", self.namespace]

    def _inside(self, *arguments: str) -> str:
        return self._run(self._ip, "-n", self.namespace, *arguments)

    def _link(self, *arguments: str) -> str:
        return self._inside("link", *arguments)

    def _run(self, *command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout
