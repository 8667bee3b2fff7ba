"""All transfers on the listening port, and what an upgrade makes of that."""

from __future__ import annotations

import errno
import logging
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from .harness import Body, RawClient, Running, Shelf, serving

LARGE = random.Random(7).randbytes(300_001)
SMALL = b"#!ipxe\n"
OPTIONS = ("blksize", "1428", "windowsize", "8")


async def begin(client: RawClient, name: str = "large") -> bytes:
    """Ask for a file with windows; return its first block."""
    client.ask_for(name, *OPTIONS)
    assert (await client.receive())[:2] == b"\0\6"
    client.ack(0)
    return await client.receive()


async def go_on(client: RawClient, first: bytes) -> bytes:
    return await client.rest(first, blksize=1428, windowsize=8)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_everything_comes_from_the_listening_port(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    shelf = Shelf(large=LARGE)
    async with serving(shelf, host=host, family=family, single_port=True) as running:
        with RawClient(running.address) as client:
            assert await go_on(client, await begin(client)) == LARGE
            assert client.transfer[:2] == running.address[:2]
            client.ask_for("missing")
            assert (await client.receive())[:4] == b"\0\5\0\1"
        await running.drained()
    shelf.assert_all_closed_once()


async def test_clients_are_told_apart_by_address_and_port() -> None:
    bodies = {f"file{n}": random.Random(n).randbytes(20_000 + n) for n in range(40)}
    shelf = Shelf(**bodies)
    async with serving(shelf, single_port=True) as running:
        got: dict[str, bytes] = {}

        async def fetch(name: str) -> None:
            host = f"127.0.0.{2 + int(name[4:]) % 3}"
            with RawClient(running.address, host=host) as client:
                got[name] = await go_on(client, await begin(client, name))

        async with anyio.create_task_group() as tasks:
            for name in bodies:
                tasks.start_soon(fetch, name)
        await running.drained()
    assert got == bodies
    shelf.assert_all_closed_once()


async def test_it_leaves_from_the_address_that_was_asked() -> None:
    async with serving(Shelf(large=LARGE), host=None, single_port=True) as running:
        with RawClient(("127.0.0.5", running.port), host="127.0.0.1") as client:
            assert await go_on(client, await begin(client)) == LARGE
            assert client.transfer == ("127.0.0.5", running.port)


async def test_a_client_that_begins_anew_gets_the_new_file_only() -> None:
    shelf = Shelf(large=LARGE, script=SMALL)
    async with serving(shelf, single_port=True) as running:
        with RawClient(running.address) as client:
            await begin(client)
            client.ask_for("script")
            while (datagram := await client.receive())[4:] != SMALL:
                assert datagram[:2] == b"\0\3"  # what was on its way
            client.ack(1)
        await running.drained()
    shelf.assert_all_closed_once()
    assert running.server.quirks["restarted-on-same-port"] == 1


async def test_an_error_of_the_client_ends_its_transfer(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with serving(Shelf(large=LARGE), single_port=True) as running:
        with RawClient(running.address) as client, RawClient(running.address) as other:
            first = await begin(other)
            await begin(client)
            client.send(b"\0\5\0\3full\0")
            assert await go_on(other, first) == LARGE
        await running.drained()
    assert caplog.text.count("client reported an error (code 3: full)") == 1


class _Stubborn(socket.socket):
    """A socket whose buffer is full every second time."""

    sends = 0

    def sendmsg(self, *args: Any) -> int:
        self.sends += 1
        if self.sends % 2:
            raise OSError(errno.EAGAIN, "refused by the test")
        return super().sendmsg(*args)


async def test_a_full_buffer_is_waited_for_by_all(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    sock = _Stubborn(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    # The clients ask for a timeout of 255 s: were a block lost, this test would hang.
    options = (*OPTIONS, "timeout", "255")
    async with serving(Shelf(large=LARGE), sock=sock, single_port=True) as running:
        with RawClient(running.address) as one, RawClient(running.address) as two:
            firsts = []
            for client in (one, two):
                # Replies outside of transfers are sent once: the OACK may be lost to the buffer.
                sock.sends = 1
                client.ask_for("large", *options)
                assert (await client.receive())[:2] == b"\0\6"
                client.ack(0)
                firsts.append(await client.receive())
            async with anyio.create_task_group() as tasks:
                got: list[bytes] = []

                async def rest(client: RawClient, first: bytes) -> None:
                    got.append(await go_on(client, first))

                for client, first in zip((one, two), firsts, strict=True):
                    tasks.start_soon(rest, client, first)
            assert got == [LARGE, LARGE]
        await running.drained()
    assert "sent again" not in caplog.text


async def test_stopping_lets_transfers_come_to_their_end_and_takes_no_more() -> None:
    shelf = Shelf(large=LARGE)
    async with serving(shelf, single_port=True) as running:
        with RawClient(running.address) as client, RawClient(running.address) as late:
            first = await begin(client)
            running.server.drain()
            assert running.server.needs_sockets
            late.ask_for("large")
            assert await go_on(client, first) == LARGE
        await running.returned.wait()
    assert len(shelf.opened) == 1


# Two processes have the port. Which of both reads a datagram is the kernel's choice; here it is the
# test's: a server that is drained reads as long as it has transfers.


@asynccontextmanager
async def upgraded(old: Running, shelf: Shelf, **manners: Any) -> AsyncIterator[Running]:
    """Another server on the same socket, and the old one drained."""
    theirs = old.server.relay_to_successor()
    assert theirs is not None
    (port,) = old.server._ports
    async with serving(shelf, sock=port.sock.dup(), relay=theirs, **manners) as new:
        old.server.drain()
        yield new


@pytest.mark.parametrize("single_port", [True, False])
async def test_an_upgrade_cuts_no_transfer_and_loses_no_request(single_port: bool) -> None:
    shelf, after = Shelf(large=LARGE), Shelf(large=LARGE[::-1])
    async with serving(shelf, single_port=True) as old:
        clients = [RawClient(old.address) for _ in range(6)]
        firsts = [await begin(client) for client in clients]
        async with upgraded(old, after, single_port=single_port) as new:
            got: list[bytes] = []
            renewed: list[bytes] = []

            async def finish(client: RawClient, first: bytes) -> None:
                got.append(await go_on(client, first))

            async def ask_anew() -> None:
                with RawClient(new.address) as client:
                    renewed.append(await go_on(client, await begin(client)))

            async with anyio.create_task_group() as tasks:
                for client, first in zip(clients, firsts, strict=True):
                    tasks.start_soon(finish, client, first)
                    tasks.start_soon(ask_anew)
            await old.returned.wait()
            await new.drained()
        assert got == [LARGE] * 6
        assert renewed == [LARGE[::-1]] * 6
        for client in clients:
            client._sock.close()


async def test_a_chain_of_upgrades_cuts_nothing_either() -> None:
    shelf = Shelf(large=LARGE)
    async with serving(shelf, single_port=True) as first:
        with RawClient(first.address) as one, RawClient(first.address) as two:
            block_one = await begin(one)
            async with upgraded(first, shelf, single_port=True) as second:
                block_two = await begin(two)
                async with upgraded(second, shelf, single_port=True):
                    assert await go_on(one, block_one) == LARGE
                    await first.returned.wait()
                    assert await go_on(two, block_two) == LARGE
                    await second.returned.wait()


async def test_whoever_begins_anew_at_the_successor_hears_no_more_of_the_old_transfer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    shelf, after = Shelf(large=LARGE), Shelf(large=LARGE[::-1])
    async with serving(shelf, single_port=True) as old:
        with RawClient(old.address) as client:
            await begin(client)
            async with upgraded(old, after, single_port=True) as new:
                client.ask_for("large", *OPTIONS)
                while (await client.receive())[:2] != b"\0\6":
                    pass
                await old.returned.wait()
                client.ack(0)
                while (first := await client.receive())[:4] != b"\0\3\0\1":
                    pass
                assert await go_on(client, first) == LARGE[::-1]
                await new.drained()
    assert caplog.text.count("client asked again") == 1


async def test_without_a_successor_the_relay_is_no_hindrance() -> None:
    """An upgrade that fails leaves the old server as it was."""
    async with serving(Shelf(large=LARGE), single_port=True) as running:
        with RawClient(running.address) as client:
            first = await begin(client)
            theirs = running.server.relay_to_successor()
            assert theirs is not None
            theirs.close()
            assert await go_on(client, first) == LARGE
            assert await client.fetch("large") == LARGE
        await running.drained()


async def test_transfers_with_ports_of_their_own_need_no_relay() -> None:
    async with serving(Shelf(large=LARGE)) as running:
        assert running.server.relay_to_successor() is None


async def test_a_cold_file_and_a_slow_client_in_one() -> None:
    shelf = Shelf()
    shelf.makers["large"] = lambda: Body("large", LARGE, is_cold=True)
    async with serving(shelf, single_port=True) as running:
        with RawClient(running.address) as client:
            assert await go_on(client, await begin(client)) == LARGE
        await running.drained()
