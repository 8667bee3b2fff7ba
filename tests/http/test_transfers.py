"""What happens on the wire: slow, half-closed, vanishing and impatient clients."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
import socket
import struct
import termios
from collections.abc import Iterator

import anyio
import pytest

from bootserve.events import fields_of
from bootserve.http import protocol
from bootserve.http.door import Manners
from bootserve.watch.quiet import QuietLog
from tests.http.conftest import DEADLINE, Door, eventually, read_response, read_to_end

BIG = os.urandom(1 << 20) * 24
GET = "GET /boot/i386/initramfs HTTP/1.1\nHost: x\n\n"


@pytest.fixture(autouse=True)
def big_file(door: Door) -> None:
    (door.root / "i386").mkdir()
    (door.root / "i386" / "initramfs").write_bytes(BIG)


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """The lines that the ledger has written so far."""
    caplog.set_level(logging.INFO, "bootserve.transfer")

    class Lines(list[str]):
        pass

    found = Lines()
    handler = logging.Handler()
    handler.emit = lambda record: found.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("bootserve.transfer")
    logger.addHandler(handler)
    yield found
    logger.removeHandler(handler)


def queued_here(client: socket.socket) -> int:
    """Bytes that have arrived at the client and that it has not read (tcp(7), SIOCINQ)."""
    return int(struct.unpack("i", fcntl.ioctl(client, termios.FIONREAD, bytes(4)))[0])


async def test_a_download_is_exact_and_leaves_one_line(door: Door, lines: list[str]) -> None:
    with await door.request(GET) as client:
        head, body = await read_response(client)
        assert body == BIG
        assert "transfer-encoding" not in head.lower()
        assert "content-encoding" not in head.lower()
        await eventually(lambda: bool(lines))
    [line] = lines
    assert "127.0.0.1" in line
    assert f"i386/initramfs {len(BIG)} of {len(BIG)} bytes" in line
    assert line.endswith("complete")


async def test_a_client_that_half_closes_gets_all_of_its_answer(
    door: Door, lines: list[str]
) -> None:
    with await door.request(GET, half_close=True) as client:
        data = await read_to_end(client)
    assert data.endswith(BIG)
    await eventually(lambda: bool(lines))
    assert lines[0].endswith("complete")


async def test_a_client_that_connects_and_closes_leaves_no_descriptor(door: Door) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        with await door.request("", half_close=True) as client:
            assert await read_to_end(client) == b""
    await eventually(lambda: len(os.listdir("/proc/self/fd")) <= before)


async def test_a_stalled_client_costs_bounded_memory_and_is_not_cut(
    door: Door, lines: list[str]
) -> None:
    """The server reads on only as the client does; how long that takes is the client's affair."""
    with await door.request(GET, receive_buffer=4096) as client:
        arrived = -1

        async def has_stalled() -> bool:
            nonlocal arrived
            before, arrived = arrived, queued_here(client)
            await anyio.sleep(0.1)
            return arrived > 0 and before == arrived

        await eventually(has_stalled)
        [transfer] = door.ledger.live
        kernel_buffer = 6 << 20
        assert 0 < transfer.progress < len(BIG) // 2 + kernel_buffer
        assert lines == []
        _, body = await read_response(client)
    assert body == BIG


async def test_a_slow_client_loses_nothing_when_the_server_closes(
    door: Door, lines: list[str]
) -> None:
    """HTTP/1.0: the server closes, and what the client sends meanwhile must not reset its tail."""
    loop = asyncio.get_running_loop()
    request = "GET /boot/i386/initramfs HTTP/1.0\nRange: bytes=0-999999\n\n"
    with await door.request(request, receive_buffer=32768) as client:
        await eventually(lambda: queued_here(client) > 0)
        await loop.sock_sendall(client, b"something more\r\n" * 100)
        data = await read_to_end(client)
    assert data.endswith(BIG[:1000000])
    await eventually(lambda: bool(lines))
    assert "1000000 of 1000000 bytes" in lines[0]
    assert lines[0].endswith("complete")


async def test_a_client_that_leaves_is_reported_with_what_it_got(
    door: Door, lines: list[str]
) -> None:
    with await door.request(GET, receive_buffer=4096) as client:
        await asyncio.get_running_loop().sock_recv(client, 1000)
    await eventually(lambda: bool(lines))
    [line] = lines
    assert "client closed the connection" in line
    got = int(line.split("initramfs ")[1].split(" of ")[0])
    assert 1000 - 512 < got < len(BIG)
    assert door.ledger.live == ()


