"""The server on real sockets, datagram by datagram."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import random
import socket

import anyio
import pytest

from bootserve.catalog.assets import READ_SIZE, AssetForbidden, Assets, Source
from bootserve.events import fields_of
from bootserve.tftp import session
from bootserve.tftp.blocks import PIECE
from bootserve.tftp.netascii import NetasciiRefused, NetasciiTexts, encode
from bootserve.tftp.packet import Error, ErrorCode, parse
from bootserve.tftp.server import TftpRequestInfo
from bootserve.watch.ledger import End
from tests.http.conftest import eventually

from .harness import Body, RawClient, Shelf, serving

SMALL = b"#!ipxe\nshell\n"
LARGE = random.Random(3).randbytes(3 * READ_SIZE + 77)


def error(datagram: bytes) -> Error:
    packet = parse(datagram)
    assert isinstance(packet, Error)
    return packet


@pytest.mark.parametrize(
    ("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
)
async def test_a_file_on_both_families(family: socket.AddressFamily, host: str) -> None:
    shelf = Shelf(script=SMALL, large=LARGE)
    async with serving(shelf, family=family, host=host) as running:
        with RawClient(running.address) as client:
            assert await client.fetch("script") == SMALL
            assert client.transfer[0] == host
            assert client.transfer[1] != running.port
            assert await client.fetch("large") == LARGE
        await running.drained()
    shelf.assert_all_closed_once()


@pytest.mark.parametrize("asked", ["127.0.0.1", "127.0.0.2", "127.9.8.7"])
async def test_the_answer_comes_from_the_address_that_was_asked(asked: str) -> None:
    shelf = Shelf(script=SMALL)
    async with serving(shelf, host=None) as running:
        with RawClient((asked, running.port), host="127.0.0.1") as client:
            assert await client.fetch("script") == SMALL
            assert client.transfer[0] == asked
            client.ask_for("missing")
            assert error(await client.receive()).code == ErrorCode.FILE_NOT_FOUND
            assert client.transfer == (asked, running.port)
    assert {info.local for info in shelf.asked} == {asked}
    assert {info.client for info in shelf.asked} == {"127.0.0.1"}


async def test_a_request_to_a_broadcast_address_is_ignored(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    shelf = Shelf(script=SMALL)
    async with serving(shelf, host=None) as running:
        with RawClient(("127.255.255.255", running.port), host="127.0.0.1") as client:
            client._sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            for name in ("script", "missing"):
                client.ask_for(name)
            # An answer to one of those would come before this one's.
            client.server = ("127.0.0.1", running.port)
            assert await client.fetch("script") == SMALL
    assert len(shelf.asked) == 1
    assert "TFTP 127.0.0.1 asked a broadcast address, ignored" in caplog.text


async def test_a_wildcard_socket_for_ipv6_answers_too() -> None:
    async with serving(Shelf(script=SMALL), host=None, family=socket.AF_INET6) as running:
        with RawClient(("::1", running.port)) as client:
            assert await client.fetch("script") == SMALL
            client.ask_for("missing")
            assert error(await client.receive()).code == ErrorCode.FILE_NOT_FOUND


async def test_options_and_windows() -> None:
    async with serving(Shelf(large=LARGE)) as running:
        with RawClient(running.address) as client:
            client.ask_for("large", "BLKSIZE", "1428", "tsize", "0", "windowsize", "16", "x", "y")
            oack = b"\0\6BLKSIZE\x001428\0tsize\0%d\0windowsize\x0016\0" % len(LARGE)
            assert await client.receive() == oack
            client.ack(0)
            first = await client.receive()
            assert await client.rest(first, blksize=1428, windowsize=16) == LARGE


async def test_large_blocks_in_small_windows() -> None:
    async with serving(Shelf(large=LARGE)) as running:
        with RawClient(running.address) as client:
            client.ask_for("large", "blksize", "65464", "windowsize", "64")
            assert await client.receive() == b"\0\6blksize\x0065464\0windowsize\x002\0"
            client.ack(0)
            first = await client.receive()
            assert await client.rest(first, blksize=65464, windowsize=2) == LARGE


async def test_ovmf_refuses_the_oack_and_asks_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    shelf = Shelf(large=LARGE)
    async with serving(shelf) as running:
        with RawClient(running.address) as client:
            client.ask_for("large", "tsize", "0", "blksize", "1468", "windowsize", "4")
            assert (await client.receive())[:2] == b"\0\6"
            client.send(b"\0\5\0\x08User aborted the transfer\0")
            client.ask_for("large", "blksize", "1468", "windowsize", "4")
            oack = b"\0\6blksize\x001468\0windowsize\x004\0"
            while await client.receive() != oack:
                pass
            client.ack(0)
            first = await client.receive()
            assert await client.rest(first, blksize=1468, windowsize=4) == LARGE
        await running.drained()
    shelf.assert_all_closed_once()
    ends = [record.getMessage() for record in caplog.records]
    assert len(ends) == 2
    assert not [record for record in caplog.records if record.levelname != "INFO"]
    assert ends[1].endswith("complete")


async def test_an_upload_is_refused() -> None:
    async with serving(Shelf(script=SMALL)) as running:
        with RawClient(running.address) as client:
            client.ask(b"\0\2script\0octet\0")
            assert await client.receive() == b"\0\5\0\2this server is read-only\0"


@pytest.mark.parametrize("mode", ["mail", "binary", "octets"])
async def test_other_modes_are_refused(mode: str) -> None:
    async with serving(Shelf(script=SMALL)) as running:
        with RawClient(running.address) as client:
            client.ask_for("script", mode=mode)
            assert error(await client.receive()).code == ErrorCode.ILLEGAL_OPERATION


async def test_what_cannot_be_opened(tmp_path: object) -> None:
    failures = {
        "forbidden": (AssetForbidden("forbidden", "leads out"), ErrorCode.ACCESS_VIOLATION),
        "broken": (OSError(5, "Input/output error"), ErrorCode.NOT_DEFINED),
        "defect": (ZeroDivisionError(), ErrorCode.NOT_DEFINED),
    }

    async def opener(info: TftpRequestInfo) -> Source:
        raise failures[info.name][0]

    async with serving(opener) as running:
        with RawClient(running.address) as client:
            for name, (_, code) in failures.items():
                client.ask_for(name)
                assert error(await client.receive()).code == code
        await running.drained()


async def test_a_directory_is_not_found(tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("assets")
    (root / "x86_64").mkdir()
    (root / "x86_64" / "größe").write_bytes(SMALL)
    assets = Assets([root])
    async with serving(lambda info: assets.open(info.name)) as running:
        with RawClient(running.address) as client:
            for name in ("x86_64", "x86_64/", "/", "", "..", "../../etc/passwd", "a" * 400):
                client.ask_for(name)
                assert error(await client.receive()).code == ErrorCode.FILE_NOT_FOUND
            client.ask(b"\0\1gr\xf6\xdfe\0octet\0")
            assert error(await client.receive()).code == ErrorCode.FILE_NOT_FOUND
            assert await client.fetch("x86_64/größe") == SMALL


MALFORMED = [
    b"\0\0",
    b"\0\1",
    b"\0\1script",
    b"\0\1script\0",
    b"\0\1script\0\xff\0",
    b"\0\2script",
    b"\xff\xff\xff\xff",
    b"\0\1" + b"a" * 5000 + b"\0octet\0",
]
SILENT = [
    b"",
    b"\0",
    b"\0\3\0\1data",
    b"\0\4\0\1",
    b"\0\4",
    b"\0\5\0\0error\0",
    b"\0\5",
    b"\0\6blksize\x008\0",
]


async def test_malformed_datagrams_get_an_error_and_harm_nobody() -> None:
    async with serving(Shelf(script=SMALL)) as running:
        with RawClient(running.address) as client:
            for datagram in MALFORMED:
                client.ask(datagram)
                assert await client.receive() == b"\0\5\0\4malformed packet\0", datagram
            assert await client.fetch("script") == SMALL


async def test_what_belongs_to_no_transfer_gets_no_answer() -> None:
    async with serving(Shelf(script=SMALL)) as running:
        with RawClient(running.address) as client:
            for datagram in SILENT:
                client.ask(datagram)
            # An answer to one of those would come before this one's.
            assert await client.fetch("script") == SMALL


async def test_a_flood_of_malformed_datagrams_is_no_flood_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    async with serving(Shelf(script=SMALL)) as running:
        with RawClient(running.address) as client:
            for _ in range(20):
                for _ in range(25):
                    client.ask(b"\0\1\x1b[31m")
                for _ in range(25):
                    await client.receive()
            assert await client.fetch("script") == SMALL
        await running.drained()
    lines = [record for record in caplog.records if "malformed" in record.getMessage()]
    assert 1 <= len(lines) <= 50
    assert {fields_of(line)["client"] for line in lines} == {"127.0.0.1"}
    assert "\x1b" not in caplog.text


@pytest.mark.parametrize("level", ["INFO", "WARNING"])
async def test_a_service_that_answers_everything_is_not_answered_for_ever(
    level: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(level, "bootserve")
    async with serving(Shelf(script=SMALL)) as running:
        with RawClient(running.address) as chargen, RawClient(running.address) as other:
            answers = 0
            while answers < 100:
                chargen.ask(b' !"#$%&')
                with anyio.move_on_after(0.2):
                    assert error(await chargen.receive()).code == ErrorCode.ILLEGAL_OPERATION
                    answers += 1
                    continue
                break
            assert 1 <= answers <= 50
            other.ask(b"\0\1broken")
            assert error(await other.receive()).code == ErrorCode.ILLEGAL_OPERATION


async def test_noise_on_the_transfers_port_is_ignored() -> None:
    async with serving(Shelf(large=LARGE)) as running:
        with RawClient(running.address) as client:
            client.ask_for("large", "blksize", "1428")
            await client.receive()
            for noise in (*MALFORMED, b"\0\3\0\1data", b"\0\6x\0y\0", b"\0\4\0\7", b"\0"):
                client.send(noise)
            client.ack(0)
            assert await client.rest(await client.receive(), blksize=1428) == LARGE


async def test_refused_names_are_harmless_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with serving(Shelf()) as running:
        with RawClient(running.address) as client:
            client.ask_for("x\nforged line\x1b[31m")
            assert error(await client.receive()).code == ErrorCode.FILE_NOT_FOUND
        await running.drained()
    (record,) = caplog.records
    assert record.levelname == "INFO"
    assert record.getMessage() == (
        r'TFTP 127.0.0.1 "x\nforged line\x1b[31m" refused: is not on the shelf'
    )


async def test_three_hundred_at_once() -> None:
    body = LARGE[:50_000]
    shelf = Shelf(kernel=body)
    async with serving(shelf) as running:
        clients = [RawClient(running.address) for _ in range(300)]
        found: list[bytes] = []

        async def download(client: RawClient) -> None:
            first = await client.receive()
            assert first == b"\0\6blksize\x001428\0windowsize\x004\0"
            client.ack(0)
            first = await client.receive()
            found.append(await client.rest(first, blksize=1428, windowsize=4))

        for client in clients:
            client.ask_for("kernel", "blksize", "1428", "windowsize", "4")
        async with anyio.create_task_group() as tasks:
            for client in clients:
                tasks.start_soon(download, client)
        for client in clients:
            client._sock.close()
        assert found == [body] * 300
        await running.drained()
    assert len(shelf.opened) == 300
    shelf.assert_all_closed_once()


async def test_transfers_go_on_while_many_requests_wait() -> None:
    waiting = 200
    shelf = Shelf(large=LARGE)
    async with serving(shelf) as running:
        with RawClient(running.address) as client, RawClient(running.address) as crowd:
            client.ask_for("large")
            await client.receive()
            for number in range(waiting):
                crowd.ask_for(f"missing-{number}")
            for block in range(1, 5):
                client.ack(block)
                assert (await client.receive())[2:4] == (block + 1).to_bytes(2)
            assert len(shelf.asked) < waiting
            await eventually(lambda: len(shelf.asked) == 1 + waiting)


async def test_too_many_at_once_are_told_so() -> None:
    async with serving(Shelf(large=LARGE), max_sessions=2) as running:
        clients = [RawClient(running.address) for _ in range(3)]
        for client in clients[:2]:
            client.ask_for("large", "blksize", "1428")
            assert (await client.receive())[:2] == b"\0\6"
            client.ack(0)
        first = [await client.receive() for client in clients[:2]]
        assert running.server.sessions == 2
        clients[2].ask_for("large")
        assert error(await clients[2].receive()).message.startswith("server busy")
        assert running.server.refused == 1
        for client, block in zip(clients[:2], first, strict=True):
            assert await client.rest(block, blksize=1428) == LARGE
        await running.drained()
        for client in clients:
            client._sock.close()


async def test_one_address_may_not_take_every_place() -> None:
    async with serving(Shelf(large=LARGE), max_sessions=10, max_sessions_per_client=2) as running:
        clients = [RawClient(running.address) for _ in range(3)]
        first = []
        for client in clients[:2]:
            client.ask_for("large", "blksize", "1428")
            assert (await client.receive())[:2] == b"\0\6"
            client.ack(0)
            first.append(await client.receive())
        clients[2].ask_for("large")
        message = error(await clients[2].receive()).message
        assert message == "server busy: too many transfers to this address, try again"
        with RawClient(running.address, host="127.0.0.2") as elsewhere:
            assert await elsewhere.fetch("large") == LARGE
        # Places are given back, whoever had them.
        assert await clients[0].rest(first[0], blksize=1428) == LARGE
        assert await clients[2].fetch("large") == LARGE
        assert await clients[1].rest(first[1], blksize=1428) == LARGE
        await running.drained()
        for client in clients:
            client._sock.close()


async def test_requests_with_a_clients_address_do_not_lock_it_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    async with serving(Shelf(large=LARGE), max_sessions=100, max_sessions_per_client=3) as running:
        forged = [RawClient(running.address) for _ in range(20)]
        for client in forged:
            client.ask_for("large")
            assert (await client.receive())[:4] == b"\0\3\0\1"
            assert running.server.sessions <= 3
        with RawClient(running.address) as real:
            assert await real.fetch("large") == LARGE
        assert caplog.text.count("made room for another") == 18
        for client in forged:
            client._sock.close()


async def test_requests_from_nobody_lock_nobody_out(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with serving(Shelf(large=LARGE), max_sessions=2) as running:
        with RawClient(running.address) as real, RawClient(running.address) as forged:
            real.ask_for("large", "blksize", "1428")
            assert (await real.receive())[:2] == b"\0\6"
            real.ack(0)
            block = await real.receive()
            forged.ask_for("large")
            assert (await forged.receive())[:4] == b"\0\3\0\1"
            with RawClient(running.address) as another:
                assert await another.fetch("large") == LARGE
            assert await real.rest(block, blksize=1428) == LARGE
        await running.drained()
    assert caplog.text.count("made room for another") == 1


@pytest.mark.parametrize(("most", "most_per_client"), [(101, 1000), (1000, 101)])
async def test_requests_from_nobody_go_however_many_machines_came_before(
    most: int, most_per_client: int
) -> None:
    machines = 100
    async with contextlib.AsyncExitStack() as stack:
        running = await stack.enter_async_context(
            serving(Shelf(large=LARGE), max_sessions=most, max_sessions_per_client=most_per_client)
        )
        clients = [stack.enter_context(RawClient(running.address)) for _ in range(machines)]
        for client in clients:
            client.ask_for("large", "blksize", "1428")
            assert (await client.receive())[:2] == b"\0\6"
            client.ack(0)
            assert (await client.receive())[:4] == b"\0\3\0\1"
        forged, another = (stack.enter_context(RawClient(running.address)) for _ in range(2))
        forged.ask_for("large")
        assert (await forged.receive())[:4] == b"\0\3\0\1"
        assert await another.fetch("large") == LARGE
        await eventually(lambda: running.server.sessions == machines)


async def test_opening_files_do_not_hide_requests_from_nobody() -> None:
    gate = asyncio.Event()

    async def opener(info: TftpRequestInfo) -> Source:
        if info.name == "slow":
            await gate.wait()
        return Body(info.name, SMALL)

    waiting = 100
    async with contextlib.AsyncExitStack() as stack:
        running = await stack.enter_async_context(serving(opener, max_sessions=waiting + 1))
        clients = [stack.enter_context(RawClient(running.address)) for _ in range(waiting)]
        for client in clients:
            client.ask_for("slow")
        forged, another = (stack.enter_context(RawClient(running.address)) for _ in range(2))
        forged.ask_for("fast")
        assert (await forged.receive())[:4] == b"\0\3\0\1"
        assert await another.fetch("fast") == SMALL
        gate.set()


async def test_the_same_request_again_before_an_ack_is_the_same_transfer() -> None:
    shelf = Shelf(large=LARGE)
    async with serving(shelf) as running:
        with RawClient(running.address) as client:
            for _ in range(5):
                client.ask_for("large", "blksize", "1428")
            assert (await client.receive())[:2] == b"\0\6"
            port = client.transfer
            for _ in range(5):
                client.ask_for("large", "blksize", "1428")
            # Only when these have been read is the ACK sent: another port shows it.
            with RawClient(running.address) as other:
                other.ask_for("missing")
                await other.receive()
            client.ack(0)
            assert await client.rest(await client.receive(), blksize=1428) == LARGE
            assert client.transfer == port
        await running.drained()
    assert len(shelf.opened) == 1


@pytest.mark.parametrize("single_port", [True, False])
async def test_a_late_copy_of_the_request_does_not_disturb_the_transfer(single_port: bool) -> None:
    shelf = Shelf(large=LARGE)
    async with serving(shelf, single_port=single_port) as running:
        with RawClient(running.address) as client:
            client.ask_for("large", "blksize", "1428")
            assert (await client.receive())[:2] == b"\0\6"
            port = client.transfer
            client.ack(0)
            first = await client.receive()
            client.ask_for("large", "blksize", "1428")
            with RawClient(running.address) as other:
                other.ask_for("missing")
                await other.receive()
            client.ack(1)
            second = await client.receive()
            assert (first[:4], second[:4]) == (b"\0\3\0\1", b"\0\3\0\2")
            client.ack(1)  # the client's own repetition: no transmission either
            client.ack(2)
            assert (await client.receive())[:4] == b"\0\3\0\3"
            assert client.transfer == port
        assert running.server.quirks == {"request-repeated": 1, "blksize-512": 1}
    assert len(shelf.opened) == 1


async def test_another_request_from_the_same_port_replaces_the_transfer(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "COPIES", 0.0)
    caplog.set_level("INFO")
    shelf = Shelf(large=LARGE, script=SMALL)
    async with serving(shelf) as running:
        with RawClient(running.address) as client:
            client.ask_for("large", "blksize", "1428")
            await client.receive()
            client.ask_for("script")
            assert await client.rest(await client.receive()) == SMALL
            # After progress the same request, too, is a new beginning.
            client.ask_for("large")
            assert (await client.receive())[:4] == b"\0\3\0\1"
            client.ack(1)
            assert (await client.receive())[:4] == b"\0\3\0\2"
            assert await client.fetch("large") == LARGE
        await running.drained()
    shelf.assert_all_closed_once()
    assert caplog.text.count("client asked again") == 2


async def test_a_request_that_is_replaced_while_its_file_is_opened() -> None:
    gates = {"slow": asyncio.Event(), "fast": asyncio.Event()}
    gates["fast"].set()
    opened: list[Body] = []

    async def opener(info: TftpRequestInfo) -> Source:
        await gates[info.name].wait()
        opened.append(Body(info.name, SMALL + info.name.encode()))
        return opened[-1]

    async with serving(opener) as running:
        with RawClient(running.address) as client:
            client.ask_for("slow")
            client.ask_for("fast", "tsize", "0")
            assert (await client.receive())[:2] == b"\0\6"
            gates["slow"].set()
            with RawClient(running.address) as other:
                other.ask_for("fast")
                first = await other.receive()
                # What was replaced has ended by now, and taken nothing of its successor along.
                assert [body.name for body in opened if body.closed] == ["slow"]
                assert running.server.sessions == 2
                assert await other.rest(first) == SMALL + b"fast"
            client.ack(0)
            assert await client.rest(await client.receive()) == SMALL + b"fast"
        await running.drained()
    assert sorted(body.name for body in opened) == ["fast", "fast", "slow"]
    assert [body.closed for body in opened] == [1, 1, 1]


async def test_requests_that_replace_each_other_are_bounded_too() -> None:
    gate = asyncio.Event()

    async def opener(info: TftpRequestInfo) -> Source:
        await gate.wait()
        return Body(info.name, info.name.encode())

    async with serving(opener, max_sessions=2) as running:
        with RawClient(running.address) as client:
            for name in ("first", "second", "third"):
                client.ask_for(name)
            assert error(await client.receive()).message.startswith("server busy")
            gate.set()
        await running.drained()


async def test_a_cold_file_is_read_ahead() -> None:
    shelf = Shelf()
    shelf.makers["cold"] = lambda: Body("cold", LARGE, is_cold=True)
    async with serving(shelf) as running:
        with RawClient(running.address) as client:
            client.ask_for("cold", "blksize", "1428", "windowsize", "8")
            await client.receive()
            client.ack(0)
            first = await client.receive()
            assert await client.rest(first, blksize=1428, windowsize=8) == LARGE
        await running.drained()
    (body,) = shelf.opened
    assert body.closed == 1
    assert len(body.reads) <= len(LARGE) // PIECE + 3


async def test_acks_that_come_while_the_disk_is_waited_for() -> None:
    gate = asyncio.Event()
    shelf = Shelf()
    shelf.makers["cold"] = lambda: Body("cold", LARGE, is_cold=True, gate=gate)
    async with serving(shelf) as running:
        with RawClient(running.address) as client:
            client.ask_for("cold", "blksize", "1428")
            await client.receive()
            for _ in range(3):
                client.ack(0)
            gate.set()
            assert await client.rest(await client.receive(), blksize=1428) == LARGE
        await running.drained()


async def test_a_client_that_goes_while_the_disk_is_waited_for() -> None:
    gate = asyncio.Event()
    shelf = Shelf(script=SMALL)
    cold = Body("cold", LARGE, is_cold=True, gate=gate)
    shelf.makers["cold"] = lambda: cold
    async with serving(shelf) as running:
        with RawClient(running.address) as client:
            client.ask_for("cold")
            await cold.is_read.wait()
            client.ask_for("script")
            assert await client.rest(await client.receive()) == SMALL
        assert not cold.closed  # somebody is reading it
        gate.set()
        await running.drained()
    shelf.assert_all_closed_once()


@pytest.mark.parametrize("is_cold", [True, False])
@pytest.mark.parametrize(
    ("failure", "message", "verdict"),
    [
        (
            OSError(5, "Input/output error"),
            b"the server could not read the file",
            "file could not be read to its end",
        ),
        (ZeroDivisionError(), b"the server has failed", "server failed"),
    ],
)
async def test_a_file_that_fails_ends_its_transfer_only(
    caplog: pytest.LogCaptureFixture,
    failure: Exception,
    message: bytes,
    verdict: str,
    is_cold: bool,
) -> None:
    shelf = Shelf(script=SMALL)
    shelf.makers["bad"] = lambda: Body("bad", LARGE, is_cold=is_cold, failure=failure)
    async with serving(shelf) as running:
        with RawClient(running.address) as client:
            client.ask_for("bad")
            assert await client.receive() == b"\0\5\0\0" + message + b"\0"
            assert await client.fetch("script") == SMALL
        await running.drained()
    shelf.assert_all_closed_once()
    assert verdict in caplog.text
    assert ("Traceback" in caplog.text) == isinstance(failure, ZeroDivisionError)


@pytest.mark.parametrize("is_cold", [True, False])
async def test_a_file_that_is_rewritten_in_place_is_not_sent_to_its_end(
    caplog: pytest.LogCaptureFixture, is_cold: bool
) -> None:
    shelf = Shelf()
    shelf.makers["bad"] = lambda: Body("bad", bytes(1000), is_cold=is_cold)
    async with serving(shelf) as running:
        with RawClient(running.address) as client:
            client.ask_for("bad")
            assert (await client.receive())[:4] == b"\0\3\0\1"
            shelf.opened[0].is_changed = True
            client.ack(1)
            assert error(await client.receive()).code == ErrorCode.NOT_DEFINED
        await running.drained()
    shelf.assert_all_closed_once()
    assert "file was written to while it was sent" in caplog.text


@pytest.mark.parametrize("is_cold", [True, False])
async def test_a_file_that_shrinks(caplog: pytest.LogCaptureFixture, is_cold: bool) -> None:
    shelf = Shelf()
    shelf.makers["bad"] = lambda: Body("bad", SMALL, is_cold=is_cold, claims=5000)
    async with serving(shelf) as running:
        with RawClient(running.address) as client:
            client.ask_for("bad")
            assert error(await client.receive()).code == ErrorCode.NOT_DEFINED
        await running.drained()
    shelf.assert_all_closed_once()
    assert "became shorter" in caplog.text


async def test_a_client_that_closes_its_port(caplog: pytest.LogCaptureFixture) -> None:
    shelf = Shelf(large=LARGE)
    async with serving(shelf) as running:
        with RawClient(running.address) as client:
            client.ask_for("large", "blksize", "1428", "windowsize", "64")
            await client.receive()
            client.ack(0)
            await client.receive()
        await running.drained()
    shelf.assert_all_closed_once()
    assert "client closed the connection (its port is closed)" in caplog.text


async def test_a_client_that_falls_silent(caplog: pytest.LogCaptureFixture) -> None:
    shelf = Shelf(large=LARGE)
    async with serving(shelf, patience=0.1) as running:
        with RawClient(running.address) as client:
            client.ask_for("large")
            await client.receive()
            await running.drained()
    shelf.assert_all_closed_once()
    assert "client fell silent" in caplog.text


async def test_a_client_that_reports_an_error(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(Shelf(large=LARGE)) as running:
        with RawClient(running.address) as client:
            client.ask_for("large")
            await client.receive()
            client.send(b"\0\5\0\3disk\nfull\0")
            await running.drained()
    assert r"client reported an error (code 3: disk\nfull)" in caplog.text


async def test_draining_finishes_what_was_begun_and_takes_nothing_new() -> None:
    shelf = Shelf(large=LARGE)
    async with serving(shelf) as running:
        with RawClient(running.address) as client, RawClient(running.address) as late:
            client.ask_for("large", "blksize", "1428")
            await client.receive()
            running.server.drain()
            late.ask_for("large")
            client.ack(0)
            assert await client.rest(await client.receive(), blksize=1428) == LARGE
            await running.returned.wait()
    assert len(shelf.opened) == 1
    shelf.assert_all_closed_once()


async def test_draining_waits_for_nobody_who_may_never_have_been_there(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr("bootserve.tftp.server._WATCH_INTERVAL", 0.01)
    monkeypatch.setattr("bootserve.tftp.delivery.SILENT_AFTER", 0.1)
    shelf = Shelf(large=LARGE)
    async with serving(shelf) as running:
        with RawClient(running.address) as machine, RawClient(running.address) as forged:
            forged.ask_for("large", "blksize", "1428")
            await forged.receive()
            machine.ask_for("large", "blksize", "1428")
            await machine.receive()
            machine.ack(0)
            block = await machine.receive()
            [nobody, somebody] = running.ledger.live
            # Both are silent; while nobody is waited for, that is no reason to end either.
            await eventually(lambda: (nobody.verdict, somebody.verdict) == ("silent", "silent"))
            assert running.server.sessions == 2
            running.server.drain()
            await eventually(lambda: running.server.sessions == 1)
            assert nobody.end is End.CLIENT_SILENT
            assert await machine.rest(block, blksize=1428) == LARGE
            await running.returned.wait()
    shelf.assert_all_closed_once()


async def test_an_idle_server_is_drained_at_once() -> None:
    async with serving(Shelf()) as running:
        await running.drained()


async def test_a_cancelled_server_tells_its_clients(caplog: pytest.LogCaptureFixture) -> None:
    shelf = Shelf(large=LARGE)
    shelf.makers["cold"] = lambda: Body("cold", LARGE, is_cold=True, gate=asyncio.Event())
    async with serving(shelf) as running:
        client, cold = RawClient(running.address), RawClient(running.address)
        cold.ask_for("cold")
        client.ask_for("large")
        await client.receive()
    with client, cold:
        for stopped in (client, cold):
            assert await stopped.receive() == b"\0\5\0\0the server was stopped\0"
    assert not running.ledger.live
    shelf.assert_all_closed_once()
    assert caplog.text.count("server was stopped") == 2


@pytest.mark.parametrize(
    ("text", "wire"),
    [
        (b"", b""),
        (b"a\nb\n", b"a\r\nb\r\n"),
        (b"a\rb", b"a\r\0b"),
        (b"a\r\nb", b"a\r\0\r\nb"),
    ],
)
async def test_netascii(text: bytes, wire: bytes) -> None:
    assert encode(text) == wire
    shelf = Shelf(text=text)
    async with serving(shelf) as running:
        with RawClient(running.address) as client:
            client.ask_for("text", "tsize", "0", mode="NetASCII")
            assert await client.rest(await client.receive()) == wire
        await running.drained()
    shelf.assert_all_closed_once()


async def test_netascii_of_something_huge_is_refused() -> None:
    shelf = Shelf()
    shelf.makers["huge"] = lambda: Body("huge", b"", claims=16 * 1024 * 1024 + 1)
    async with serving(shelf) as running:
        with RawClient(running.address) as client:
            client.ask_for("huge", mode="netascii")
            found = error(await client.receive())
    assert found == Error(0, "over 16384 KiB there is no netascii: use octet mode")
    shelf.assert_all_closed_once()


async def test_a_large_text_is_converted_while_others_have_their_turns() -> None:
    text = b"line\r\n" * READ_SIZE
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    body = Body("text", text)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(others)
        with contextlib.closing(await NetasciiTexts().convert(body)) as source:
            assert source.read_now(0, source.size) == encode(text)
        tasks.cancel_scope.cancel()
    parts = len(text) // READ_SIZE
    assert body.reads == [(part * READ_SIZE, READ_SIZE) for part in range(parts)]
    assert turns >= parts


async def test_the_memory_for_netascii_is_bounded_and_given_back() -> None:
    texts = NetasciiTexts(largest=10, most=15)
    first = await texts.convert(Body("a", b"x" * 10))
    with pytest.raises(NetasciiRefused):
        await texts.convert(Body("b", b"x" * 10))
    first.close()
    first.close()
    with pytest.raises(OSError, match="broken"):
        await texts.convert(Body("c", b"x" * 10, failure=OSError("broken")))
    for _ in range(2):
        (await texts.convert(Body("b", b"x" * 10))).close()
    held = [await texts.convert(Body("d", b"x" * 5)) for _ in range(3)]
    with pytest.raises(NetasciiRefused):
        await texts.convert(Body("e", b"x"))
    assert [source.size for source in held] == [5, 5, 5]


# --- what operators are told -----------------------------------------------------------------


async def test_without_a_descriptor_to_spare_clients_are_told_to_come_again() -> None:
    has_room = False
    async with serving(Shelf(file=b"body"), has_room=lambda: has_room) as running:
        with RawClient(running.address) as client:
            client.ask_for("file")
            assert error(await client.receive()).message.startswith("server busy")
            assert running.server.refused == 1
            has_room = True
            assert await client.fetch("file") == b"body"
            client.ask_for("no such file")
            assert error(await client.receive()).message == "file not found"
            assert running.server.refused == 1


async def test_a_socket_that_cannot_be_watched_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """epoll has a limit of its own, see max_user_watches in epoll(7)."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    shelf = Shelf(file=b"body")
    async with serving(shelf) as running:
        with RawClient(running.address) as client, monkeypatch.context() as limit:
            limit.setattr("bootserve.tftp.wire.add_direct_reader", full)
            client.ask_for("file")
            assert error(await client.receive()).message == "server busy, try again"
            assert running.server.sessions == 0
            assert not running.ledger.live
        with RawClient(running.address) as client:
            assert await client.fetch("file") == b"body"
        await running.drained()
    shelf.assert_all_closed_once()
    assert "server failed (No space left on device)" in caplog.text


