"""A DHCP server's network of its own, and a relay agent in it that asks for clients.

The relay agent makes both ends plain unicast UDP: a server answers to giaddr, port 67 (RFC 2131
section 4.1), so no raw socket is needed to read its OFFER.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
import threading
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn, Self

import pytest
from scapy.layers.dhcp import BOOTP, DHCP, DHCPRevOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from scapy.packet import Packet

NETWORK: Final = "10.77.0.0"
SERVER: Final = "10.77.0.1"
RELAY: Final = "10.77.0.2"
SERVER_LINK: Final = "server0"

DHCP_SERVER_PORT: Final = 67
CLONE_NEWNET: Final = 0x40000000  # linux/sched.h
ANSWER_DEADLINE: Final = 20.0
ANSWER_PATIENCE: Final = 0.1


def unavailable(reason: str) -> NoReturn:
    """Skip the test, or fail it where skipping is not permitted."""
    if os.environ.get("BOOTSERVE_NO_SKIP") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def program(name: str, package: str) -> str:
    """Path of an installed program."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if path is None:
        unavailable(f"{name} is missing: apt-get install {package}")
    return path


@dataclass(frozen=True)
class Offer:
    """What scapy reads in an OFFER."""

    next_server: str
    file_field: bytes
    options: Mapping[int, bytes]

    @property
    def boot_file(self) -> bytes:
        """The boot file as a client sees it: option 67 before the field (RFC 2132 section 9.5)."""
        return self.text(67) or self.file_field

    def text(self, code: int) -> bytes:
        """A text option, which may or may not end in a NUL (RFC 2132 section 2)."""
        return self.options.get(code, b"").removesuffix(b"\0")


class Network:
    """Two namespaces with a cable between them: one for the server, one for the relay agent."""

    def __init__(self) -> None:
        if os.geteuid() != 0:
            unavailable("making a network namespace needs root: run the tests as root")
        self._ip = program("ip", "iproute2")
        name = f"bootserve-{uuid.uuid4().hex[:12]}"
        self.server_namespace = f"{name}-s"
        self.relay_namespace = f"{name}-r"

    def __enter__(self) -> Self:
        try:
            self._build()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._remove()

    def command(self, *words: str) -> list[str]:
        """The words of a command that runs beside the server."""
        return [self._ip, "netns", "exec", self.server_namespace, *words]

    def relay_socket(self) -> socket.socket:
        """A UDP socket on the relay agent's address."""
        made: list[socket.socket] = []
        errors: list[OSError] = []

        def make() -> None:
            try:
                _enter_namespace(self.relay_namespace)
                endpoint = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                made.append(endpoint)
                endpoint.bind((RELAY, DHCP_SERVER_PORT))
            except OSError as error:
                errors.append(error)

        # A namespace belongs to a thread; this one takes it along when it ends.
        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        if errors:
            for endpoint in made:
                endpoint.close()
            raise errors[0]
        return made[0]

    def _build(self) -> None:
        server, relay = self.server_namespace, self.relay_namespace
        self._run("netns", "add", server)
        self._run("netns", "add", relay)
        self._run(
            *("-n", server, "link", "add", SERVER_LINK, "type", "veth"),
            *("peer", "name", "relay0", "netns", relay),
        )
        for namespace, link, address in (
            (server, SERVER_LINK, SERVER),
            (relay, "relay0", RELAY),
        ):
            self._run("-n", namespace, "address", "add", f"{address}/24", "dev", link)
            self._run("-n", namespace, "link", "set", "lo", "up")
            self._run("-n", namespace, "link", "set", link, "up")

    def _remove(self) -> None:
        for namespace in (self.server_namespace, self.relay_namespace):
            subprocess.run([self._ip, "netns", "delete", namespace], capture_output=True)

    def _run(self, *words: str) -> None:
        done = subprocess.run([self._ip, *words], capture_output=True, text=True)
        if done.returncode != 0:
            unavailable(f"no network namespace here: ip {' '.join(words)}: {done.stderr.strip()}")


class RelayAgent:
    """Sends DISCOVERs for clients and reads the OFFERs."""

    def __init__(self, endpoint: socket.socket, check_server: Callable[[], None]) -> None:
        self._endpoint = endpoint
        self._check_server = check_server
        self._asked = 0

    def discover(self, options: Mapping[int, bytes]) -> Offer:
        """The OFFER for a client never seen before that sends these options.

        Asks until it is answered, since a server says nothing to us when it is ready.
        """
        self._asked += 1
        hardware = bytes((0x52, 0x54, 0, 0x77, *self._asked.to_bytes(2)))
        transaction = 0xB0070000 + self._asked
        question = _discover(hardware, transaction, options)
        deadline = time.monotonic() + ANSWER_DEADLINE
        while time.monotonic() < deadline:
            self._check_server()
            self._endpoint.sendto(question, (SERVER, DHCP_SERVER_PORT))
            offer = self._answer(transaction)
            if offer is not None:
                return offer
        pytest.fail(f"no OFFER within {ANSWER_DEADLINE:.0f} s")

    def _answer(self, transaction: int) -> Offer | None:
        patience = time.monotonic() + ANSWER_PATIENCE
        while (left := patience - time.monotonic()) > 0:
            self._endpoint.settimeout(left)
            try:
                datagram = self._endpoint.recv(2048)
            except TimeoutError:
                return None
            packet = BOOTP(datagram)
            if packet.op == 2 and packet.xid == transaction:
                return _offer(packet)
        return None


def _discover(hardware: bytes, transaction: int, options: Mapping[int, bytes]) -> bytes:
    packet = BOOTP(
        op=1,
        xid=transaction,
        hops=1,
        giaddr=RELAY,
        chaddr=hardware + bytes(10),
    ) / DHCP(options=[("message-type", "discover"), *options.items(), "end"])
    return bytes(packet)


def _offer(packet: Packet) -> Offer:
    options: dict[int, bytes] = {}
    for option in packet[DHCP].options:
        if isinstance(option, tuple):
            name, value = option[0], option[1]
            code = name if isinstance(name, int) else DHCPRevOptions[name][0]
            if isinstance(value, bytes):
                options[code] = value
            elif code == 53:
                assert value == 2, f"answered with DHCP message type {value}, not OFFER"
    return Offer(packet.siaddr, packet.file.rstrip(b"\0"), options)


def _enter_namespace(name: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/run/netns/{name}", "rb") as namespace:
        if libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), name)
