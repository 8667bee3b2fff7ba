"""Other people's clients fetch a large file, byte for byte.

100 MB is more than 65535 blocks at TFTP's default of 512 bytes, and at the
1468 bytes that fill an Ethernet frame: block numbers roll over in each case.
"""

from __future__ import annotations

import hashlib
import random
import socket
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import tftpy

from . import needs, server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .process import Process

SIZE = 100_000_000
NAME = "x86_64/large"
SECONDS = 120

CONFIG = """\
[http]
listen = ["127.0.0.1:{http}"]

[tftp]
listen = ["127.0.0.1:{tftp}"]

[assets]
roots = ["{root}"]
"""


@dataclass(frozen=True)
class Served:
    """A running bootserve on the loopback address, and the file in it."""

    server: Process
    http: int
    tftp: int
    data: bytes

    def url(self) -> str:
        return f"http://127.0.0.1:{self.http}/boot/{NAME}"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("clients")
    root = directory / "assets"
    data = random.Random(SIZE).randbytes(SIZE)
    (root / NAME).parent.mkdir(parents=True)
    (root / NAME).write_bytes(data)
    http, tftp = server.free_port(), server.free_port(socket.SOCK_DGRAM)
    config = directory / "bootserve.toml"
    config.write_text(CONFIG.format(http=http, tftp=tftp, root=root))
    with server.start(config) as started:
        yield Served(started, http, tftp, data)
        with started.shown_on_failure():
            # Its clients are done, so it owes nobody anything.
            assert started.stop() == 0, "SIGTERM did not end an idle server in good order"


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, f"{command[0]}: {said[-2000:]}"
    return said


def assert_same(path: Path, data: bytes) -> None:
    got = path.read_bytes()
    # Not `got == data`: pytest would try to print the difference of 100 MB.
    assert (len(got), hashlib.sha256(got).hexdigest()) == (
        len(data),
        hashlib.sha256(data).hexdigest(),
    )


def test_curl_by_http(served: Served, tmp_path: Path) -> None:
    curl = needs.program("curl", "curl")
    run(curl, "-sS", "--fail", "-o", tmp_path / "got", served.url())
    assert_same(tmp_path / "got", served.data)


def test_curl_resumes_by_range(served: Served, tmp_path: Path) -> None:
    curl = needs.program("curl", "curl")
    (tmp_path / "got").write_bytes(served.data[: SIZE // 3])
    headers = tmp_path / "headers"
    run(curl, "-sS", "--fail", "-C", "-", "-D", headers, "-o", tmp_path / "got", served.url())
    assert_same(tmp_path / "got", served.data)
    assert f"bytes {SIZE // 3}-{SIZE - 1}/{SIZE}" in headers.read_text()


def test_curl_by_tftp(served: Served, tmp_path: Path) -> None:
    curl = needs.program("curl", "curl")
    url = f"tftp://127.0.0.1:{served.tftp}/boot/{NAME}"
    run(curl, "-sS", "--tftp-blksize", "1468", "-o", tmp_path / "got", url)
    assert_same(tmp_path / "got", served.data)


def test_tftp_hpa_without_options(served: Served, tmp_path: Path) -> None:
    """It asks for no option at all, so the blocks have 512 bytes and roll over three times."""
    tftp = needs.program("tftp", "tftp-hpa")
    port = str(served.tftp)
    run(tftp, "-m", "binary", "127.0.0.1", port, "-c", "get", NAME, tmp_path / "got")
    assert_same(tmp_path / "got", served.data)


def test_atftp_with_windows(served: Served, tmp_path: Path) -> None:
    atftp = needs.program("atftp", "atftp")
    options = ("--trace", "--option", "blksize 1468", "--option", "windowsize 16")
    names = ("-r", NAME, "-l", tmp_path / "got")
    trace = run(atftp, *options, "--get", *names, "127.0.0.1", str(served.tftp))
    (answer,) = (line for line in trace.splitlines() if line.startswith("received OACK"))
    assert "windowsize: 16" in answer
    assert_same(tmp_path / "got", served.data)


def test_tftpy_client(served: Served, tmp_path: Path) -> None:
    client = tftpy.TftpClient("127.0.0.1", served.tftp, {"blksize": 1468, "tsize": 0})
    client.download(NAME, str(tmp_path / "got"))
    assert_same(tmp_path / "got", served.data)