async def test_a_client_of_which_nothing_is_heard_is_called_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bootserve.tftp.server._WATCH_INTERVAL", 0.01)
    monkeypatch.setattr("bootserve.tftp.delivery.SILENT_AFTER", 0.1)
    async with serving(Shelf(large=LARGE)) as running:
        with RawClient(running.address) as client:
            client.ask_for("large", "blksize", "1428")
            await client.receive()
            [transfer] = running.ledger.live
            await eventually(lambda: transfer.verdict == "silent")
            client.ack(0)
            block = await client.receive()
            await eventually(lambda: transfer.verdict == "moving")
            assert await client.rest(block, blksize=1428) == LARGE


async def test_a_door_that_does_not_hear_is_a_problem() -> None:
    async with serving(Shelf(file=b"body")) as running:
        assert running.server.problem is None
        running.server.drain()
        assert running.server.problem == "TFTP: the door is closed"


async def test_transfers_leave_nothing_for_the_garbage_collector() -> None:
    """It runs rarely, so that what they left would be memory that grows with every rack."""
    async with serving(Shelf(large=LARGE, small=b"text")) as running:
        with RawClient(running.address) as client:
            assert await client.fetch("large") == LARGE  # whatever is made once
            gc.collect()
            gc.disable()
            gc.set_debug(gc.DEBUG_SAVEALL)
            try:
                assert await client.fetch("small") == b"text"
                client.ask_for("small", "tsize", "0")
                await client.receive()
                client.send(b"\0\5\0\x08no\0")
                client.ask_for("missing")
                await client.receive()
                client.ask_for("large", "blksize", "1428", "windowsize", "8")
                await client.receive()
                client.ack(0)
                first = await client.receive()
                assert await client.rest(first, blksize=1428, windowsize=8) == LARGE
                await running.drained()
                gc.collect()
                left = [found for found in gc.garbage if type(found).__module__.startswith("boots")]
            finally:
                gc.set_debug(0)
                gc.garbage.clear()
                gc.enable()
    assert left == []
