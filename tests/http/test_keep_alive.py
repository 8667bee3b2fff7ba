"""A kept connection: what is promised, and that nobody meets a reset at the end of it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from tests.http.conftest import DEADLINE, Door, eventually, read_response, read_to_end
from tests.real import server

KEEP_ALIVE = 11
"""Seconds; the least that may be configured."""

CLIENTS = 200

BODY = b"x" * 1000
GET = b"GET /boot/file HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /boot/file HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n" + BODY


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """A server in a process of its own: its event loop is not that of its clients."""
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "file").write_bytes(BODY)
    config = tmp_path / "bootserve.toml"
    config.write_text(
        f'[http]\nlisten = ["127.0.0.1:0"]\nkeep_alive = {KEEP_ALIVE}\n'
        '[tftp]\nlisten = "off"\n[assets]\nroots = ["root"]\n'
    )
    process = server.start(config)
    try:
        yield int(process.wait_for(r"^HTTP .*http://127\.0\.0\.1:(\d+)", 10)[1])
    finally:
        process.stop()


async def _exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
) -> bytes:
    """Send a request, return its answer; empty if the server has closed instead."""
    writer.write(request)
    await writer.drain()
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        more = await reader.read(1)
        if not more:
            assert not head, "closed in the middle of an answer"
            return b""
        head += more
    found = re.search(rb"content-length: (\d+)", head)
    assert found
    return head + await reader.readexactly(int(found[1]))


async def _use_again(port: int, request: bytes, after: float) -> list[bytes]:
    """Use a connection twice, the second time so many seconds after the first answer came."""
    loop = asyncio.get_running_loop()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        first = await _exchange(reader, writer, request)
        await anyio.sleep_until(loop.time() + after)
        return [first, await _exchange(reader, writer, request)]
    finally:
        writer.close()


async def test_nobody_meets_a_reset_at_the_end_of_the_time(port: int) -> None:
    """In the time that is promised: an answer. At its very end beyond that: an answer, or an end of
    file, by which every client knows that it has to ask again.
    """
    in_time = [float(KEEP_ALIVE)] * CLIENTS
    at_the_end = [KEEP_ALIVE + 2 + (n - CLIENTS / 2) / 100 for n in range(CLIENTS)]
    requests = itertools.cycle([GET, POST])
    with anyio.fail_after(DEADLINE):
        exchanges = await asyncio.gather(
            *(_use_again(port, next(requests), after) for after in in_time + at_the_end)
        )
    for first, _ in exchanges:
        assert f"keep-alive: timeout={KEEP_ALIVE}\r\n".encode() in first
        assert b"connection: keep-alive\r\n" in first
    answers = [second for _, second in exchanges]
    status = (b"HTTP/1.1 200", b"HTTP/1.1 405")
    assert all(one.startswith(status) for one in answers[:CLIENTS])
    assert all(not one or one.startswith(status) for one in answers[CLIENTS:])
    assert any(answers[CLIENTS:]), "none came before the end"
    assert not all(answers[CLIENTS:]), "none came after the end"


async def test_a_connection_that_is_not_kept_promises_nothing(door: Door) -> None:
    (door.root / "file").write_bytes(BODY)
    with await door.request("GET /boot/file HTTP/1.1\nHost: x\nConnection: close\n\n") as client:
        answer = await read_to_end(client)
    assert b"keep-alive" not in answer.lower()
    assert b"connection: close" in answer.lower()


async def test_idleness_begins_anew_with_each_answer(door: Door) -> None:
    (door.root / "file").write_bytes(BODY)
    with await door.request("GET /boot/file HTTP/1.1\nHost: x\n\n") as client:
        await read_response(client)
        await eventually(lambda: door.server.state.idle == 1)
        with await door.request("GET /boot/file HTTP/1.1\nHost: x\n\n") as other:
            await read_response(other)
            await eventually(lambda: door.server.state.idle == 2)
            await asyncio.get_running_loop().sock_sendall(client, GET)
            await read_response(client)
            await eventually(lambda: door.server.state.idle == 2)
            # The one that was used last goes last.
            assert door.server.state.close_idle(asyncio.get_running_loop().time()) == 1
            assert await read_to_end(other) == b""
            await asyncio.get_running_loop().sock_sendall(client, GET)
            await read_response(client)


async def test_the_time_of_a_slow_client_begins_when_it_has_everything(door: Door) -> None:
    """The kernel took all of it long before: that is no beginning of idleness."""
    door.server.config.timeout_keep_alive = 2
    (door.root / "file").write_bytes(bytes(30_000))
    loop = asyncio.get_running_loop()
    with await door.request("GET /boot/file HTTP/1.1\nHost: x\n\n", receive_buffer=4096) as client:
        await eventually(lambda: door.server.state.idle == 1)
        begun = loop.time()
        await anyio.sleep_until(begun + 1.8)
        await read_response(client)
        await anyio.sleep_until(begun + 3.2)
        await loop.sock_sendall(client, GET)
        assert (await read_response(client))[0].startswith("HTTP/1.1 200")


@pytest.mark.parametrize("noise", [b"\r\n", b"x"])
async def test_what_is_no_request_does_not_lengthen_the_time(door: Door, noise: bytes) -> None:
    door.server.config.timeout_keep_alive = 1
    (door.root / "file").write_bytes(BODY)
    loop = asyncio.get_running_loop()
    begin = "POST /boot/file HTTP/1.1\nHost: x\nContent-Length: 1000000\n\n"
    with await door.request(begin) as client:
        assert (await read_response(client))[0].startswith("HTTP/1.1 405")
        with anyio.fail_after(DEADLINE), contextlib.suppress(ConnectionError):
            while True:
                await loop.sock_sendall(client, noise)
                await anyio.sleep(0.1)
    await eventually(lambda: door.budget.connections == 0)


async def test_a_body_that_is_only_announced_is_not_waited_for(door: Door) -> None:
    begin = "POST / HTTP/1.1\nHost: x\nContent-Length: 10\nExpect: 100-continue\n\n"
    with await door.request(begin) as client:
        answer = await read_to_end(client)
    assert answer.startswith(b"HTTP/1.1 405")
    assert b"connection: close" in answer
    assert b"keep-alive" not in answer


async def test_a_download_that_is_kept_goes_on_to_be_kept_when_another_process_takes_over(
    door: Door,
) -> None:
    """Its head has promised that; the answer to the next request takes the promise back."""
    (door.root / "big").write_bytes(bytes(8 << 20))
    loop = asyncio.get_running_loop()
    with await door.request("GET /boot/big HTTP/1.1\nHost: x\n\n", receive_buffer=4096) as client:
        await eventually(lambda: len(door.ledger.live) == 1)
        door.server.state.has_successor = True
        door.server.should_exit = True
        await eventually(lambda: door.server.state.is_draining)
        head, body = await read_response(client)
        assert "keep-alive: timeout=" in head
        assert len(body) == 8 << 20
        await loop.sock_sendall(client, b"GET /boot.ipxe HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = await read_to_end(client)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"connection: close" in answer
