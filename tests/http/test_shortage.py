"""Too few descriptors: everybody gets the file in the end, and nothing spins meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

from bootserve.http.door import Manners
from bootserve.watch.budget import BIG_FILE
from tests import needs
from tests.http.conftest import DEADLINE, Door, eventually, read_response, read_to_end
from tests.real import server
from tests.real.process import Process

LIMIT = 64
CLIENTS = 200
SIZE = 3 << 20


@dataclass
class Scene:
    process: Process
    port: int
    checksum: str
    root: Path

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    prlimit = needs.program("prlimit", "util-linux")
    (tmp_path / "root").mkdir()
    body = os.urandom(SIZE)
    (tmp_path / "root" / "initramfs").write_bytes(body)
    (tmp_path / "root" / "small").write_bytes(b"small")
    config = tmp_path / "bootserve.toml"
    config.write_text(
        '[http]\nlisten = ["127.0.0.1:0"]\nhead_timeout = 5\n'
        '[tftp]\nlisten = ["127.0.0.1:0"]\n[assets]\nroots = ["root"]\n'
    )
    process = server.start(config, prefix=[prlimit, f"--nofile={LIMIT}:{LIMIT}"])
    try:
        port = int(process.wait_for(r"^HTTP .*http://127\.0\.0\.1:(\d+)", 10)[1])
        yield Scene(process, port, hashlib.sha256(body).hexdigest(), tmp_path / "root")
    finally:
        process.stop()


async def _get(port: int, path: str, *, pause: float = 0) -> tuple[int, dict[bytes, bytes], bytes]:
    """One request on a connection of its own, its body read in pieces with pauses between."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 18)
    with contextlib.closing(writer):
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        lines = [line.partition(b": ") for line in head.lower().splitlines()[1:]]
        headers = {name: value for name, _, value in lines}
        body = b""
        while more := await reader.read(1 << 18):
            body += more
            await anyio.sleep(pause)
        assert len(body) == int(headers[b"content-length"])
        return int(head.split()[1]), headers, body


async def _boot(scene: Scene, refusals: list[int]) -> str:
    """What iPXE does: come back after as many seconds as it was told, as often as it takes."""
    while True:
        status, headers, body = await _get(scene.port, "/boot/initramfs", pause=0.05)
        if status == 200:
            return hashlib.sha256(body).hexdigest()
        assert status == 503
        seconds = int(headers[b"retry-after"])
        assert seconds >= 1
        refusals.append(seconds)
        await anyio.sleep(seconds)


async def test_everybody_gets_the_file_in_the_end(scene: Scene) -> None:
    before = scene.descriptors()
    refusals: list[int] = []
    with anyio.fail_after(2 * DEADLINE):
        found = await asyncio.gather(*(_boot(scene, refusals) for _ in range(CLIENTS)))
    assert found == [scene.checksum] * CLIENTS
    assert refusals, "nobody had to wait: this proves nothing"
    assert len(set(refusals)) > 1
    # Two hundred lines are those of the transfers.
    assert len(scene.process.log().splitlines()) < CLIENTS + 100
    await eventually(lambda: scene.descriptors() <= before)
    status, _, report = await _get(scene.port, "/healthz")
    assert status == 200, report


async def test_at_the_limit_nothing_spins_and_all_is_well_afterwards(scene: Scene) -> None:
    """Clients that say nothing take all there is; who comes then waits for one of them to go."""
    before = scene.descriptors()
    idle = [socket.create_connection(("127.0.0.1", scene.port)) for _ in range(CLIENTS)]
    try:
        await eventually(lambda: scene.descriptors() >= LIMIT - 10)
        spent = scene.cpu_seconds()
        with anyio.fail_after(DEADLINE):
            status, _, body = await _get(scene.port, "/boot/small")
        assert (status, body) == (200, b"small")
        # It has waited for seconds, in which an accept loop that spins would use them up.
        assert scene.cpu_seconds() - spent < 1
        assert scene.descriptors() < LIMIT
        assert len(scene.process.log().splitlines()) < 50
    finally:
        for client in idle:
            client.close()
    await eventually(lambda: scene.descriptors() <= before)


async def test_health_turns_red_before_the_descriptors_are_out(scene: Scene) -> None:
    idle = [socket.create_connection(("127.0.0.1", scene.port)) for _ in range(LIMIT)]
    try:

        async def is_red() -> bool:
            status, _, report = await _get(scene.port, "/healthz")
            return status == 503 and b"descriptors" in report

        await eventually(is_red)
    finally:
        for client in idle:
            client.close()

    async def is_green() -> bool:
        return (await _get(scene.port, "/healthz"))[0] == 200

    await eventually(is_green)


# --- at the door -----------------------------------------------------------------------------


def _fill(door: Door) -> None:
    """Leave room for connections, and none for a big file."""
    door.budget.admission = door.budget.base


