"""One transfer alone: a `FilePump` on a socket of asyncio's, and a client that is the kernel's.

Where a disk is needed that can be stopped, `Disk` stands between the pump and the real calls: it
says of some pages that they are not in the cache, until a thread has read them.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import anyio
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bootserve.http import zerocopy
from bootserve.http.connection import can_pump
from bootserve.http.room import room_of
from bootserve.http.zerocopy import BURST, FileEnded, FilePump
from tests.http.conftest import DEADLINE, Door, eventually, read_response
from tests.http.peers import PAGE, Calls, reset, sendfiles

__all__ = ["sendfiles"]

SIZE = 3 * BURST + 4321
STEP = zerocopy._PROBE_STEP
BODY = os.urandom(SIZE)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("zerocopy") / "file"
    found.write_bytes(BODY)
    return found


@pytest.fixture
def file(path: Path) -> Iterator[int]:
    with path.open("rb") as opened:
        yield opened.fileno()


@dataclass
class Line:
    """A TCP connection: the server's end is a transport of asyncio's, the client's a socket."""

    transport: asyncio.Transport
    client: socket.socket

    def pump(self, file: int, offset: int = 0, count: int = SIZE) -> FilePump:
        loop = asyncio.get_running_loop()
        return FilePump(loop, self.fileno(), file, offset, count)

    def fileno(self) -> int:
        return int(self.transport.get_extra_info("socket").fileno())

    def is_watched(self) -> bool:
        """Whether anybody still waits for room in the socket."""
        return self.fileno() in room_of(asyncio.get_running_loop())._callbacks

    async def receive(self, count: int) -> bytes:
        data = bytearray()
        with anyio.fail_after(DEADLINE):
            while len(data) < count:
                more = await asyncio.get_running_loop().sock_recv(self.client, 1 << 20)
                assert more, f"the connection ended after {len(data)} of {count} bytes"
                data += more
        return bytes(data)


@asynccontextmanager
async def connected(*, buffers: int | None = None) -> AsyncIterator[Line]:
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        if buffers is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffers)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffers)
        client.connect(listener.getsockname())
        client.setblocking(False)
        server, _ = listener.accept()
        transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, server)
        try:
            yield Line(transport, client)
        finally:
            transport.abort()
            await asyncio.sleep(0)
            await asyncio.sleep(0)


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    async with connected() as found:
        yield found


@pytest.fixture
async def narrow() -> AsyncIterator[Line]:
    """A connection that holds a few thousand bytes: its client decides when more is sent."""
    async with connected(buffers=4096) as found:
        yield found


