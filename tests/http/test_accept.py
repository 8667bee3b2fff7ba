"""When the HTTP door counts as broken, which is a reason to start the process anew."""

from __future__ import annotations

import asyncio
import socket

import pytest

from bootserve.http import accept
from bootserve.http.accept import Acceptor
from bootserve.http.door import DoorState
from tests.http.conftest import Door, eventually, read_response

GET = "GET /boot/file HTTP/1.1\nHost: x\n\n"


def _problem(door: Door) -> str | None:
    return door.server.problem


async def test_a_door_that_cannot_accept_says_so_until_it_can_again(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accept, "_RETRY", 0.01)
    (door.root / "file").write_bytes(b"content")
    assert _problem(door) is None
    listener = door.server._acceptors[0]._listener
    listener.shutdown(socket.SHUT_RD)
    await eventually(lambda: _problem(door) is not None)
    assert _problem(door) == "HTTP: cannot accept, see the log"
    listener.listen()
    # Nobody has to come for that.
    await eventually(lambda: _problem(door) is None)
    door.port = listener.getsockname()[1]  # the kernel has given the first one up
    with await door.request(GET) as client:
        assert await read_response(client)


async def test_a_door_that_waits_for_descriptors_is_not_broken(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accept, "_RETRY", 0.01)
    (door.root / "file").write_bytes(b"content")
    taken = [1 << 30]
    door.budget.limit, door.budget.ceiling = 100, 90
    door.budget.count(lambda: taken[0])
    with await door.request(GET) as client:
        await eventually(lambda: not door.server._acceptors[0]._is_listening)
        assert _problem(door) is None
        taken[0] = 0
        assert await read_response(client)


async def test_a_socket_that_was_closed_is_noticed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        acceptor = Acceptor(listener, asyncio.Protocol, DoorState(), None)
        assert acceptor.problem is None
    assert str(acceptor.problem) == "HTTP: a listening socket was closed"
    acceptor.stop()
    assert acceptor.problem is None
