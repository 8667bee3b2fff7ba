"""Files that are really not in the page cache, and a disk that is really slow.

What is in the cache is asked of mincore(2), which the code does not use. A transfer looks at one
page in every step, so a gap that is shorter, in what the disk is delivering just then, may be
overlooked; a longer one never.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest

from bench.disk import DiskUnavailable, SlowDisk
from bootserve.catalog import reading
from bootserve.http.zerocopy import _PROBE_STEP as STEP
from tests import needs
from tests.http.conftest import DEADLINE, Door, read_response
from tests.http.peers import Call, Calls, evict, missing_pages, missing_run

BODY = os.urandom(1 << 20) * 12
GET = "GET /boot/initramfs HTTP/1.1\nHost: x\n\n"


@dataclass
class ColdCalls(Calls):
    """The real os.sendfile, and the calls of it that would have waited for the disk."""

    would_wait: list[Call] = field(default_factory=list)

    def __call__(self, sock: int, file: int, offset: int, size: int) -> int:
        gap = missing_run(file, offset, size)
        sent = super().__call__(sock, file, offset, size)
        if gap >= STEP:
            self.would_wait.append(self.made[-1])
        return sent


@pytest.fixture
def sendfiles(monkeypatch: pytest.MonkeyPatch) -> Iterator[ColdCalls]:
    calls = ColdCalls()
    monkeypatch.setattr(os, "sendfile", calls)
    yield calls
    assert calls.would_wait == []


@pytest.fixture
def cold(door: Door) -> Path:
    path = door.root / "initramfs"
    path.write_bytes(BODY)
    evict(path)
    return path


async def test_a_cold_file_is_exact_and_the_loop_waits_for_no_disk(
    door: Door, cold: Path, sendfiles: ColdCalls
) -> None:
    with await door.request(GET) as client:
        assert (await read_response(client))[1] == BODY
    assert sendfiles.moved > len(BODY) // 2


async def test_a_range_of_a_cold_file_is_exact_and_the_loop_waits_for_no_disk(
    door: Door, cold: Path, sendfiles: ColdCalls
) -> None:
    first, last = 5_000_001, 9_999_998
    request = GET.replace("\n\n", f"\nRange: bytes={first}-{last}\n\n")
    with await door.request(request) as client:
        assert (await read_response(client))[1] == BODY[first : last + 1]
    assert sendfiles.moved > 0


async def test_many_clients_of_one_cold_file_are_served_at_once(
    door: Door, cold: Path, sendfiles: ColdCalls
) -> None:
    """A room of machines that is switched on in the morning."""
    clients = [await door.request(GET) for _ in range(4)]
    answers = await asyncio.gather(*map(read_response, clients))
    for client in clients:
        client.close()
    assert all(body == BODY for _, body in answers)


@pytest.mark.parametrize("start", [0, 3 << 20, 11 << 20])
async def test_a_file_that_is_cold_in_part_is_exact_and_the_loop_waits_for_no_disk(
    door: Door, cold: Path, sendfiles: ColdCalls, start: int
) -> None:
    with cold.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        for offset in range(0, len(BODY), 1 << 20):
            if offset != start:
                os.pread(file.fileno(), 1 << 20, offset)
        assert missing_pages(file.fileno(), start, 1 << 20) > 0
    with await door.request(GET) as client:
        assert (await read_response(client))[1] == BODY


async def test_a_hot_file_is_read_by_no_thread(
    door: Door, cold: Path, sendfiles: ColdCalls, monkeypatch: pytest.MonkeyPatch
) -> None:
    with cold.open("rb") as file:
        assert file.read() == BODY
        assert missing_pages(file.fileno(), 0, len(BODY)) == 0

    def submit(*_: object, **__: object) -> None:
        raise AssertionError("a thread for a hot file")

    monkeypatch.setattr(reading.readers, "submit", submit)
    with await door.request(GET) as client:
        assert (await read_response(client))[1] == BODY


async def test_a_cold_file_is_exact_on_a_loop_without_sendfile(
    door: Door, cold: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bootserve.http.connection.can_pump", lambda loop: False)
    with await door.request(GET) as client:
        assert (await read_response(client))[1] == BODY


# --- a slow disk -----------------------------------------------------------------------------

SLOW = 12 << 20
"""Bytes of the file, and bytes per second of the disk."""

SERVER = """
import asyncio, os, socket, sys
from bootserve.http.app import create_app
from bootserve.http.listener import open_listener
from bootserve.http.server import HttpServer, http_config
from bootserve.settings import load
from bootserve.watch.ledger import Ledger
from bootserve.http.zerocopy import _PROBE_STEP
from tests.http.peers import missing_run

def sendfile(sock, file, offset, size, real=os.sendfile):
    if missing_run(file, offset, size) >= _PROBE_STEP:
        print("would wait at", offset, flush=True)
    return real(sock, file, offset, size)

async def serve():
    listener = open_listener(socket.AF_INET, "127.0.0.1", 0)
    port = listener.getsockname()[1]
    settings = load(None, {"assets": {"roots": sys.argv[1:]}})
    app = create_app(settings, ledger=Ledger())
    server = HttpServer(http_config(settings, app), lambda: print(port, flush=True))
    await server.serve([listener])

os.sendfile = sendfile
asyncio.run(serve())
"""


@pytest.fixture
def slow_disk() -> Iterator[SlowDisk]:
    needs.root()
    try:
        disk = SlowDisk(64 << 20, SLOW)
        disk.__enter__()
    except DiskUnavailable as error:
        pytest.skip(f"{error}: run the tests on a host with ext4 on loop devices and cgroup blkio")
    yield disk
    disk.__exit__(None, None, None)


def _serving(*roots: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SERVER, *roots],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )


async def fetch(port: int, name: str) -> bytes:
    client = socket.socket()
    client.setblocking(False)
    with client:
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, ("127.0.0.1", port))
        await loop.sock_sendall(client, f"GET /boot/{name} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        return (await read_response(client))[1]


async def test_while_a_slow_disk_is_read_others_are_answered(
    slow_disk: SlowDisk, tmp_path: Path
) -> None:
    body = BODY[:SLOW]
    (tmp_path / "small").write_bytes(b"x" * 1000)
    (slow_disk.root / "big").write_bytes(body)
    evict(slow_disk.root / "big")
    with _serving(slow_disk.root, tmp_path) as server:
        try:
            slow_disk.enter(server.pid)
            assert server.stdout is not None
            port = int(await asyncio.to_thread(server.stdout.readline))
            answered = 0
            downloading = asyncio.ensure_future(fetch(port, "big"))
            with anyio.fail_after(DEADLINE):
                while not downloading.done():
                    assert await fetch(port, "small") == b"x" * 1000
                    answered += 1
            assert await downloading == body
        finally:
            server.kill()
            said = server.stdout.read() if server.stdout is not None else ""
    assert said == ""
    # A thousand and more here; a loop that waits for the disk gets to four.
    assert answered >= 100
