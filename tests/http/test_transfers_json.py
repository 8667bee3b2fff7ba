"""``GET /transfers.json``, where it is public and where it is not."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import anyio
import pytest
from starlette.types import Message

from bootserve.http import transfers
from bootserve.http.app import create_app
from bootserve.settings import load
from bootserve.watch.ledger import Ledger
from tests.family import DEADLINE, Family, family
from tests.http.conftest import Door, eventually, read_response

CONFIG = """
[http]
listen = ["127.0.0.1:0"]
[tftp]
listen = ["127.0.0.1:0"]
[assets]
roots = ["."]
[service]
runtime_dir = "run"
"""


@pytest.fixture
def public(tmp_path: Path) -> Iterator[Family]:
    with family(tmp_path, CONFIG + "[status]\npublic = true\n") as found:
        yield found


def _ask(server: Family, path: str, method: str = "GET") -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.ports()[0], timeout=DEADLINE)
    connection.request(method, path)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


def test_unless_it_is_public_nobody_learns_anything_but_how_to_change_that(tmp_path: Path) -> None:
    with family(tmp_path, CONFIG) as server:
        answer, body = _ask(server, "/transfers.json")
    assert answer.status == 404
    assert b"`public = true` in the section [status]" in body
    assert str(server.pid).encode() not in body


def test_the_same_is_told_as_to_scripts_on_the_server(public: Family) -> None:
    assert _ask(public, "/boot/bootserve.toml")[0].status == 200
    answer, body = _ask(public, "/transfers.json")
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert "transfer-encoding" not in answer.headers
    assert int(answer.headers["content-length"]) == len(body)
    said = json.loads(body)
    assert said["pid"] == public.pid
    assert said["transfers"] == []
    assert [each["name"] for each in said["recent"]] == ["bootserve.toml"]
    assert said["health"]["connections"]["open"] >= 1
    answer, body = _ask(public, "/transfers.json", "HEAD")
    assert answer.status == 200
    assert body == b""
    assert int(answer.headers["content-length"]) > 0


def test_when_the_first_byte_went_out_is_told_while_the_rest_is_on_its_way(public: Family) -> None:
    with (public.folder / "large").open("wb") as file:
        file.truncate(256 << 20)
    with socket.create_connection(("127.0.0.1", public.ports()[0]), DEADLINE) as client:
        client.sendall(b"GET /boot/large HTTP/1.1\r\nHost: x\r\n\r\n")
        data = b""
        while not data.partition(b"\r\n\r\n")[2]:
            data += client.recv(65536)
        [transfer] = json.loads(_ask(public, "/transfers.json")[1])["transfers"]
    assert 0 <= transfer["first_byte_seconds"] <= transfer["seconds"]
    assert transfer["end"] is None


def test_how_many_that_have_ended_is_said_in_the_query(public: Family) -> None:
    for _ in range(3):
        _ask(public, "/boot/bootserve.toml")
    for count in (0, 2):
        assert (
            len(json.loads(_ask(public, f"/transfers.json?recent={count}")[1])["recent"]) == count
        )
    for wrong in ("", "x", "-1", "1001"):
        answer, body = _ask(public, f"/transfers.json?recent={wrong}")
        assert answer.status == 400
        assert b"a whole number from 0 to 1000" in body


async def test_clients_that_do_not_read_are_a_few_and_others_are_told_to_come_back() -> None:
    app = create_app(load(None, {"status": {"public": True}}), ledger=Ledger())
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/transfers.json",
        "query_string": b"",
        "headers": [],
    }
    is_read = anyio.Event()
    begun = 0

    async def receive() -> Message:
        return {"type": "http.request"}

    async def stuck(_: Message) -> None:
        nonlocal begun
        begun += 1
        await is_read.wait()

    async def ask() -> tuple[int, dict[bytes, bytes]]:
        said: list[Message] = []

        async def send(message: Message) -> None:
            said.append(message)

        await app(scope, receive, send)
        return said[0]["status"], dict(said[0]["headers"])

    async def ask_and_never_read() -> None:
        await app(scope, receive, stuck)

    async with anyio.create_task_group() as readers:
        for _ in range(4):
            readers.start_soon(ask_and_never_read)
        await eventually(lambda: begun == 4)
        status, headers = await ask()
        assert status == 503
        assert headers[b"retry-after"] == b"1"
        is_read.set()
    assert (await ask())[0] == 200


@pytest.fixture
def _all_is_public(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOOTSERVE_STATUS_PUBLIC", "true")


def _has_something(client: socket.socket) -> bool:
    with contextlib.suppress(BlockingIOError):
        return bool(client.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    return False


async def _status_of(door: Door, text: str) -> str:
    with await door.request(text) as client:
        head, _ = await read_response(client)
    return head.split()[1]


def _has_been_reset(client: socket.socket) -> bool:
    return client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0


@pytest.mark.usefixtures("_all_is_public")
async def test_whoever_has_not_read_for_long_gives_way_when_another_asks(
    door: Door, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # More than the kernel's buffers hold.
    for _ in range(12_000):
        door.ledger.open(protocol="HTTP", client="x", machine=None, name="x" * 200, total=1)
    text = "GET /transfers.json HTTP/1.1\nHost: x\n\n"
    with contextlib.ExitStack() as stack:
        stuck = []
        for _ in range(4):
            client = stack.enter_context(await door.request(text, receive_buffer=4096))
            # Its answer has begun.
            await eventually(partial(_has_something, client))
            stuck.append(client)
        assert await _status_of(door, text) == "503"
        monkeypatch.setattr(transfers, "_FAIR_SHARE", 0)
        assert await _status_of(door, text) == "200"
        await eventually(partial(_has_been_reset, stuck[0]))
        # There was no need for more.
        assert not any(map(_has_been_reset, stuck[1:]))
    assert not caplog.records
