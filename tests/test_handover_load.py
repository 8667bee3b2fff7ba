"""An upgrade in the middle of many downloads, slow and fast, over both doors: none is lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

from tests.family import Family, family, is_running, wait_until

SLOW, FAST, TFTP = 50, 50, 20

# More than the kernel holds for a connection, so that somebody must be there to send the rest.
BIG = os.urandom(1 << 20) * 12
BLKSIZE = 1408
SMALL = os.urandom(BLKSIZE * 500 + 7)

CONFIG = """
[http]
listen = ["127.0.0.1:0"]
[tftp]
listen = ["127.0.0.1:0"]
[assets]
roots = ["assets"]
[service]
runtime_dir = "run"
"""


class _Stages:
    """What the clients wait for: the hand-over, and that only slow clients of before are left."""

    def __init__(self) -> None:
        self.is_under_way = asyncio.Event()
        self.is_replaced = asyncio.Event()
        self.is_quiet = asyncio.Event()
        self.begun = 0
        self.fast = 0

    def note(self, *, begun: int = 0, fast: int = 0) -> None:
        """A slow one has begun, a fast one has ended."""
        self.begun += begun
        self.fast += fast
        if self.begun == SLOW + TFTP and self.fast >= FAST:
            self.is_under_way.set()


@contextlib.asynccontextmanager
async def _socket(kind: socket.SocketKind, port: int) -> AsyncIterator[socket.socket]:
    with socket.socket(socket.AF_INET, kind) as client:
        client.setblocking(False)
        if kind == socket.SOCK_STREAM:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
        yield client


async def _begin(client: socket.socket) -> bytes:
    """Ask for the file, and return what has come of it with the answer's head."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(
        client, b"GET /boot/big HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    head = b""
    while b"\r\n\r\n" not in head:
        more = await loop.sock_recv(client, 4096)
        assert more, head
        head += more
    head, _, body = head.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"content-length: %d" % len(BIG) in head.lower()
    return body


async def _finish(client: socket.socket, got: int) -> None:
    loop = asyncio.get_running_loop()
    expected = memoryview(BIG)
    while more := await loop.sock_recv(client, 1 << 18):
        assert more == expected[got : got + len(more)]
        got += len(more)
    assert got == len(BIG)


async def _slow(port: int, stages: _Stages) -> None:
    loop = asyncio.get_running_loop()
    async with _socket(socket.SOCK_STREAM, port) as client:
        data = bytearray(await _begin(client))
        stages.note(begun=1)
        while not stages.is_quiet.is_set():
            data += await loop.sock_recv(client, 4096)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stages.is_quiet.wait(), 0.05)
        assert len(data) < len(BIG) // 2
        assert BIG.startswith(data)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        await _finish(client, len(data))


async def _fast(port: int, stages: _Stages) -> None:
    """Download again and again, the last time from its first byte after the hand-over."""
    is_last = False
    while not is_last:
        is_last = stages.is_replaced.is_set()
        async with _socket(socket.SOCK_STREAM, port) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            await _finish(client, len(await _begin(client)))
        stages.note(fast=1)


async def _tftp(port: int, stages: _Stages) -> None:
    loop = asyncio.get_running_loop()
    data = bytearray()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setblocking(False)
        client.bind(("127.0.0.1", 0))
        request = b"\0\1small\0octet\0blksize\0%d\0" % BLKSIZE
        await loop.sock_sendto(client, request, ("127.0.0.1", port))
        packet, transfer = await loop.sock_recvfrom(client, 2048)
        assert packet[:2] == b"\0\6"
        await loop.sock_sendto(client, b"\0\4\0\0", transfer)
        stages.note(begun=1)
        block = 1
        while True:
            packet, sender = await loop.sock_recvfrom(client, 2048)
            assert sender == transfer
            if packet[:2] == b"\0\3" and int.from_bytes(packet[2:4], "big") == block:
                data += packet[4:]
                if block == len(SMALL) // BLKSIZE // 2:
                    await stages.is_replaced.wait()
                elif not stages.is_replaced.is_set():
                    await asyncio.sleep(0.01)
                await loop.sock_sendto(client, b"\0\4" + packet[2:4], transfer)
                if len(packet) < BLKSIZE + 4:
                    break
                block += 1
    assert data == SMALL


async def _run(server: Family) -> int:
    """Return the number of downloads."""
    http, tftp = server.ports()
    stages = _Stages()
    async with asyncio.timeout(300), asyncio.TaskGroup() as slow:
        for _ in range(SLOW):
            slow.create_task(_slow(http, stages))
        async with asyncio.TaskGroup() as others:
            for _ in range(FAST):
                others.create_task(_fast(http, stages))
            for _ in range(TFTP):
                others.create_task(_tftp(tftp, stages))
            await stages.is_under_way.wait()
            new = await asyncio.to_thread(server.replace)
            stages.is_replaced.set()
        assert server.process.poll() is None
        assert is_running(new)
        stages.is_quiet.set()
    return SLOW + TFTP + stages.fast


def test_an_upgrade_under_load_loses_no_transfer(tmp_path: Path) -> None:
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "big").write_bytes(BIG)
    (tmp_path / "assets" / "small").write_bytes(SMALL)
    with family(tmp_path, CONFIG) as server:
        transfers = asyncio.run(_run(server))
        assert server.leave() == 0
        wait_until(lambda: server.log().count(": complete\n") == transfers)
        assert "transfers that go on to their end: 0" not in server.log()
        troubles = [line for line in server.log().splitlines() if line.split()[2] in "WE"]
        assert troubles == []
