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

from .harness import Address, Shelf, serving

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


def url(address: Address, name: str) -> str:
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"tftp://{host}:{address[1]}/{name}"


@pytest.mark.parametrize("blksize", [512, 1468, 65464])
async def test_curl(tmp_path: Path, host: str, blksize: int, single_port: bool) -> None:
    curl = needs.program("curl", "curl")
    got = tmp_path / "got"
    shelf = Shelf(kernel=BODY)
    async with serving(shelf, single_port=single_port, **family_of(host)) as running:
        await run(
            *(curl, "-sS", "--globoff", "--tftp-blksize", str(blksize)),
            *("-o", str(got), url(running.address, "kernel")),
        )
        await running.drained()
    assert got.read_bytes() == BODY
    shelf.assert_all_closed_once()


async def test_curl_without_options(tmp_path: Path) -> None:
    curl = needs.program("curl", "curl")
    got = tmp_path / "got"
    async with serving(Shelf(kernel=BODY)) as running:
        address = url(running.address, "kernel")
        await run(curl, "-sS", "--tftp-no-options", "-o", str(got), address)
        await running.drained()
    assert got.read_bytes() == BODY


async def test_tftp_hpa(tmp_path: Path, host: str, single_port: bool) -> None:
    tftp = needs.program("tftp", "tftp-hpa")
    got = tmp_path / "got"
    shelf = Shelf(kernel=BODY)
    async with serving(shelf, single_port=single_port, **family_of(host)) as running:
        port = str(running.port)
        await run(tftp, "-m", "binary", host, port, "-c", "get", "kernel", str(got))
        await running.drained()
    assert got.read_bytes() == BODY


async def test_tftp_hpa_in_ascii_gets_the_original_text(tmp_path: Path) -> None:
    tftp = needs.program("tftp", "tftp-hpa")
    got = tmp_path / "got"
    long = TEXT * 100
    async with serving(Shelf(text=long)) as running:
        port = str(running.port)
        await run(tftp, "-m", "ascii", "127.0.0.1", port, "-c", "get", "text", str(got))
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
    atftp = needs.program("atftp", "atftp")
    got = tmp_path / "got"
    shelf = Shelf(kernel=BODY)
    async with serving(shelf, single_port=single_port, **family_of(host)) as running:
        await run(
            *(atftp, "--option", f"windowsize {windowsize}", "--option", "blksize 1428"),
            *("--option", "tsize 0", "--option", "timeout 3"),
            *("--get", "-r", "kernel", "-l", str(got), host, str(running.port)),
        )
        await running.drained()
    assert got.read_bytes() == BODY


@pytest.mark.parametrize("options", [{}, {"blksize": 1432, "tsize": 0}, {"blksize": 8192}])
async def test_tftpy(tmp_path: Path, options: dict[str, int]) -> None:
    got = tmp_path / "got"
    async with serving(Shelf(kernel=BODY[:500_000])) as running:
        client = TftpClient("127.0.0.1", running.port, options)
        await anyio.to_thread.run_sync(client.download, "kernel", str(got))
        await running.drained()
    assert got.read_bytes() == BODY[:500_000]
