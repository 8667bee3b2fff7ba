"""Which address is asked, and answered from."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from bootserve.tftp import sockets
from bootserve.tftp.sockets import Peer, open_socket

from .harness import RawClient, Shelf, serving


def link_local() -> tuple[str, str]:
    """An address of this host with its interface."""
    try:
        lines = Path("/proc/net/if_inet6").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        digits, _, _, scope, _, name = line.split()
        if scope == "20":
            return socket.inet_ntop(socket.AF_INET6, bytes.fromhex(digits)), name
    return pytest.skip("no interface has a link-local IPv6 address: set an Ethernet interface up")


async def test_link_local_addresses_keep_their_interface() -> None:
    host, interface = link_local()
    shelf = Shelf(script=b"text")
    async with serving(shelf, host=None, family=socket.AF_INET6) as running:
        server = (host, running.port, 0, socket.if_nametoindex(interface))
        with RawClient(server) as client:
            assert await client.fetch("script") == b"text"
            assert client.transfer[0].partition("%")[0] == host
            client.ask_for("missing")
            assert (await client.receive())[:4] == b"\0\5\0\1"
    assert shelf.asked[0].client == f"{host}%{interface}"


async def test_a_link_local_address_can_be_listened_on() -> None:
    host, interface = link_local()
    async with serving(
        Shelf(script=b"text"), host=f"{host}%{interface}", family=socket.AF_INET6
    ) as running:
        server = (host, running.port, 0, socket.if_nametoindex(interface))
        with RawClient(server) as client:
            assert await client.fetch("script") == b"text"


def test_a_listening_socket() -> None:
    for family in (socket.AF_INET, socket.AF_INET6):
        with open_socket(family, None, 0) as sock:
            assert not sock.getblocking()
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= 212992
            if family == socket.AF_INET6:
                assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
            # The other family may use the port too.
            port = sock.getsockname()[1]
            other = {socket.AF_INET6: socket.AF_INET, socket.AF_INET: socket.AF_INET6}[family]
            open_socket(other, None, port).close()
            with pytest.raises(OSError, match="in use"):
                open_socket(family, None, port)


@pytest.mark.parametrize("single_port", [True, False])
async def test_an_ipv4_client_of_a_socket_for_both_families(single_port: bool) -> None:
    shelf = Shelf(script=b"text")
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind(("::", 0))
    async with serving(shelf, sock=sock, single_port=single_port) as running:
        with RawClient(("127.0.0.2", running.port), host="127.0.0.1") as client:
            assert await client.fetch("script") == b"text"
            assert client.transfer[0] == "127.0.0.2"
            client.ask_for("missing")
            assert (await client.receive())[:4] == b"\0\5\0\1"
            assert client.transfer == ("127.0.0.2", running.port)
    assert shelf.asked[0].client == "127.0.0.1"
    assert shelf.asked[0].local == "::ffff:127.0.0.2"


def test_an_address_that_is_not_ours_cannot_be_listened_on() -> None:
    with pytest.raises(OSError, match="assign"):
        open_socket(socket.AF_INET, "192.0.2.99", 0)


def test_receiving_waits_for_nothing() -> None:
    with open_socket(socket.AF_INET, "127.0.0.1", 0) as sock, pytest.raises(BlockingIOError):
        sockets.receive(sock, 100)


@pytest.mark.parametrize(
    ("address", "host"),
    [
        (("192.0.2.1", 5), "192.0.2.1"),
        (("2001:db8::1", 5, 0, 0), "2001:db8::1"),
        (("::ffff:192.0.2.1", 5, 0, 0), "192.0.2.1"),
        (("fe80::1", 5, 0, 1), "fe80::1%lo"),
        (("fe80::1%lo", 5, 0, 1), "fe80::1%lo"),
        (("fe80::1", 5, 0, 99999), "fe80::1%99999"),
    ],
)
def test_the_clients_name(address: sockets.SocketAddress, host: str) -> None:
    assert Peer(address, "", 0).client_host == host