async def test_complete_is_said_only_when_the_client_has_everything(
    door: Door, lines: list[str]
) -> None:
    """A megabyte disappears in the kernel's buffers at once; that is no delivery."""
    request = "GET /boot/i386/initramfs HTTP/1.1\nHost: x\nRange: bytes=0-999999\n\n"
    with await door.request(request, receive_buffer=4096) as client:
        await eventually(lambda: queued_here(client) > 0)
        assert lines == []
    await eventually(lambda: bool(lines))
    assert "client closed the connection" in lines[0]


async def test_aborted_downloads_give_everything_back(door: Door, lines: list[str]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        with await door.request(GET) as client:
            await asyncio.get_running_loop().sock_recv(client, 1)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await eventually(lambda: len(os.listdir("/proc/self/fd")) <= before)
    await eventually(lambda: len(lines) == 50)
    assert door.ledger.live == ()


async def test_one_connection_serves_many_requests_and_pipelining(door: Door) -> None:
    part = "GET /boot/i386/initramfs HTTP/1.1\nHost: x\nRange: bytes={}-{}\n\n"
    loop = asyncio.get_running_loop()
    with await door.request(part.format(0, 99999)) as client:
        assert (await read_response(client))[1] == BIG[:100000]
        both = part.format(100000, 199999) + part.format(200000, 299999)
        await loop.sock_sendall(client, both.replace("\n", "\r\n").encode())
        data = b""
        with anyio.fail_after(DEADLINE):
            while BIG[200000:300000] not in data:
                data += await loop.sock_recv(client, 1 << 20)
        assert BIG[100000:200000] in data


async def test_a_file_that_shrinks_ends_the_connection_and_is_reported(
    door: Door, lines: list[str]
) -> None:
    with await door.request(GET, receive_buffer=4096) as client:
        await eventually(lambda: queued_here(client) > 0)
        os.truncate(door.root / "i386" / "initramfs", 100)
        with pytest.raises(ConnectionResetError):
            await read_to_end(client)
    await eventually(lambda: bool(lines))
    assert "file could not be read to its end" in lines[0]


async def test_a_replaced_file_does_not_disturb_who_reads_the_old_one(door: Door) -> None:
    with await door.request(GET, receive_buffer=4096) as client:
        await eventually(lambda: queued_here(client) > 0)
        (door.root / "new").write_bytes(b"another generation")
        (door.root / "new").rename(door.root / "i386" / "initramfs")
        assert (await read_response(client))[1] == BIG
    with await door.request(GET) as client:
        assert (await read_response(client))[1] == b"another generation"


async def test_a_malformed_request_behind_a_good_one_does_not_disturb_its_answer(
    door: Door, lines: list[str]
) -> None:
    with await door.request(GET, receive_buffer=4096) as client:
        await eventually(lambda: queued_here(client) > 0)
        await asyncio.get_running_loop().sock_sendall(client, b"\0\1\2 not HTTP\r\n\r\n")
        data = await read_to_end(client)
    assert data.endswith(BIG)
    await eventually(lambda: bool(lines))
    assert lines[0].endswith("complete")


@pytest.mark.parametrize(
    "request_text",
    ["\0\1\n\n", "GET\n\n", "GET / HTTP/9.9\n\n", "GET http://[ HTTP/1.1\n\n", "x" * 100 + "\n\n"],
)
async def test_a_malformed_request_is_refused_and_the_next_client_served(
    door: Door,
    request_text: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level("INFO", "bootserve.http")
    monkeypatch.setattr(protocol, "_malformed", QuietLog(protocol.logger))
    with await door.request(request_text) as client:
        assert (await read_to_end(client)).startswith(b"HTTP/1.1 400 ")
    assert fields_of(caplog.records[0]) == {
        "protocol": "HTTP",
        "client": "127.0.0.1",
        "reason": "malformed request",
    }
    with await door.request(GET) as client:
        assert (await read_response(client))[1] == BIG


async def test_a_file_that_is_rewritten_in_place_is_not_sent_as_two_halves(
    door: Door, lines: list[str]
) -> None:
    with await door.request(GET, receive_buffer=4096) as client:
        await eventually(lambda: queued_here(client) > 0)
        with (door.root / "i386" / "initramfs").open("r+b") as file:
            file.write(bytes(len(BIG)))
        with pytest.raises((AssertionError, ConnectionResetError)):
            await read_response(client)
    await eventually(lambda: bool(lines))
    assert "written to while it was sent" in lines[0]


async def test_a_pipelining_client_that_leaves_costs_nothing_more(
    door: Door, lines: list[str]
) -> None:
    huge = 1 << 40
    (door.root / "huge").touch()
    os.truncate(door.root / "huge", huge)
    get = "GET /boot/huge HTTP/1.1\nHost: x\n\n"
    with await door.request(get * 2, receive_buffer=4096) as client:
        await asyncio.get_running_loop().sock_recv(client, 1000)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await eventually(lambda: bool(lines) and not door.ledger.live)
    assert "client closed the connection" in lines[0]


@pytest.mark.parametrize("half_close", [False, True])
async def test_a_reset_while_nobody_reads_is_noticed(door: Door, half_close: bool) -> None:
    """With a request waiting, or after its FIN, asyncio does not look at a client's socket."""
    before = len(os.listdir("/proc/self/fd"))
    get = "GET /boot/i386/initramfs HTTP/1.1\nHost: x\nRange: bytes=0-299999\n\n"
    for _ in range(5):
        request = get if half_close else get * 2
        with await door.request(request, receive_buffer=4096, half_close=half_close) as client:
            await eventually(lambda client=client: queued_here(client) > 0)  # type: ignore[misc]
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await eventually(lambda: not door.ledger.live and not door.server.server_state.connections)
    await eventually(lambda: len(os.listdir("/proc/self/fd")) <= before)


async def test_a_request_head_without_an_end_is_refused(door: Door) -> None:
    async def flood(client: socket.socket) -> None:
        for _ in range(1000):
            await asyncio.get_running_loop().sock_sendall(client, b"a" * 65536)

    with await door.request("GET / HTTP/1.1\nX: ") as client, pytest.raises(ConnectionError):
        await flood(client)
    with await door.request(GET) as client:
        assert (await read_response(client))[1] == BIG


@pytest.mark.parametrize("begun", ["", "G", "GET / HTTP/1.1\nHost: x\n", GET + "GET /"])
async def test_a_connection_that_owes_a_request_is_closed_in_time(door: Door, begun: str) -> None:
    door.server.state.manners = Manners(head_timeout=0.2)
    with await door.request(begun) as client:
        data = await read_to_end(client)
    assert data == b"" or data.endswith(BIG)


async def test_no_head_deadline_runs_while_an_answer_is_read_slowly(
    door: Door,
) -> None:
    door.server.state.manners = Manners(head_timeout=0.1)
    with await door.request(GET, receive_buffer=4096) as client:
        await eventually(lambda: queued_here(client) > 0)
        await anyio.sleep(0.5)
        assert (await read_response(client))[1] == BIG


async def test_who_comes_when_the_door_is_closing_holds_nothing_up(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection may be accepted before, and be made after, the others were told to end."""
    monkeypatch.setattr(protocol, "_DRAIN_HEAD_TIMEOUT", 0.2)
    door.server.state.is_draining = True
    with await door.request("") as silent:
        assert await read_to_end(silent) == b""
    with await door.request(GET) as client:
        head, _, body = (await read_to_end(client)).partition(b"\r\n\r\n")
    assert b"connection: close" in head
    assert body == BIG


async def test_without_descriptors_clients_are_told_to_come_again(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """iPXE takes a 404 as final, and a 503 with Retry-After as a reason to wait."""

    def no_descriptor(*_: object, **__: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with await door.request(GET) as client:
        await read_response(client)
        monkeypatch.setattr("bootserve.catalog.assets.os.open", no_descriptor)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(client, GET.replace("\n", "\r\n").encode())
        head, _ = await read_response(client)
    assert head.startswith("HTTP/1.1 503 ")
    [retry] = [line for line in head.lower().splitlines() if line.startswith("retry-after:")]
    assert int(retry.split(":")[1]) > 0


async def test_a_file_that_fails_is_reported_once(
    door: Door, lines: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with await door.request(GET, receive_buffer=4096) as client:
        await eventually(lambda: queued_here(client) > 0)
        os.truncate(door.root / "i386" / "initramfs", 100)
        with pytest.raises((AssertionError, ConnectionResetError)):
            await read_response(client)
    await eventually(lambda: bool(lines) and not door.ledger.live)
    assert [record.getMessage() for record in caplog.records if record.levelno > 20] == lines
