"""The event loop with direct readers: asyncio's, with one more way to be called."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bootserve.loop import DirectLoop, add_direct_reader, remove_direct_reader

DEADLINE = 20.0
"""Seconds after which a test that hangs fails."""


@contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        ours.setblocking(False)
        yield ours, theirs


@contextmanager
def match(hits: list[bytes]) -> Iterator[None]:
    """Two sockets that answer each other while the block lasts; ``hits`` gets each ball."""
    with pair() as (ours, theirs):
        theirs.setblocking(False)

        def bounce(here: socket.socket) -> bool:
            hits.append(here.recv(100))
            here.send(hits[-1])
            return True

        add_direct_reader(ours, lambda: bounce(ours))
        add_direct_reader(theirs, lambda: bounce(theirs))
        ours.send(b"ball")
        yield
        remove_direct_reader(ours)
        remove_direct_reader(theirs)


def run(main: object, factory: type[asyncio.AbstractEventLoop] = DirectLoop) -> None:
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(asyncio.wait_for(main, DEADLINE))  # type: ignore[arg-type]


@pytest.mark.parametrize("factory", [DirectLoop, asyncio.SelectorEventLoop])
def test_a_reader_gets_everything_on_any_loop(factory: type[asyncio.AbstractEventLoop]) -> None:
    got = []

    async def main() -> None:
        done = asyncio.Event()
        with pair() as (ours, theirs):

            def read() -> bool:
                got.append(ours.recv(100))
                if len(got) == 3:
                    done.set()
                return False

            add_direct_reader(ours, read)
            for word in (b"one", b"two", b"three"):
                theirs.send(word)
            await done.wait()
            remove_direct_reader(ours)
            theirs.send(b"four")
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    run(main(), factory)
    assert got == [b"one", b"two", b"three"]


def test_while_readers_are_quiet_the_rest_of_the_loop_goes_on() -> None:
    """Two sockets that answer each other for ever, and the loop itself asleep."""
    hits: list[bytes] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        from_thread = asyncio.Event()
        with match(hits), pair() as (ordinary, other):
            await asyncio.sleep(0.02)  # a timer
            thread = threading.Thread(target=loop.call_soon_threadsafe, args=(from_thread.set,))
            thread.start()
            await from_thread.wait()
            thread.join()
            other.send(b"for an ordinary reader")
            assert await loop.sock_recv(ordinary, 100) == b"for an ordinary reader"

    run(main())
    assert len(hits) > 2


def test_what_is_scheduled_has_its_turn_between_any_two_looks_at_the_readers() -> None:
    hits: list[bytes] = []
    steps = 100

    async def main() -> None:
        with match(hits):
            for _ in range(steps):
                await asyncio.sleep(0)

    run(main())
    assert 0 < len(hits) <= 2 * (steps + 1)


def test_a_timer_that_a_reader_sets_is_kept_although_the_loop_slept_for_longer() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pair() as (ours, theirs):
            rung = asyncio.Event()

            def read() -> bool:
                ours.recv(100)
                loop.call_later(0.01, rung.set)
                return False

            add_direct_reader(ours, read)
            theirs.send(b"ring")
            await rung.wait()
            remove_direct_reader(ours)

    run(main())


def test_a_reader_that_fails_is_reported_and_called_again() -> None:
    reports = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: reports.append(context["exception"]))
        done = asyncio.Event()
        with pair() as (ours, theirs):

            def read() -> bool:
                if ours.recv(100) == b"bad":
                    raise ValueError("bad")
                done.set()
                return False

            add_direct_reader(ours, read)
            theirs.send(b"bad")
            theirs.send(b"good")
            await done.wait()
            remove_direct_reader(ours)

    run(main())
    assert [str(error) for error in reports] == ["bad"]


def test_a_socket_with_a_direct_reader_can_be_waited_for_as_a_writer() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pair() as (ours, theirs):
            got = asyncio.Queue[bytes]()

            def read() -> bool:
                got.put_nowait(ours.recv(100))
                return False

            add_direct_reader(ours, read)
            writable = asyncio.Event()
            loop.add_writer(ours, writable.set)
            theirs.send(b"one")
            assert await got.get() == b"one"
            await writable.wait()
            loop.remove_writer(ours)
            theirs.send(b"two")
            assert await got.get() == b"two"
            loop.add_writer(ours, writable.set)
            remove_direct_reader(ours)
            writable.clear()
            await writable.wait()
            loop.remove_writer(ours)

    run(main())


def test_a_descriptor_can_be_closed_and_used_again() -> None:
    async def main() -> None:
        for _ in range(3):
            with pair() as (ours, theirs):
                done = asyncio.Event()
                add_direct_reader(ours, lambda done=done: done.set() or False)  # type: ignore[misc]
                theirs.send(b"x")
                await done.wait()
                remove_direct_reader(ours)
                remove_direct_reader(ours)

    run(main())


def test_streams_servers_and_child_processes_work() -> None:
    async def main() -> None:
        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.read())
            await writer.drain()
            writer.close()

        body = bytes(3_000_000)
        async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
            host, port = server.sockets[0].getsockname()
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(body)
            writer.write_eof()
            assert await reader.read() == body
            writer.close()
            await writer.wait_closed()
        process = await asyncio.create_subprocess_exec(
            "cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate(body)
        assert out == body

    run(main())