async def turns(count: int = 50) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def pages(offset: int, size: int) -> range:
    return range(offset // PAGE, (offset + size - 1) // PAGE + 1)


@dataclass
class Disk:
    """Says which pages of a file are not in the page cache, until a thread has read them."""

    file: int
    cold: set[int] = field(default_factory=set)
    probe_error: int | None = None
    read_error: int | None = None
    is_on: threading.Event = field(default_factory=threading.Event)
    waiting: threading.Event = field(default_factory=threading.Event)
    waits: int = 0
    reads: list[range] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.is_on.set()
        self._preadv = os.preadv
        self._sendfile = os.sendfile
        self._loop_thread = threading.get_ident()

    def preadv(self, file: int, buffers: Any, offset: int, flags: int = 0) -> int:
        if not os.path.sameopenfile(file, self.file):
            return self._preadv(file, buffers, offset, flags)
        wanted = pages(offset, sum(len(buffer) for buffer in buffers))
        if flags & os.RWF_NOWAIT:
            if self.probe_error is not None:
                raise OSError(self.probe_error, "probe")
            if not self.cold.isdisjoint(wanted):
                raise BlockingIOError
            return self._preadv(file, buffers, offset)
        if threading.get_ident() == self._loop_thread:
            self.broken.append(f"the loop itself reads at {offset}")
        self.waiting.set()
        self.waits += 1
        assert self.is_on.wait(DEADLINE)
        if self.read_error is not None:
            raise OSError(self.read_error, os.strerror(self.read_error))
        count = self._preadv(file, buffers, offset)
        if count:
            self.cold.difference_update(pages(offset, count))
            self.reads.append(range(offset, offset + count))
        return count

    def sendfile(self, sock: int, file: int, offset: int, size: int) -> int:
        if file == self.file and not self.cold.isdisjoint(pages(offset, size)):
            self.broken.append(f"sendfile at {offset} would have waited for the disk")
        return self._sendfile(sock, file, offset, size)


@pytest.fixture
def disk(file: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    found = Disk(file)
    monkeypatch.setattr(os, "preadv", found.preadv)
    monkeypatch.setattr(os, "sendfile", found.sendfile)
    yield found
    found.is_on.set()
    assert found.broken == []


# --- the bytes -------------------------------------------------------------------------------


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(ends=st.tuples(st.integers(0, SIZE), st.integers(0, SIZE)).map(sorted), is_narrow=...)
@example(ends=[0, SIZE], is_narrow=False)
@example(ends=[SIZE - 1, SIZE], is_narrow=False)
@example(ends=[0, 1], is_narrow=True)
@example(ends=[BURST - 1, 2 * BURST + 1], is_narrow=False)
def test_any_range_is_exact(file: int, ends: list[int], is_narrow: bool) -> None:
    start, end = ends
    if start == end:
        return
    if is_narrow:
        end = min(end, start + 200_000)

    async def send() -> None:
        async with connected(buffers=4096 if is_narrow else None) as line:
            pump = line.pump(file, start, end - start)
            running = asyncio.ensure_future(pump.run())
            assert await line.receive(end - start) == BODY[start:end]
            assert await running == pump.sent == end - start

    asyncio.run(send())


async def test_the_transport_is_free_again_for_what_follows(line: Line, file: int) -> None:
    line.transport.write(b"head")
    running = asyncio.ensure_future(line.pump(file).run())
    assert await line.receive(4 + SIZE) == b"head" + BODY
    await running
    assert not line.is_watched()
    line.transport.write(b"between")
    running = asyncio.ensure_future(line.pump(file, 5, 1000).run())
    assert await line.receive(1007) == b"between" + BODY[5:1005]
    assert await running == 1000


async def test_a_pump_tells_what_the_kernel_has_taken(narrow: Line, file: int) -> None:
    pump = narrow.pump(file)
    running = asyncio.ensure_future(pump.run())
    await eventually(lambda: pump.sent > 0)
    assert pump.sent < SIZE
    assert await narrow.receive(SIZE) == BODY
    assert await running == SIZE


# --- others' turns ---------------------------------------------------------------------------


async def test_one_turn_of_the_loop_moves_at_most_a_burst(
    line: Line, file: int, sendfiles: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client is as fast as memory: a thread that throws the bytes away."""
    loop = asyncio.get_running_loop()
    turn = 0
    calls: list[int] = []

    def tick() -> None:
        nonlocal turn
        turn += 1
        if not running.done():
            loop.call_soon(tick)

    def sendfile(sock: int, file: int, offset: int, size: int) -> int:
        calls.append(turn)
        return sendfiles(sock, file, offset, size)

    def drain() -> int:
        left = SIZE
        while left:
            left -= line.client.recv_into(bytearray(1 << 20))
        return left

    monkeypatch.setattr(os, "sendfile", sendfile)
    line.client.setblocking(True)
    line.client.settimeout(DEADLINE)
    draining = asyncio.ensure_future(asyncio.to_thread(drain))
    running = asyncio.ensure_future(line.pump(file).run())
    tick()
    await asyncio.gather(running, draining)
    assert len(calls) == len(set(calls)), "two bursts in one turn"
    assert max(call.size for call in sendfiles.made) <= BURST
    assert sendfiles.moved == SIZE


async def test_a_client_at_full_speed_holds_nobody_up(door: Door, sendfiles: Calls) -> None:
    (door.root / "small").write_bytes(b"x" * 1000)
    (door.root / "huge").touch()
    os.truncate(door.root / "huge", 8 << 30)
    with await door.request("GET /boot/huge HTTP/1.1\nHost: x\n\n") as fast:
        fast.setblocking(True)
        fast.settimeout(DEADLINE)

        def drain() -> None:
            # MSG_TRUNC: the kernel throws the bytes away, without a copy (tcp(7)).
            scratch = bytearray(1 << 20)
            try:
                while fast.recv_into(scratch, 0, socket.MSG_TRUNC):
                    pass
            except OSError:
                pass

        draining = asyncio.ensure_future(asyncio.to_thread(drain))
        await eventually(lambda: sendfiles.moved > 2 * BURST)
        for _ in range(20):
            before = sendfiles.moved
            with await door.request("GET /boot/small HTTP/1.1\nHost: x\n\n") as client:
                assert (await read_response(client))[1] == b"x" * 1000
        [transfer] = door.ledger.live
        assert transfer.total == 8 << 30
        await eventually(lambda: sendfiles.moved > before)
        fast.shutdown(socket.SHUT_RDWR)
        await draining
        reset(fast)
    await eventually(lambda: not door.ledger.live)


async def test_a_client_that_does_not_read_costs_nothing(
    narrow: Line, file: int, sendfiles: Calls
) -> None:
    running = asyncio.ensure_future(narrow.pump(file).run())

    async def has_stalled() -> bool:
        before = len(sendfiles.made)
        await anyio.sleep(0.05)
        return 0 < before == len(sendfiles.made)

    await eventually(has_stalled)
    assert len(sendfiles.made) < 50
    assert await narrow.receive(SIZE) == BODY
    await running
    useless = sum(1 for call in sendfiles.made if call.sent <= 0)
    assert useless <= len(sendfiles.made) // 2 + 1


# --- ends ------------------------------------------------------------------------------------


async def test_a_cancelled_pump_lets_go_of_the_socket(
    narrow: Line, file: int, sendfiles: Calls
) -> None:
    pump = narrow.pump(file)
    running = asyncio.ensure_future(pump.run())
    await eventually(lambda: pump.sent > 0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not narrow.is_watched()
    made = len(sendfiles.made)
    narrow.transport.write(b"after")
    assert await narrow.receive(pump.sent + 5) == BODY[: pump.sent] + b"after"
    assert len(sendfiles.made) == made


def descriptors_of(file: int) -> int:
    """How many descriptors of this process are of the same file."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found += os.path.samestat(os.fstat(int(name)), os.fstat(file))
    return found


@pytest.mark.parametrize("is_lost", [False, True])
async def test_a_pump_that_ends_does_not_wait_for_a_disk_that_hangs(
    line: Line, disk: Disk, is_lost: bool
) -> None:
    """Its caller closes the file then; the thread has a descriptor of its own until it is done."""
    disk.cold = set(pages(0, SIZE))
    disk.is_on.clear()
    before = descriptors_of(disk.file)
    pump = line.pump(disk.file)
    running = asyncio.ensure_future(pump.run())
    await eventually(disk.waiting.is_set)
    assert descriptors_of(disk.file) == before + 1
    if is_lost:
        pump.lose()
        assert await running == 0
    else:
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert not line.is_watched()
    assert descriptors_of(disk.file) == before + 1
    disk.is_on.set()
    await eventually(lambda: descriptors_of(disk.file) == before)


async def test_a_lost_pump_returns_what_was_sent(narrow: Line, file: int, sendfiles: Calls) -> None:
    pump = narrow.pump(file)
    running = asyncio.ensure_future(pump.run())
    await eventually(lambda: pump.sent > 0)
    pump.lose()
    made = len(sendfiles.made)
    assert await running == pump.sent < SIZE
    pump.lose()
    await narrow.receive(pump.sent)
    await turns()
    assert len(sendfiles.made) == made
    assert not narrow.is_watched()


async def test_a_peer_that_resets_is_an_error(narrow: Line, file: int) -> None:
    narrow.transport.pause_reading()  # asyncio itself would notice, and call lose()
    pump = narrow.pump(file)
    running = asyncio.ensure_future(pump.run())
    await eventually(lambda: pump.sent > 0)
    reset(narrow.client)
    with pytest.raises(ConnectionError):
        await running
    assert not narrow.is_watched()


@contextmanager
def failing(monkeypatch: pytest.MonkeyPatch, number: int, after: int) -> Iterator[None]:
    real = os.sendfile

    def sendfile(sock: int, file: int, offset: int, size: int) -> int:
        if offset >= after:
            raise OSError(number, os.strerror(number))
        return real(sock, file, offset, min(size, after - offset))

    with monkeypatch.context() as patch:
        patch.setattr(os, "sendfile", sendfile)
        yield


@pytest.mark.parametrize("after", [0, 100_000])
async def test_a_medium_that_fails_is_an_error(
    line: Line, file: int, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    with failing(monkeypatch, errno.EIO, after):
        pump = line.pump(file)
        with pytest.raises(OSError, match="Input/output") as caught:
            await pump.run()
    assert caught.value.errno == errno.EIO
    assert pump.sent == after
    assert not line.is_watched()


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
@pytest.mark.parametrize("after", [0, 100_000])
async def test_a_file_that_sendfile_does_not_know_is_left_to_the_caller(
    line: Line, file: int, monkeypatch: pytest.MonkeyPatch, number: int, after: int
) -> None:
    with failing(monkeypatch, number, after):
        assert await line.pump(file).run() == after
    assert not line.is_watched()


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP])
@pytest.mark.parametrize("after", [0, 1_500_000])
async def test_the_door_copies_what_sendfile_does_not_know(
    door: Door, monkeypatch: pytest.MonkeyPatch, number: int, after: int
) -> None:
    (door.root / "file").write_bytes(BODY)
    with (
        failing(monkeypatch, number, after),
        await door.request("GET /boot/file HTTP/1.1\nHost: x\n\n") as client,
    ):
        assert (await read_response(client))[1] == BODY


async def test_a_medium_that_fails_under_the_door_is_reported(
    door: Door, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (door.root / "file").write_bytes(BODY)
    with (
        failing(monkeypatch, errno.EIO, 1_000_000),
        await door.request("GET /boot/file HTTP/1.1\nHost: x\n\n") as client,
    ):
        with pytest.raises((AssertionError, ConnectionResetError)):
            await read_response(client)
        await eventually(lambda: not door.ledger.live)
    [message] = [record.getMessage() for record in caplog.records if record.levelno > 20]
    assert "could not be read to its end (Input/output error)" in message


async def test_a_file_that_shrinks_ends_the_pump(line: Line, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(BODY[: 2 * BURST])
    with (tmp_path / "file").open("rb") as file:
        pump = line.pump(file.fileno())
        running = asyncio.ensure_future(pump.run())
        received = await line.receive(2 * BURST)
        with pytest.raises(FileEnded):
            await running
    assert received == BODY[: 2 * BURST]
    assert pump.sent == 2 * BURST
    assert not line.is_watched()


# --- disks -----------------------------------------------------------------------------------


async def receive_all(line: Line, disk: Disk) -> None:
    running = asyncio.ensure_future(line.pump(disk.file).run())
    assert await line.receive(SIZE) == BODY
    assert await running == SIZE


async def test_a_file_in_the_page_cache_sees_no_thread(line: Line, disk: Disk) -> None:
    await receive_all(line, disk)
    assert disk.reads == []


@pytest.mark.parametrize(
    "cold",
    [
        [(0, SIZE)],
        [(0, 1)],
        [(SIZE - 1, 1)],
        [(BURST, BURST)],
        [(BURST - STEP, STEP)],
        [(STEP, STEP), (BURST + 2 * STEP, 2 * STEP)],
    ],
)
async def test_what_is_not_in_the_page_cache_is_read_by_a_thread_first(
    line: Line, disk: Disk, cold: list[tuple[int, int]]
) -> None:
    """`Disk` objects to a sendfile that would wait, and to a loop that reads.

    Pages leave the cache in runs: a shorter one than the steps of the probes may be overlooked.
    """
    for offset, size in cold:
        disk.cold.update(pages(offset, size))
    await receive_all(line, disk)
    assert disk.reads != []
    assert disk.cold == set()


async def test_while_a_thread_waits_for_the_disk_others_are_served(
    line: Line, disk: Disk, path: Path
) -> None:
    disk.cold = set(pages(0, SIZE))
    disk.is_on.clear()
    running = asyncio.ensure_future(line.pump(disk.file).run())
    await eventually(disk.waiting.is_set)
    assert not line.is_watched(), "the loop would be woken for a socket that has nothing to send"
    other_path = path.with_name("hot")
    other_path.write_bytes(BODY)
    async with connected() as other:
        with other_path.open("rb") as hot:
            sending = asyncio.ensure_future(other.pump(hot.fileno()).run())
            assert await other.receive(SIZE) == BODY
            assert await sending == SIZE
    assert not running.done()
    disk.is_on.set()
    assert await line.receive(SIZE) == BODY
    assert await running == SIZE


async def test_a_disk_that_fails_is_an_error(line: Line, disk: Disk) -> None:
    disk.cold = set(pages(0, SIZE))
    disk.read_error = errno.EIO
    with pytest.raises(OSError, match="Input/output") as caught:
        await line.pump(disk.file).run()
    assert caught.value.errno == errno.EIO
    assert not line.is_watched()


async def test_a_disk_that_fails_later_is_an_error(line: Line, disk: Disk) -> None:
    disk.cold = set(pages(2 * BURST, SIZE - 2 * BURST))
    disk.read_error = errno.EIO
    pump = line.pump(disk.file)
    running = asyncio.ensure_future(pump.run())
    await line.receive(BURST)
    with pytest.raises(OSError, match="Input/output"):
        await running
    assert BURST <= pump.sent <= 2 * BURST


async def test_a_disk_that_fails_when_it_is_probed_is_an_error(line: Line, disk: Disk) -> None:
    disk.probe_error = errno.EIO
    with pytest.raises(OSError, match="probe"):
        await line.pump(disk.file).run()


async def test_pages_that_leave_the_cache_while_a_client_stalls_are_read_again(
    narrow: Line, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zerocopy, "_FRESH", -1.0)
    pump = narrow.pump(disk.file)
    running = asyncio.ensure_future(pump.run())
    await eventually(lambda: pump.sent > 0)
    await turns()
    assert disk.reads == []
    disk.cold = set(pages(pump.sent + PAGE, SIZE - pump.sent - PAGE))
    monkeypatch.setattr(disk, "cold", disk.cold | set(pages(pump.sent, PAGE)))
    assert await narrow.receive(SIZE) == BODY
    assert await running == SIZE
    assert disk.reads != []


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
async def test_a_file_system_that_cannot_be_probed_is_left_to_the_caller(
    line: Line, disk: Disk, sendfiles: Calls, number: int
) -> None:
    disk.probe_error = number
    assert await line.pump(disk.file).run() == 0
    assert sendfiles.made == []
    assert not line.is_watched()


async def test_where_no_thread_is_to_be_had_the_rest_is_left_to_the_caller(
    line: Line, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    disk.cold = set(pages(BURST, SIZE - BURST))
    monkeypatch.setattr(asyncio.get_running_loop(), "run_in_executor", no_thread)
    before = descriptors_of(disk.file)
    running = asyncio.ensure_future(line.pump(disk.file).run())
    reading = asyncio.ensure_future(line.receive(SIZE))
    with anyio.fail_after(DEADLINE):
        assert 0 < await running <= BURST
    reading.cancel()
    assert descriptors_of(disk.file) == before


async def test_where_no_descriptor_is_to_be_had_the_rest_is_left_to_the_caller(
    narrow: Line, file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("bootserve.http.room.select.epoll", none_left)
    pump = narrow.pump(file)
    with anyio.fail_after(DEADLINE):
        assert 0 < await pump.run() < SIZE
    assert await narrow.receive(pump.sent) == BODY[: pump.sent]


@pytest.fixture
def memory() -> Path:
    found = Path("/dev/shm")
    mounts = [entry.split() for entry in Path("/proc/mounts").read_text().splitlines()]
    if {words[1]: words[2] for words in mounts}.get(str(found)) != "tmpfs":
        pytest.skip("/dev/shm is no tmpfs: mount one, `mount -t tmpfs tmpfs /dev/shm`")
    return found


@pytest.mark.parametrize("can_be_probed", [True, False])
async def test_a_file_system_in_memory_sees_no_thread(
    line: Line, memory: Path, monkeypatch: pytest.MonkeyPatch, can_be_probed: bool
) -> None:
    """On kernels before 6.6 tmpfs cannot be probed."""
    path = memory / f"bootserve-test-{os.getpid()}"
    try:
        path.write_bytes(BODY)
        with path.open("rb") as file:
            disk = Disk(file.fileno())
            if not can_be_probed:
                disk.probe_error = errno.EOPNOTSUPP
            monkeypatch.setattr(os, "preadv", disk.preadv)
            await receive_all(line, disk)
        assert disk.waits == 0
    finally:
        path.unlink()


# --- loops -----------------------------------------------------------------------------------


def test_only_loops_that_let_us_watch_their_sockets_are_pumped_on() -> None:
    with asyncio.Runner() as runner:
        assert can_pump(runner.get_loop())
    proactor_or_uvloop = create_autospec(asyncio.AbstractEventLoop, instance=True)
    assert not can_pump(proactor_or_uvloop)
