"""A real HTTP door on a free port of the loopback, over a folder that the test fills."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest_asyncio

from bootserve.http.app import create_app
from bootserve.http.listener import open_listener
from bootserve.http.server import HttpServer, http_config
from bootserve.settings import load
from bootserve.watch.budget import Budget
from bootserve.watch.ledger import Ledger

DEADLINE = 60
"""Seconds until a test that waits for something gives up on it."""


@dataclass
class Door:
    """The door, and what a client needs to come through it."""

    port: int
    root: Path
    ledger: Ledger
    server: HttpServer
    budget: Budget

    async def request(
        self, text: str, *, receive_buffer: int | None = None, half_close: bool = False
    ) -> socket.socket:
        """Send a request as it is written here; the peer is the kernel's TCP, no HTTP library."""
        loop = asyncio.get_running_loop()
        client = socket.socket()
        if receive_buffer is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.setblocking(False)
        await loop.sock_connect(client, ("127.0.0.1", self.port))
        await loop.sock_sendall(client, text.replace("\n", "\r\n").encode())
        if half_close:
            client.shutdown(socket.SHUT_WR)
        return client


async def read_response(client: socket.socket) -> tuple[str, bytes]:
    """Read one response with a Content-Length: its head, and its body."""
    loop = asyncio.get_running_loop()
    data = b""
    with anyio.fail_after(DEADLINE):
        while b"\r\n\r\n" not in data:
            data += (more := await loop.sock_recv(client, 65536))
            assert more, f"connection closed inside the head {data!r}"
        head, _, rest = data.partition(b"\r\n\r\n")
        body = bytearray(rest)
        lines = head.decode().lower().splitlines()
        [length] = [int(line[15:]) for line in lines if line.startswith("content-length:")]
        while len(body) < length:
            body += (more := await loop.sock_recv(client, 1 << 20))
            assert more, f"connection closed after {len(body)} of {length} bytes"
    return head.decode(), bytes(body)


async def read_to_end(client: socket.socket) -> bytes:
    """Read until the server closes."""
    loop = asyncio.get_running_loop()
    data = bytearray()
    with anyio.fail_after(DEADLINE):
        while more := await loop.sock_recv(client, 1 << 20):
            data += more
    return bytes(data)


async def eventually(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Wait until the condition holds."""
    with anyio.fail_after(DEADLINE):
        while True:
            holds = condition()
            if await holds if isinstance(holds, Awaitable) else holds:
                return
            await anyio.sleep(0.005)


@pytest_asyncio.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    listener = open_listener(socket.AF_INET, "127.0.0.1", 0)
    settings = load(None, {"assets": {"roots": [tmp_path]}})
    ledger = Ledger()
    started = anyio.Event()
    budget = Budget()
    app = create_app(settings, ledger=ledger, budget=budget)
    server = HttpServer(http_config(settings, app), started.set, budget=budget)
    # A fixture's two halves run in different tasks, which no task group may span.
    serving = asyncio.create_task(server.serve([listener]))
    await started.wait()
    yield Door(listener.getsockname()[1], tmp_path, ledger, server, budget)
    server.should_exit = True
    server.force_exit = True
    await serving