@pytest.fixture
def full(door: Door) -> Door:
    _fill(door)
    (door.root / "big").write_bytes(bytes(BIG_FILE))
    (door.root / "small").write_bytes(b"small")
    return door


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        ("GET /boot/big HTTP/1.1\nHost: x\n\n", 503),
        ("GET /boot/big HTTP/1.1\nHost: x\nRange: bytes=0-99\n\n", 206),
        ("GET /boot/small HTTP/1.1\nHost: x\n\n", 200),
        ("GET /boot.ipxe HTTP/1.1\nHost: x\n\n", 200),
        ("GET /healthz HTTP/1.1\nHost: x\n\n", 200),
        ("GET /readyz HTTP/1.1\nHost: x\n\n", 200),
    ],
)
async def test_only_big_files_have_to_wait(full: Door, request_text: str, status: int) -> None:
    with await full.request(request_text) as client:
        head, _ = await read_response(client)
    assert head.startswith(f"HTTP/1.1 {status} ")
    assert ("retry-after" in head.lower()) is (status == 503)


async def test_who_has_to_wait_does_so_outside(full: Door) -> None:
    with await full.request("GET /boot/big HTTP/1.1\nHost: x\n\n") as client:
        answer = await read_to_end(client)
    assert re.search(rb"retry-after: [1-9]", answer.lower())
    assert b"connection: close" in answer.lower()
    assert b"keep-alive" not in answer.lower()
    await eventually(lambda: full.server.state.budget.connections == 0)


async def test_transfers_that_have_begun_go_on_when_it_is_full(door: Door) -> None:
    (door.root / "big").write_bytes(os.urandom(8 << 20))
    with await door.request("GET /boot/big HTTP/1.1\nHost: x\n\n", receive_buffer=4096) as client:
        await eventually(lambda: len(door.ledger.live) == 1)
        assert door.budget.transfers == 1
        _fill(door)
        with await door.request("GET /boot/big HTTP/1.1\nHost: x\n\n") as other:
            assert (await read_response(other))[0].startswith("HTTP/1.1 503")
        _, body = await read_response(client)
    assert body == (door.root / "big").read_bytes()
    await eventually(lambda: door.budget.transfers == 0)


async def test_an_idle_connection_is_let_go_and_one_that_waits_for_its_answer_is_not(
    door: Door,
) -> None:
    (door.root / "big").write_bytes(bytes(8 << 20))
    (door.root / "small").write_bytes(b"small")
    loop = asyncio.get_running_loop()
    with (
        await door.request("GET /boot/big HTTP/1.1\nHost: x\n\n", receive_buffer=4096) as busy,
        await door.request("GET /boot/small HTTP/1.1\nHost: x\n\n") as idle,
        await door.request("") as newcomer,
    ):
        await read_response(idle)
        await eventually(lambda: len(door.server.state.connections) == 3)
        await eventually(lambda: door.server.state.idle == 2)
        assert door.server.state.close_idle(loop.time(), 10) == 1
        assert await read_to_end(idle) == b""
        # A newcomer's request may be on its way; a minute later it is not.
        assert door.server.state.close_idle(loop.time() + 60, 10) == 1
        assert await read_to_end(newcomer) == b""
        assert len((await read_response(busy))[1]) == 8 << 20


@pytest.mark.parametrize("begun", ["", "GET /boot/", "GET / HTTP/1.1\nHost: x\n"])
async def test_a_connection_that_asks_for_nothing_is_closed(door: Door, begun: str) -> None:
    door.server.state.manners = Manners(head_timeout=0.2)
    with await door.request(begun) as client:
        assert await read_to_end(client) == b""
    await eventually(lambda: door.budget.connections == 0)


async def test_a_connection_with_a_request_on_its_way_is_not_let_go(door: Door) -> None:
    (door.root / "small").write_bytes(b"small")
    loop = asyncio.get_running_loop()
    get = "GET /boot/small HTTP/1.1\nHost: x\n\n"
    with await door.request(get) as unread, await door.request(get + get[:9]) as half:
        await read_response(unread)
        await read_response(half)
        await eventually(lambda: door.server.state.idle == 2)
        # It has come, and the event loop has not had a turn to read it.
        assert unread.send(get.replace("\n", "\r\n").encode()) > 0
        assert door.server.state.close_idle(loop.time() + 60, 10) == 0
        await read_response(unread)
        await loop.sock_sendall(half, get[9:].replace("\n", "\r\n").encode())
        assert (await read_response(half))[1] == b"small"


async def test_clients_that_do_not_read_small_files_leave_room_for_health(scene: Scene) -> None:
    (scene.root / "middle").write_bytes(bytes(3 << 19))
    clients = []
    try:
        for _ in range(70):
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", scene.port))
            client.sendall(b"GET /boot/middle HTTP/1.1\r\nHost: x\r\n\r\n")
            clients.append(client)
        await eventually(lambda: scene.descriptors() >= LIMIT - 12)
        for path, expected in (("/healthz", 503), ("/boot.ipxe", 200), ("/boot/middle", 503)):
            with anyio.fail_after(DEADLINE):
                status, _, _ = await _get(scene.port, path)
            assert status == expected
    finally:
        for client in clients:
            client.close()
