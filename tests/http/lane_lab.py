"""A door whose clients have lanes, and what the kernel says of their connections."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import struct
import termios
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

from bootserve.assembly import watch_restarts
from bootserve.catalog.catalog import Catalog
from bootserve.http import lane as lanes
from bootserve.http.app import create_app
from bootserve.http.door import Manners
from bootserve.http.lane import SO_MAX_PACING_RATE
from bootserve.http.listener import open_listener
from bootserve.http.protocol import BootProtocol
from bootserve.http.server import HttpServer, http_config
from bootserve.settings import load
from bootserve.watch.budget import Budget
from bootserve.watch.ledger import Ledger
from tests.http.conftest import Door, read_response

MAC = "52:54:00:12:34:56"
SIZE = 8 << 20
NO_PACE = 2**64 - 1
SIOCOUTQNSD = 0x894B  # linux/sockios.h
LOCALHOST = "127.0.0.1"
PORT = 8080


@contextlib.asynccontextmanager
async def serving(
    root: Path, listener: socket.socket | None = None, **tree: Any
) -> AsyncIterator[Door]:
    """A door with the process's own ledger and catalog."""
    (root / "initramfs").write_bytes(bytes(SIZE))
    (root / "vmlinuz").write_bytes(bytes(1000))
    listener = listener or open_listener(socket.AF_INET, LOCALHOST, 0)
    settings = load(None, {**tree, "assets": {"roots": [root]}})
    catalog = Catalog(settings)
    ledger = Ledger(observers=(watch_restarts(settings, catalog),))
    started = anyio.Event()
    budget = Budget()
    app = create_app(settings, catalog=catalog, ledger=ledger, budget=budget)
    server = HttpServer(
        http_config(settings, app),
        started.set,
        budget=budget,
        manners=Manners(settings.http.head_timeout, settings.http.silence_limit),
    )
    serving = asyncio.create_task(server.serve([listener]))
    await started.wait()
    try:
        yield Door(listener.getsockname()[1], root, ledger, server, budget)
    finally:
        server.should_exit = server.force_exit = True
        await serving


@dataclass(frozen=True)
class Set:
    """What the kernel says of the server's end of a connection."""

    pace: int
    buffer: int
    is_fixed: bool


def accepted(door: Door, client: socket.socket) -> socket.socket:
    """The server's end of a client's connection."""
    name = client.getsockname()
    transports = [
        protocol.connection
        for protocol in door.server.server_state.connections
        if isinstance(protocol, BootProtocol)
    ]
    [sock] = [
        transport.get_extra_info("socket")
        for transport in transports
        if transport.get_extra_info("peername") == name
    ]
    found: socket.socket = sock
    return found


def queued(sock: socket.socket) -> int:
    """Bytes that the kernel has taken and the client has not acknowledged."""
    answer = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
    return int(struct.unpack("i", answer)[0])


def in_flight(sock: socket.socket) -> int:
    """Those of them that have been sent."""
    answer = fcntl.ioctl(sock.fileno(), SIOCOUTQNSD, bytes(4))
    return queued(sock) - int(struct.unpack("i", answer)[0])


def retransmissions(sock: socket.socket) -> int:
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    return int(struct.unpack_from("=I", info, 100)[0])  # tcpi_total_retrans


def found(door: Door, client: socket.socket) -> Set:
    sock = accepted(door, client)
    return Set(
        struct.unpack("@L", sock.getsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, 8))[0],
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF),
        bool(sock.getsockopt(socket.SOL_SOCKET, lanes.SO_BUF_LOCK) & 1),
    )


async def connect(door: Door, address: str, receive_buffer: int | None = None) -> socket.socket:
    client = socket.socket()
    if receive_buffer is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.setblocking(False)
    client.bind((address, 0))
    await asyncio.get_running_loop().sock_connect(client, (LOCALHOST, door.port))
    return client


async def ask(client: socket.socket, path: str, headers: str = "") -> None:
    request = f"GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n"
    await asyncio.get_running_loop().sock_sendall(client, request.encode())


async def get(client: socket.socket, path: str, headers: str = "") -> bytes:
    await ask(client, path, headers)
    return (await read_response(client))[1]


async def get_from(door: Door, address: str, path: str) -> bytes:
    with await connect(door, address) as client:
        return await get(client, path)


async def introduce(door: Door, address: str, mac: str) -> None:
    """Ask for this machine's script, as it does before it asks for files."""
    with await connect(door, address) as client:
        assert (await get(client, f"/machine.ipxe?mac={mac}")).startswith(b"#!ipxe")


async def lane_of(door: Door, address: str, headers: str = "") -> Set:
    with await connect(door, address) as client:
        assert await get(client, "/boot/vmlinuz", headers) == bytes(1000)
        return found(door, client)
