"""A relay agent that asks a DHCP server for its clients.

The relay agent makes both ends plain unicast UDP: a server answers to giaddr, port 67 (RFC 2131
section 4.1), so no raw socket is needed to read its OFFER.
"""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pytest
from scapy.layers.dhcp import BOOTP, DHCP, DHCPRevOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from scapy.packet import Packet

    from tests.cable import Host

SERVER: Final = "10.77.0.1"
RELAY: Final = "10.77.0.2"

DHCP_SERVER_PORT: Final = 67
ANSWER_DEADLINE: Final = 20.0
ANSWER_PATIENCE: Final = 0.1


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


def relay_socket(relay: Host) -> socket.socket:
    """A UDP socket on the relay agent's address."""
    endpoint = relay.socket(socket.SOCK_DGRAM)
    try:
        endpoint.bind((RELAY, DHCP_SERVER_PORT))
    except OSError:
        endpoint.close()
        raise
    return endpoint


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
