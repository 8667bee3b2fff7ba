"""The TFTP clients that people have, against the server on loopback."""

from __future__ import annotations

import random
import socket
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from tftpy.TftpClient import TftpClient

from tests import needs

from . import clients
from .harness import Shelf, serving

BODY = random.Random(4).randbytes(3_000_003)
TEXT = b"unix\ndos\r\nmac\rend\r\n\r\n\n\r\rno newline"


async def run(*command: str) -> bytes:
    done = await anyio.run_process(list(command), check=False)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    return output


@pytest.fixture(params=["127.0.0.1", "::1"])
def host(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[False, True], ids=["own-ports", "single-port"])
def single_port(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def family_of(host: str) -> dict[str, Any]:
    return {"host": host, "family": socket.AF_INET6 if ":" in host else socket.AF_INET}


@pytest.mark.parametrize("blksize", [512, 1468, 65464])
async def test_curl(tmp_path: Path, host: str, blksize: int, single_port: bool) -> None:
    got = tmp_path / "got"
    shelf = Shelf(kernel=BODY)
    download = clients.curl("--tftp-blksize", str(blksize))
    async with serving(shelf, single_port=single_port, **family_of(host)) as running:
        await run(*download(host, running.port, "kernel", got))
        await running.drained()
    assert got.read_bytes() == BODY
    shelf.assert_all_closed_once()


async def test_curl_without_options(tmp_path: Path) -> None:
    got = tmp_path / "got"
    download = clients.curl("--tftp-no-options")
    async with serving(Shelf(kernel=BODY)) as running:
        await run(*download("127.0.0.1", running.port, "kernel", got))
        await running.drained()
    assert got.read_bytes() == BODY


async def test_tftp_hpa(tmp_path: Path, host: str, single_port: bool) -> None:
    got = tmp_path / "got"
    shelf = Shelf(kernel=BODY)
    async with serving(shelf, single_port=single_port, **family_of(host)) as running:
        await run(*clients.tftp_hpa()(host, running.port, "kernel", got))
        await running.drained()
    assert got.read_bytes() == BODY


async def test_tftp_hpa_in_ascii_gets_the_original_text(tmp_path: Path) -> None:
    got = tmp_path / "got"
    long = TEXT * 100
    async with serving(Shelf(text=long)) as running:
        await run(*clients.tftp_hpa("ascii")("127.0.0.1", running.port, "text", got))
        await running.drained()
    assert got.read_bytes() == long


async def test_tftp_hpa_is_told_why(tmp_path: Path) -> None:
    tftp = needs.program("tftp", "tftp-hpa")
    upload = tmp_path / "upload"
    upload.write_bytes(b"x")
    async with serving(Shelf()) as running:
        command = (tftp, "-m", "binary", "127.0.0.1", str(running.port), "-c")
        for words, answer in [
            (("get", "missing", str(tmp_path / "got")), b"file not found"),
            (("put", str(upload), "upload"), b"this server is read-only"),
        ]:
            done = await anyio.run_process([*command, *words], check=False)
            assert answer in done.stdout + done.stderr


@pytest.mark.parametrize("windowsize", [1, 4, 16, 64])
async def test_atftp_with_windows(
    tmp_path: Path, host: str, windowsize: int, single_port: bool
) -> None:
    got = tmp_path / "got"
    download = clients.atftp(windowsize=windowsize, blksize=1428, tsize=0, timeout=3)
    shelf = Shelf(kernel=BODY)
    async with serving(shelf, single_port=single_port, **family_of(host)) as running:
        await run(*download(host, running.port, "kernel", got))
        await running.drained()
    assert got.read_bytes() == BODY


@pytest.mark.parametrize("blksize", [None, 512, 1428, 65464])
async def test_busybox(tmp_path: Path, host: str, blksize: int | None) -> None:
    got = tmp_path / "got"
    shelf = Shelf(kernel=BODY)
    async with serving(shelf, **family_of(host)) as running:
        await run(*clients.busybox(blksize)(host, running.port, "kernel", got))
        await running.drained()
    assert got.read_bytes() == BODY
    shelf.assert_all_closed_once()


async def test_busybox_is_told_why(tmp_path: Path) -> None:
    async with serving(Shelf()) as running:
        command = clients.busybox(1428)("127.0.0.1", running.port, "missing", tmp_path / "got")
        done = await anyio.run_process(command, check=False)
    assert done.returncode != 0
    assert b"file not found" in done.stderr


@pytest.mark.parametrize("options", [{}, {"blksize": 1432, "tsize": 0}, {"blksize": 8192}])
async def test_tftpy(tmp_path: Path, options: dict[str, int]) -> None:
    got = tmp_path / "got"
    async with serving(Shelf(kernel=BODY[:500_000])) as running:
        client = TftpClient("127.0.0.1", running.port, options)
        await anyio.to_thread.run_sync(client.download, "kernel", str(got))
        await running.drained()
    assert got.read_bytes() == BODY[:500_000]
