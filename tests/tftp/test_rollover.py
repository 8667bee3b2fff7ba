"""300 MB in blocks of 512 bytes: their numbers, which have 16 bits, begin anew nine times."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from tests.downloads import CONFIG
from tests.family import family

from . import clients
from .clients import Download

BLOCKS = 9 * 65536 + 24576
SECONDS = 240


@dataclass(frozen=True)
class Served:
    port: int
    checksum: str


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("rollover")
    (folder / "one").mkdir()
    large = folder / "one" / "large"
    noise = Random(512)
    with large.open("wb") as file:
        # No two numbers of a block stand for the same bytes.
        for _ in range(BLOCKS // 8192):
            file.write(noise.randbytes(8192 * 512))
    assert large.stat().st_size == BLOCKS * 512
    with family(folder, CONFIG) as server:
        yield Served(server.ports()[1], checksum(large))
        log = server.log()
    assert log.count("complete") == len(CLIENTS), log
    large.unlink()


def checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


CLIENTS: dict[str, Download] = {
    "windows of 64 blocks": clients.atftp(blksize=512, windowsize=64),
    "in lockstep": clients.tftp_hpa(),
}


@pytest.mark.parametrize("name", CLIENTS)
def test_a_file_of_nine_roll_overs_is_exact(name: str, served: Served, tmp_path: Path) -> None:
    got = tmp_path / "got"
    command = CLIENTS[name]("127.0.0.1", served.port, "large", got)
    done = subprocess.run(command, capture_output=True, timeout=SECONDS)
    assert done.returncode == 0, done
    assert got.stat().st_size == BLOCKS * 512
    assert checksum(got) == served.checksum
    got.unlink()
