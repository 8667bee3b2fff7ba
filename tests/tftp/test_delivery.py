"""A delivery on a socket that has no room, and on ones whose peer is gone."""

from __future__ import annotations

import errno
import logging
import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import pytest

from bootserve.tftp.blocks import Layout, Pieces, per_piece
from bootserve.tftp.delivery import Delivery
from bootserve.tftp.options import Terms
from bootserve.tftp.session import ReadSession
from bootserve.tftp.wire import OwnPort
from bootserve.watch.ledger import End, Ledger
from bootserve.watch.quiet import QuietLog

from .harness import DEADLINE, Body, RawClient

CONTENT = random.Random(5).randbytes(40 * 512 + 5)


class Reluctant(socket.socket):
    """A socket that refuses every second send with one of the errors given, in turn.

    With ``is_old`` it knows nothing of segmentation (UDP_SEGMENT), as kernels before 4.18.
    """

    def __init__(self, *errors: int, is_old: bool = False) -> None:
        super().__init__(socket.AF_INET, socket.SOCK_DGRAM)
        self.setblocking(False)
        self.errors = list(errors)
        self.refused = 0
        self.sends = 0
        self._is_old = is_old
        self._is_willing = False

    def setsockopt(self, *args: Any) -> None:
        if self._is_old:
            raise OSError(errno.ENOPROTOOPT, "refused by the test")
        super().setsockopt(*args)

    def send(self, *args: Any) -> int:
        self.sends += 1
        self._is_willing = not self._is_willing
        if self._is_willing or not self.errors:
            return super().send(*args)
        self.refused += 1
        number = self.errors.pop(0)
        raise OSError(number, "refused by the test")


@contextmanager
def delivered(
    tasks: anyio.abc.TaskGroup, sock: socket.socket, body: Body, terms: Terms
) -> Iterator[tuple[RawClient, anyio.Event, Ledger]]:
    ledger = Ledger()
    ended = anyio.Event()
    sock.bind(("127.0.0.1", 0))
    with RawClient(sock.getsockname()) as client:
        sock.connect(client._sock.getsockname())
        delivery = Delivery(
            wire=OwnPort(sock),
            source=body,
            layout=Layout(body.size, terms.blksize, per_piece(terms.blksize, terms.windowsize, 1)),
            pieces=Pieces(),
            session=ReadSession(size=body.size, terms=terms, now=anyio.current_time()),
            entry=ledger.open(
                protocol="tftp", client="test", machine=None, name="f", total=body.size
            ),
            spawn=lambda task: tasks.start_soon(task),
            on_end=lambda end: ended.set(),
            quiet=QuietLog(logging.getLogger("bootserve.tftp")),
        )
        delivery.start()
        yield client, ended, ledger
        delivery.stop(End.SERVER_STOPPED)
    assert not ledger.live
    assert body.closed == 1


@pytest.mark.parametrize("is_old", [True, False])
@pytest.mark.parametrize("is_cold", [True, False])
@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOBUFS, errno.ENETUNREACH])
async def test_what_the_socket_does_not_take_comes_later(
    number: int, is_cold: bool, is_old: bool
) -> None:
    terms = Terms(512, 8, None, (("windowsize", "8"),))
    sock = Reluctant(*[number] * 2, is_old=is_old)
    body = Body("f", CONTENT, is_cold=is_cold)
    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as tasks:
            with delivered(tasks, sock, body, terms) as (client, ended, _):
                assert (await client.receive())[:2] == b"\0\6"
                client.ack(0)
                assert await client.rest(await client.receive(), windowsize=8) == CONTENT
                await ended.wait()
    assert sock.refused == 2


@pytest.mark.parametrize(("is_old", "sends"), [(False, 1 + 6), (True, 1 + 41)])
async def test_a_window_goes_out_in_one_system_call(is_old: bool, sends: int) -> None:
    terms = Terms(512, 8, 255, (("windowsize", "8"),))
    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as tasks:
            sock = Reluctant(is_old=is_old)
            with delivered(tasks, sock, Body("f", CONTENT), terms) as (client, ended, _):
                await client.receive()
                client.ack(0)
                assert await client.rest(await client.receive(), windowsize=8) == CONTENT
                await ended.wait()
    assert sock.sends == sends


@pytest.mark.parametrize("is_old", [True, False])
async def test_a_full_buffer_is_waited_for_and_costs_no_retransmission(
    caplog: pytest.LogCaptureFixture, is_old: bool
) -> None:
    caplog.set_level(logging.INFO)
    # The client asked for a timeout of 255 s: were anything lost, this test would hang.
    terms = Terms(512, 8, 255, (("windowsize", "8"),))
    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as tasks:
            sock = Reluctant(*[errno.EAGAIN] * 30, is_old=is_old)
            with delivered(tasks, sock, Body("f", CONTENT), terms) as (client, ended, _):
                await client.receive()
                client.ack(0)
                assert await client.rest(await client.receive(), windowsize=8) == CONTENT
                await ended.wait()
    assert caplog.messages[0].endswith("complete")
    assert "sent again" not in caplog.text


async def test_one_refused_datagram_is_no_end() -> None:
    # ECONNREFUSED from send() is about an earlier datagram: this one must still go out.
    terms = Terms(512, 4, 255, (("windowsize", "4"),))
    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as tasks:
            sock = Reluctant(*[errno.ECONNREFUSED] * 2)
            with delivered(tasks, sock, Body("f", CONTENT), terms) as (client, ended, _):
                await client.receive()
                client.ack(0)
                assert await client.rest(await client.receive(), windowsize=4) == CONTENT
                await ended.wait()
    assert sock.refused == 2


async def test_stopping_twice_gives_everything_back_once() -> None:
    body = Body("f", CONTENT)
    async with anyio.create_task_group() as tasks:
        sock = Reluctant()
        with delivered(tasks, sock, body, Terms()) as (_, ended, ledger):
            assert len(ledger.live) == 1
            for _ in range(2):
                sock_is_open = sock.fileno() >= 0
                assert sock_is_open != ended.is_set()
    assert sock.fileno() < 0
