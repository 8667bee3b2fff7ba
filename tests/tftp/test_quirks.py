"""What firmware does beside the RFCs: it is served as it expects, and counted by name."""

from __future__ import annotations

import random

import pytest

from bootserve.tftp import session
from bootserve.tftp.quirks import Quirk

from .harness import RawClient, Running, Shelf, serving

BODY = random.Random(8).randbytes(4000)


def counted(running: Running) -> dict[str, int]:
    return dict(running.server.quirks)


async def test_ovmf_refuses_the_oack_and_asks_again() -> None:
    async with serving(Shelf(efi=BODY)) as running:
        with RawClient(running.address) as client:
            client.ask_for("efi", "tsize", "0", "blksize", "1468")
            assert (await client.receive()) == b"\0\6tsize\x004000\0blksize\x001468\0"
            client.send(b"\0\5\0\x08User aborted the transfer\0")
        # The second request comes from another port.
        with RawClient(running.address) as client:
            client.ask_for("efi", "blksize", "1468")
            assert (await client.receive()) == b"\0\6blksize\x001468\0"
            assert await client.accept(blksize=1468) == BODY
        await running.drained()
    assert counted(running) == {Quirk.OACK_REFUSED: 1}


async def test_shim_gets_blocks_of_512_bytes_and_never_more() -> None:
    async with serving(Shelf(efi=BODY)) as running:
        with RawClient(running.address) as client:
            client.ask_for("efi", "blksize", "512")
            assert (await client.receive()) == b"\0\6blksize\x00512\0"
            client.ack(0)
            first = await client.receive()
            assert len(first) == 4 + 512
            assert await client.rest(first) == BODY
            assert await client.fetch("efi") == BODY  # as does who names no option
        await running.drained()
    assert counted(running) == {Quirk.SMALL_BLOCKS: 2}


async def test_tsize_alone_is_answered_and_changes_no_block() -> None:
    async with serving(Shelf(efi=BODY)) as running:
        with RawClient(running.address) as client:
            client.ask_for("efi", "tsize", "0")
            assert (await client.receive()) == b"\0\6tsize\x004000\0"
            assert await client.accept() == BODY
        await running.drained()
    assert counted(running) == {Quirk.TSIZE_ALONE: 1}


@pytest.mark.parametrize("mode", ["OCTET", "Octet", "oCtEt"])
async def test_octet_in_odd_case(mode: str) -> None:
    async with serving(Shelf(efi=BODY)) as running:
        with RawClient(running.address) as client:
            client.ask_for("efi", "blksize", "1024", mode=mode)
            await client.receive()
            assert await client.accept(blksize=1024) == BODY
        await running.drained()
    assert counted(running) == {Quirk.ODD_MODE: 1}


async def roll_over(running: Running, *options: str) -> int:
    """Fetch 65,536 blocks of 8 bytes and check them; return the number of the last one."""
    with RawClient(running.address) as client:
        client.ask_for("large", "blksize", "8", "windowsize", "64", *options)
        oack = await client.receive()
        client.ack(0)
        got = bytearray()
        number = 0
        for block in range(1, 65537):
            datagram = await client.receive()
            number = int.from_bytes(datagram[2:4])
            got += datagram[4:]
            if block % 64 == 0 or block == 65536:
                client.ack(number)
        assert got == LARGE
        assert (b"rollover\0" in oack) == bool(options)
    return number


LARGE = random.Random(9).randbytes(65535 * 8 + 3)


async def test_block_numbers_roll_over_as_the_client_or_the_operator_says() -> None:
    async with serving(Shelf(large=LARGE)) as running:
        assert await roll_over(running) == 0
        assert await roll_over(running, "rollover", "1") == 1
        await running.drained()
    assert counted(running) == {Quirk.ROLLOVER_ONE: 1}
    async with serving(Shelf(large=LARGE), rollover=1) as running:
        assert await roll_over(running) == 1
        assert await roll_over(running, "rollover", "0") == 0
        await running.drained()


async def test_a_request_is_repeated_before_its_answer_has_come() -> None:
    async with serving(Shelf(efi=BODY)) as running:
        with RawClient(running.address) as client:
            for _ in range(3):
                client.ask_for("efi", "blksize", "1024")
            await client.receive()
            assert await client.accept(blksize=1024) == BODY
        await running.drained()
    assert counted(running) == {Quirk.REQUEST_REPEATED: 2}


async def test_a_machine_that_is_reset_begins_anew_from_the_same_port(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(session, "COPIES", 0.0)  # its reset takes no time here
    async with serving(Shelf(efi=BODY)) as running:
        with RawClient(running.address) as client:
            client.ask_for("efi", "blksize", "1024")
            await client.receive()
            client.ack(0)
            await client.receive()
            client.ask_for("efi", "blksize", "1024")
            while (await client.receive())[:2] != b"\0\6":
                pass
            assert await client.accept(blksize=1024) == BODY
        await running.drained()
    assert counted(running) == {Quirk.RESTARTED: 1}


async def test_the_last_ack_is_missing() -> None:
    async with serving(Shelf(efi=BODY), patience=0.3) as running:
        with RawClient(running.address) as client:
            client.ask_for("efi", "blksize", "2000")
            await client.receive()
            client.ack(0)
            await client.receive()
            client.ack(1)
            await client.receive()
            client.ack(2)
            assert (await client.receive())[2:] == b"\0\3"
            await running.drained()
    assert counted(running) == {Quirk.LAST_ACK_LOST: 1}


async def test_bursts_are_lost() -> None:
    async with serving(Shelf(large=LARGE[:40_000])) as running:
        with RawClient(running.address) as client:
            client.ask_for("large", "blksize", "1000", "windowsize", "32")
            await client.receive()
            client.ack(0)
            # It has room for three packets; what comes at once beyond that is not there for it.
            for _ in range(32):
                await client.receive()
            while int.from_bytes((await client.receive())[2:4]) != 1:
                pass
            client.ack(3)
            datagram = await client.receive()
            while int.from_bytes(datagram[2:4]) != 4:
                datagram = await client.receive()
            client.send(b"\0\5\0\0enough\0")
        await running.drained()
    assert counted(running) == {Quirk.BURST_LOST: 1}
