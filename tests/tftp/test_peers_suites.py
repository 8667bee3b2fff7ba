"""What the test suites of other servers ask of theirs, asked of this one.

The scenarios are those of atftp's own suite and of fbtftp's, as far as they are about downloads;
the words are ours. They differ in one point on purpose: an option out of its range is ignored, as
RFC 2347 has it, where atftpd refuses the request.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from random import Random

import anyio
import pytest

from . import clients
from .clients import Download
from .harness import Shelf, serving

AT_ONCE = 100
MEGABYTE = Random(1).randbytes(1 << 20)


async def run(command: list[str]) -> str:
    done = await anyio.run_process(command, check=False)
    assert done.returncode == 0, done
    return done.stderr.decode(errors="replace")


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 1024, 2048, 51200, 131072])
async def test_sizes_around_the_ends_of_blocks(tmp_path: Path, size: int) -> None:
    body = MEGABYTE[:size]
    async with serving(Shelf(name=body)) as running:
        # With options curl refuses to be told that a file is empty.
        without = clients.curl("--tftp-no-options")
        for client in (clients.tftp_hpa(), clients.atftp(), without, clients.busybox(512)):
            got = tmp_path / "got"
            await run(client("127.0.0.1", running.port, "name", got))
            assert got.read_bytes() == body
            got.unlink()
        await running.drained()


BLKSIZES = [8, 256, 1428, 1533, 16000, 40000, 65464]
"""With the first, the numbers of blocks roll over."""


@pytest.mark.parametrize(
    "download",
    # Busybox asks for no less than 24.
    [clients.atftp(blksize=blksize) for blksize in BLKSIZES]
    + [clients.busybox(blksize) for blksize in BLKSIZES[1:]],
    ids=[f"atftp-{blksize}" for blksize in BLKSIZES]
    + [f"busybox-{blksize}" for blksize in BLKSIZES[1:]],
)
async def test_blocks_of_any_size(tmp_path: Path, download: Download) -> None:
    got = tmp_path / "got"
    async with serving(Shelf(name=MEGABYTE)) as running:
        await run(download("127.0.0.1", running.port, "name", got))
        await running.drained()
    assert got.read_bytes() == MEGABYTE


@pytest.mark.parametrize(
    ("size", "blksize", "windowsize"),
    [
        (2048, 1024, 1),
        (2048, 512, 2),
        (2048, 256, 4),
        (131072, 1024, 8),
        (131072, 512, 16),
        (1 << 20, 1428, 5),
        (1 << 20, 1428, 32),
        (1 << 20, 8, 1),
    ],
)
async def test_each_block_comes_once_and_each_window_is_acknowledged_once(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    size: int,
    blksize: int,
    windowsize: int,
) -> None:
    caplog.set_level(logging.INFO)
    got = tmp_path / "got"
    download = clients.atftp("--trace", blksize=blksize, windowsize=windowsize, tsize=0)
    async with serving(Shelf(name=MEGABYTE[:size])) as running:
        trace = await run(download("127.0.0.1", running.port, "name", got))
        await running.drained()
    assert got.read_bytes() == MEGABYTE[:size]
    [oack] = re.findall("received OACK <(.*)>", trace)
    for option, value in (("tsize", size), ("blksize", blksize), ("windowsize", windowsize)):
        assert f"{option}: {value}" in oack
    # A client that the host has kept waiting gets a block again; the log then says so.
    again = sum(int(count) for count in re.findall(r"(\d+) blocks sent again", caplog.text))
    blocks = len(re.findall("^received .*DATA <block:", trace, re.MULTILINE))
    assert 0 <= blocks - (size // blksize + 1) <= again
    # One for the OACK, and the last is for a part of a window.
    acks = trace.count("sent ACK <block:")
    assert 0 <= acks - (1 + size // (blksize * windowsize) + 1) <= again


@pytest.mark.parametrize("options", [{"blksize": 7}, {"timeout": 0}, {"timeout": 256}])
async def test_an_option_out_of_its_range_is_as_if_it_had_not_been_asked_for(
    tmp_path: Path, options: dict[str, int]
) -> None:
    got = tmp_path / "got"
    async with serving(Shelf(name=MEGABYTE[:2048])) as running:
        download = clients.atftp("--trace", **options)
        trace = await run(download("127.0.0.1", running.port, "name", got))
        await running.drained()
    assert "OACK" not in trace
    assert got.read_bytes() == MEGABYTE[:2048]


async def test_many_clients_at_once(tmp_path: Path) -> None:
    shelf = Shelf(name=MEGABYTE)
    async with serving(shelf) as running:

        async def download(number: int) -> None:
            got = tmp_path / f"got-{number}"
            await run(clients.atftp(blksize=1428)("127.0.0.1", running.port, "name", got))
            assert got.read_bytes() == MEGABYTE
            got.unlink()

        async with anyio.create_task_group() as tasks:
            for number in range(AT_ONCE):
                tasks.start_soon(download, number)
        await running.drained()
    assert len(shelf.opened) == AT_ONCE
    shelf.assert_all_closed_once()
