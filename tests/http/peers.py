"""Any ASGI application behind our protocol, clients that are not ours, and what the kernel saw."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import itertools
import mmap
import os
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest
from starlette.types import ASGIApp

from bench.disk import resident_pages
from bootserve.http.listener import open_listener
from bootserve.http.server import HttpServer, http_config
from bootserve.settings import load

# A hang is the bug that these tests are for: no need to wait as long as for a busy machine.
DEADLINE = 15

PAGE = mmap.PAGESIZE


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Address:
    """Where an application is served, and how its clients get there."""

    port: int
    certificate: Path | None = None

    async def ask(
        self, method: str = "GET", headers: Mapping[str, str] | None = None, times: int = 1
    ) -> Answer:
        """Send a request with Python's own client, ``times`` on one connection; the last answer."""
        with anyio.fail_after(DEADLINE):
            return await asyncio.to_thread(self._ask, method, headers or {}, times)

    def _ask(self, method: str, headers: Mapping[str, str], times: int) -> Answer:
        connection: http.client.HTTPConnection
        if self.certificate is None:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE)
        else:
            context = ssl.create_default_context(cafile=str(self.certificate))
            connection = http.client.HTTPSConnection(
                "127.0.0.1", self.port, timeout=DEADLINE, context=context
            )
        with contextlib.closing(connection):
            for _ in range(times):
                connection.request(method, "/", headers=dict(headers))
                with connection.getresponse() as response:
                    found = {name.lower(): value for name, value in response.getheaders()}
                    answer = Answer(response.status, found, response.read())
        return answer

    async def connect(self, receive_buffer: int | None = None) -> socket.socket:
        """A client that has sent a request and reads nothing of its answer."""
        return await asyncio.to_thread(self._connect, receive_buffer)

    def _connect(self, receive_buffer: int | None) -> socket.socket:
        client = socket.socket()
        client.settimeout(DEADLINE)
        if receive_buffer is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.connect(("127.0.0.1", self.port))
        if self.certificate is not None:
            context = ssl.create_default_context(cafile=str(self.certificate))
            client = context.wrap_socket(client, server_hostname="127.0.0.1")
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        return client


def reset(client: socket.socket) -> None:
    """Leave as a machine does that is switched off and on again: with an RST."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


@contextlib.asynccontextmanager
async def serving(
    app: ASGIApp, certificate: Path | None = None, key: Path | None = None
) -> AsyncIterator[Address]:
    listener = open_listener(socket.AF_INET, "127.0.0.1", 0)
    config = http_config(load(None, {}), app)
    config.ssl_certfile, config.ssl_keyfile = certificate, key
    server = HttpServer(config, lambda: None)
    # What server.serve() does, without the tenth of a second that it looks for signals.
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup([listener])
    try:
        yield Address(listener.getsockname()[1], certificate)
    finally:
        server.force_exit = True
        await server.shutdown([listener])
        while server.server_state.connections:
            for connection in list(server.server_state.connections):
                connection.transport.abort()
            await asyncio.sleep(0)


@dataclass(frozen=True)
class Call:
    """One sendfile(2): what it was asked for, and what it has moved (-1: it failed)."""

    file: int
    offset: int
    size: int
    sent: int


@dataclass
class Calls:
    """The real os.sendfile, watched."""

    made: list[Call] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._sendfile = os.sendfile

    def __call__(self, sock: int, file: int, offset: int, size: int) -> int:
        sent = -1
        try:
            sent = self._sendfile(sock, file, offset, size)
        finally:
            self.made.append(Call(file, offset, size, sent))
        return sent

    @property
    def moved(self) -> int:
        return sum(call.sent for call in self.made if call.sent > 0)


@pytest.fixture
def sendfiles(monkeypatch: pytest.MonkeyPatch) -> Calls:
    calls = Calls()
    monkeypatch.setattr(os, "sendfile", calls)
    return calls


def missing_pages(file: int, offset: int, size: int) -> int:
    """How many pages of a range are not in the page cache."""
    return resident_pages(file, offset, size).count(False)


def missing_run(file: int, offset: int, size: int) -> int:
    """Bytes of the longest run of pages in a range that are not in the page cache."""
    runs = itertools.groupby(resident_pages(file, offset, size))
    return PAGE * max((len(list(run)) for is_there, run in runs if not is_there), default=0)


def evict(path: Path) -> None:
    """Take a file out of the page cache, or skip where its file system keeps it there."""
    with path.open("rb") as file:
        os.fsync(file.fileno())  # only clean pages can be dropped
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        size = os.fstat(file.fileno()).st_size
        left = (size + PAGE - 1) // PAGE - missing_pages(file.fileno(), 0, size)
    if left:
        pytest.skip(
            f"{left} pages of {path} stayed in the page cache: run the tests with --basetemp on a"
            " file system that has a disk behind it (not tmpfs)"
        )
