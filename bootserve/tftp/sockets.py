"""UDP sockets that know which address of ours was asked, and answer from it (Linux).

On a host with several addresses the kernel picks the source of a reply by its routes, and a TFTP
client drops an answer from an address it did not ask.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
from dataclasses import dataclass
from typing import Any

RECEIVE_BUFFER = 1024 * 1024
"""Bytes: room for the requests of a rack that is switched on at once."""

SEND_BUFFER = 512 * 1024
"""Bytes that may wait for the network card: two windows, which the kernel counts with its own
overhead. Its default, 208 KiB, is also the most that it permits unless it is configured."""

# <linux/in.h>, <linux/in6.h>, <asm-generic/socket.h>: Python 3.11 has no names for them.
_IP_PKTINFO = 8
_IP_MTU = 14
_IPV6_MTU = 24
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33

_IN_PKTINFO = struct.Struct("=I4s4s")  # ip(7): ifindex, the local address, the header's destination
_IN6_PKTINFO = struct.Struct("=16sI")  # RFC 3542, section 6: address, ifindex
_CONTROL_SIZE = socket.CMSG_SPACE(_IN_PKTINFO.size) + socket.CMSG_SPACE(_IN6_PKTINFO.size)

SocketAddress = tuple[str, int] | tuple[str, int, int, int]
ControlMessage = tuple[int, int, bytes]
"""Level, kind and content, as sendmsg() takes it."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A client and the address of ours that it asked.

    ``scope`` is the interface's index for a link-local ``local``, else 0.
    """

    client: SocketAddress
    local: str
    scope: int
    is_broadcast: bool = False
    """Whether it asked all hosts of a network (IPv4)."""

    @property
    def client_host(self) -> str:
        """The client's IP address, with the zone if it is link-local."""
        host = self.client[0].partition("%")[0].removeprefix("::ffff:")
        if len(self.client) == 4 and self.client[3]:
            zone = str(self.client[3])
            with contextlib.suppress(OSError):
                zone = socket.if_indextoname(self.client[3])
            host = f"{host}%{zone}"
        return host

    @property
    def version(self) -> int:
        """Of the IP packets to it: 4 also for an IPv4 client of a socket for both families."""
        is_ipv4 = len(self.client) == 2 or self.client[0].startswith("::ffff:")
        return 4 if is_ipv4 else 6


def open_socket(family: socket.AddressFamily, host: str | None, port: int) -> socket.socket:
    """Open a listening UDP socket for `TftpServer`; the caller owns it.

    Args:
        family: ``AF_INET`` or ``AF_INET6``; the latter is for IPv6 only.
        host: a literal address, IPv6 with its zone if any, or ``None`` for every address.
        port: 0 to 65535; 0 lets the kernel choose.

    Raises:
        OSError: the address is not ours, the port is taken or privileged.
    """
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        address: tuple[Any, ...] = (host or "0.0.0.0", port)  # noqa: S104 (what None stands for)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            numeric = socket.AI_NUMERICHOST | socket.AI_PASSIVE
            found = socket.getaddrinfo(host, port, family, socket.SOCK_DGRAM, 0, numeric)
            address = found[0][4]
        sock.bind(address)
        prepare(sock)
    except BaseException:
        sock.close()
        raise
    return sock


def prepare(sock: socket.socket) -> None:
    """Set what `receive` needs, also on a bound socket that somebody else has opened."""
    sock.setblocking(False)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
    for forced, asked, size in (
        (_SO_RCVBUFFORCE, socket.SO_RCVBUF, RECEIVE_BUFFER),
        (_SO_SNDBUFFORCE, socket.SO_SNDBUF, RECEIVE_BUFFER),
    ):
        # systemd's ReceiveBuffer= may have done it, and we could only lower it. Linux doubles it.
        if sock.getsockopt(socket.SOL_SOCKET, asked) >= 2 * size:
            continue
        try:
            # Beyond net.core.rmem_max and wmem_max, with CAP_NET_ADMIN.
            sock.setsockopt(socket.SOL_SOCKET, forced, size)
        except OSError:
            sock.setsockopt(socket.SOL_SOCKET, asked, size)


def receive(sock: socket.socket, size: int) -> tuple[bytes, Peer]:
    """Return one datagram, cut to ``size`` bytes, and who asked which address of ours.

    Raises:
        BlockingIOError: there is none now.
        OSError: the kernel has an error to report.
    """
    datagram, control, _, client = sock.recvmsg(size, _CONTROL_SIZE)
    local, scope, is_broadcast = _wildcard(sock), 0, False
    for level, kind, value in control:
        if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
            _, address, asked_address = _IN_PKTINFO.unpack_from(value)
            is_broadcast = address != asked_address
            local = socket.inet_ntop(socket.AF_INET, address)
        elif (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
            address, index = _IN6_PKTINFO.unpack_from(value)
            asked = ipaddress.IPv6Address(address)
            if not asked.is_multicast:
                # str() of an IPv4 client's, on a socket for both families, is no IPv4 literal
                # before Python 3.13.
                local = socket.inet_ntop(socket.AF_INET6, address)
                scope = index if asked.is_link_local else 0
    return datagram, Peer(client, local, scope, is_broadcast)


def source(family: int, peer: Peer) -> ControlMessage:
    """The control message with which a listening socket answers from the address that was asked."""
    address = socket.inet_pton(family, peer.local)
    if family == socket.AF_INET6:
        return (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, _IN6_PKTINFO.pack(address, peer.scope))
    return (socket.IPPROTO_IP, _IP_PKTINFO, _IN_PKTINFO.pack(0, address, bytes(4)))


def reply(sock: socket.socket, datagram: bytes, peer: Peer) -> None:
    """Answer from the listening socket itself, from the address that was asked; may be lost.

    For answers that need no transfer: it takes no descriptor, so it works when there are none.
    """
    with contextlib.suppress(OSError):
        sock.sendmsg([datagram], [source(sock.family, peer)], 0, peer.client)


def connect(family: int, peer: Peer) -> socket.socket:
    """Return a non-blocking socket with a port of its own, from the asked address to the client.

    Raises:
        OSError: no descriptor or port is free, or the client cannot be reached.
    """
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        if family == socket.AF_INET6:
            sock.bind((peer.local, 0, 0, peer.scope))
        else:
            sock.bind((peer.local, 0))
        sock.connect(peer.client)
    except BaseException:
        sock.close()
        raise
    return sock


def path_mtu(sock: socket.socket) -> int:
    """Bytes of the largest IP packet that is known to reach the client of a connected socket.

    That is the MTU of the way out, or what routers have said since (ip(7), IP_MTU).
    """
    if sock.family == socket.AF_INET6:
        return sock.getsockopt(socket.IPPROTO_IPV6, _IPV6_MTU)
    return sock.getsockopt(socket.IPPROTO_IP, _IP_MTU)


def _wildcard(sock: socket.socket) -> str:
    return "::" if sock.family == socket.AF_INET6 else "0.0.0.0"  # noqa: S104
