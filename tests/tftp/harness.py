"""A TFTP server on loopback, what it serves, and a client that speaks in single datagrams."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio

from bootserve.catalog.assets import AssetNotFound, Source
from bootserve.tftp.packet import parse
from bootserve.tftp.server import (
    Manners,
    Opener,
    TftpRequestInfo,
    TftpServer,
    open_socket,
)
from bootserve.watch.ledger import Ledger

DEADLINE = 30.0
"""Seconds after which a test that hangs fails; no test depends on how fast anything is."""

Address = tuple[Any, ...]


class Body:
    """A source in memory that counts its closings and can be cold, short or broken."""

    def __init__(
        self,
        name: str,
        body: bytes,
        *,
        is_cold: bool = False,
        failure: Exception | None = None,
        claims: int | None = None,
        gate: asyncio.Event | None = None,
    ) -> None:
        self.name = name
        self.size = len(body) if claims is None else claims
        self.identity: str | None = None
        self.closed = 0
        self.is_changed = False
        self.reads: list[tuple[int, int]] = []
        self.is_read = asyncio.Event()
        self._body = body
        self._is_cold = is_cold
        self._failure = failure
        self._gate = gate

    def read_now(self, offset: int, size: int) -> bytes | None:
        assert not self.closed
        if self._is_cold:
            return None
        if self._failure is not None:
            raise self._failure
        return self._body[offset : offset + size]

    async def read(self, offset: int, size: int) -> bytes:
        assert not self.closed
        self.reads.append((offset, size))
        self.is_read.set()
        if self._gate is not None:
            await self._gate.wait()
        await anyio.lowlevel.checkpoint()
        if self._failure is not None:
            raise self._failure
        return self._body[offset : offset + size]

    def has_changed(self) -> bool:
        return self.is_changed

    def close(self) -> None:
        self.closed += 1


class Shelf:
    """An opener: ``shelf[name] = lambda: Body(...)``. Keeps what it has opened and was asked."""

    def __init__(self, **bodies: bytes) -> None:
        self.makers: dict[str, Callable[[], Body]] = {}
        self.opened: list[Body] = []
        self.asked: list[TftpRequestInfo] = []
        for name, body in bodies.items():
            self.makers[name] = lambda name=name, body=body: Body(name, body)  # type: ignore[misc]

    async def __call__(self, info: TftpRequestInfo) -> Source:
        self.asked.append(info)
        await anyio.lowlevel.checkpoint()
        if info.name not in self.makers:
            raise AssetNotFound(info.name, "is not on the shelf")
        body = self.makers[info.name]()
        self.opened.append(body)
        return body

    def assert_all_closed_once(self) -> None:
        assert [body.closed for body in self.opened] == [1] * len(self.opened)


@dataclass
class Running:
    server: TftpServer
    address: Address
    ledger: Ledger
    returned: anyio.Event = field(default_factory=anyio.Event)

    @property
    def port(self) -> int:
        return int(self.address[1])

    async def drained(self) -> None:
        """Wait until every transfer has ended: all that the server does is then done."""
        self.server.drain()
        await self.returned.wait()
        assert self.server.sessions == 0
        assert not self.ledger.live


@asynccontextmanager
async def serving(
    opener: Opener,
    *,
    host: str | None = "127.0.0.1",
    family: socket.AddressFamily = socket.AF_INET,
    ledger: Ledger | None = None,
    has_room: Callable[[], bool] = lambda: True,
    sock: socket.socket | None = None,
    relay: socket.socket | None = None,
    **manners: Any,
) -> AsyncIterator[Running]:
    """A server for as long as the block lasts; ``sock`` and ``relay`` are the caller's or ours."""
    ledger = ledger or Ledger()
    with sock or open_socket(family, host, 0) as sock, anyio.fail_after(DEADLINE):
        server = TftpServer(
            [sock],
            open_source=opener,
            ledger=ledger,
            machine=lambda client: None,
            has_room=has_room,
            manners=Manners(**manners),
        )
        if relay is not None:
            server.relay_to_predecessor(relay)
        running = Running(server, sock.getsockname(), ledger)

        async def serve(*, task_status: anyio.abc.TaskStatus[None]) -> None:
            try:
                await server.serve(task_status=task_status)
            finally:
                running.returned.set()

        async with anyio.create_task_group() as tasks:
            await tasks.start(serve)
            yield running
            tasks.cancel_scope.cancel()


class RawClient:
    """One UDP port of a client. Everything it sends and gets is bytes; nothing is repeated."""

    def __init__(self, server: Address, *, host: str | None = None) -> None:
        family = socket.AF_INET6 if ":" in server[0] else socket.AF_INET
        self._sock = socket.socket(family, socket.SOCK_DGRAM)
        self._sock.setblocking(False)
        try:
            self._sock.bind((host or server[0], 0, *server[2:]))
        except OSError:
            self._sock.close()
            raise
        self.server = server
        self.transfer: Address = server
        """Where the last datagram came from."""

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def ask(self, datagram: bytes) -> None:
        """Send to the listening port."""
        self._sock.sendto(datagram, self.server)

    def ask_for(self, name: str, *options: str, mode: str = "octet") -> None:
        self.ask(b"\0\1" + b"".join(word.encode() + b"\0" for word in (name, mode, *options)))

    def send(self, datagram: bytes) -> None:
        """Send to the transfer's port."""
        self._sock.sendto(datagram, self.transfer)

    def ack(self, block: int) -> None:
        self.send(b"\0\4" + (block % 65536).to_bytes(2))

    async def receive(self) -> bytes:
        loop = asyncio.get_running_loop()
        datagram, self.transfer = await loop.sock_recvfrom(self._sock, 65536)
        return datagram

    async def rest(self, first: bytes, *, blksize: int = 512, windowsize: int = 1) -> bytes:
        """Receive DATA to the end, ``first`` being what has come already; ACK every window."""
        found = bytearray()
        expected = 1
        datagram = first
        while True:
            assert datagram[:2] == b"\0\3", parse(datagram)
            if int.from_bytes(datagram[2:4]) == expected % 65536:
                found += datagram[4:]
                is_last = len(datagram) < blksize + 4
                if is_last or expected % windowsize == 0:
                    self.ack(expected)
                if is_last:
                    return bytes(found)
                expected += 1
            else:
                self.ack(expected - 1)
            datagram = await self.receive()

    async def accept(self, *, blksize: int = 512) -> bytes:
        """Acknowledge the OACK that has come, and receive the file."""
        self.ack(0)
        return await self.rest(await self.receive(), blksize=blksize)

    async def fetch(self, name: str) -> bytes:
        """Download without options."""
        self.ask_for(name)
        return await self.rest(await self.receive())
