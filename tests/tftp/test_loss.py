"""Networks that lose packets at random in both directions, and clients that are in no hurry.

Half of all packets lost means that of four exchanges one succeeds. How long a client bears that is
its own affair, and one that gives up is started again, as firmware would; the server must never be
the one that gives up. The times are the retransmissions', so the clients go at the same time.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from tests import needs
from tests.cable import LINK, Cable, Host
from tests.family import family

from . import clients
from .clients import Download

ATTEMPTS = 8
SECONDS = 280
"""For all attempts of a client; less than the server's patience."""

CONFIG = """
[http]
listen = ["127.0.0.1:0"]
[tftp]
listen = ["10.77.0.1:69"]
[assets]
roots = ["assets"]
[service]
runtime_dir = "run"
"""
RULES = """\
add table ip trouble
add chain ip trouble in {{ type filter hook input priority 0; }}
add rule ip trouble in iifname {link} numgen random mod 100 < {percent} counter drop
"""
# On the way in at either end: what is lost on its way out, the kernel reports to the sender.

AGAIN_AFTER_A_SECOND = ("--tftp-timeout", "1")
CLIENTS: dict[int, dict[str, tuple[Download, int]]] = {
    # Each with the size of its file in bytes: at half the packets a block is a matter of seconds.
    # Left alone, curl says nothing for 72 seconds; with options, it wants the server to wait for 6.
    50: {
        "atftp": (clients.atftp(*AGAIN_AFTER_A_SECOND, blksize=1428, windowsize=16), 6 * 1428 + 7),
        "tftp-hpa": (clients.tftp_hpa(), 512 + 7),
        "curl": (clients.curl("--tftp-no-options", "-m", "240"), 512 + 7),
        "busybox": (clients.busybox(1428), 2 * 1428 + 7),
    },
    10: {
        "atftp": (
            clients.atftp(*AGAIN_AFTER_A_SECOND, blksize=1428, windowsize=16),
            400 * 1428 + 7,
        ),
        "tftp-hpa": (clients.tftp_hpa(), 100 * 512 + 7),
        "curl": (clients.curl("--tftp-blksize", "1428"), 25 * 1428 + 7),
        "busybox": (clients.busybox(1428), 100 * 1428 + 7),
    },
}


@dataclass(frozen=True)
class Result:
    is_exact: bool
    said: str


@dataclass(frozen=True)
class Scene:
    results: dict[str, Result]
    lost: list[int]
    """Packets, at the server's and at the client's end."""
    log: str


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, Scene]]:
    """Everybody's end, for each percentage of losses."""
    with ThreadPoolExecutor(len(CLIENTS)) as threads:
        folders = [tmp_path_factory.mktemp(f"loss-{percent}") for percent in CLIENTS]
        yield dict(zip(CLIENTS, threads.map(play, CLIENTS, folders), strict=True))


def play(percent: int, folder: Path) -> Scene:
    (folder / "assets").mkdir()
    cast = CLIENTS[percent]
    for name, (_, size) in cast.items():
        (folder / "assets" / name).write_bytes(Random(name).randbytes(size))
    with ExitStack() as stack:
        cable = stack.enter_context(Cable())
        launcher = cable.server.command()
        server = stack.enter_context(family(folder, CONFIG, launcher=launcher))
        hosts = (cable.server, cable.client)
        for host in hosts:
            nft(host, RULES.format(link=LINK, percent=percent))
        threads = stack.enter_context(ThreadPoolExecutor(len(cast)))
        ends = threads.map(lambda name: fetch(cable, folder, name, cast[name][0]), cast)
        results = dict(zip(cast, ends, strict=True))
        return Scene(results, [lost(host) for host in hosts], server.log())


def fetch(cable: Cable, folder: Path, name: str, download: Download) -> Result:
    """Let a client try until it has the file."""
    got = folder / f"got-{name}"
    command = download(cable.server.address, 69, name, got)
    said = ""
    start = time.monotonic()
    for attempt in range(1, ATTEMPTS + 1):
        got.unlink(missing_ok=True)
        left = SECONDS - (time.monotonic() - start)
        try:
            done = subprocess.run(
                cable.client.command(*command), capture_output=True, timeout=max(1, left)
            )
        except subprocess.TimeoutExpired:
            return Result(False, f"{said}\nattempt {attempt}: out of time")
        said += f"\nattempt {attempt}, {time.monotonic() - start:.0f} s: {done.stderr[-200:]!r}"
        # Not by its status: tftp-hpa's says nothing.
        if got.exists() and got.read_bytes() == (folder / "assets" / name).read_bytes():
            return Result(True, said)
    return Result(False, said)


def nft(host: Host, text: str) -> None:
    command = host.command(needs.program("nft", "nftables"), "-f", "-")
    subprocess.run(command, input=text, text=True, check=True, capture_output=True)


def lost(host: Host) -> int:
    command = host.command(needs.program("nft", "nftables"), "list", "table", "ip", "trouble")
    text = subprocess.run(command, text=True, check=True, capture_output=True).stdout
    return sum(int(count) for count in re.findall(r"packets (\d+)", text))


@pytest.mark.parametrize(
    ("percent", "name"), [(percent, name) for percent, cast in CLIENTS.items() for name in cast]
)
def test_a_client_gets_its_file_through_losses(
    percent: int, name: str, scenes: dict[int, Scene]
) -> None:
    scene = scenes[percent]
    result = scene.results[name]
    assert result.is_exact, f"{result.said}\n--- the server's log:\n{scene.log[-3000:]}"


@pytest.mark.parametrize("percent", CLIENTS)
def test_the_server_is_never_the_one_who_gives_up(percent: int, scenes: dict[int, Scene]) -> None:
    scene = scenes[percent]
    # Enough to know that the network was as bad as it is said to be, in both directions.
    assert all(lost > 5 for lost in scene.lost), scene.lost
    for line in scene.log.splitlines():
        assert "fell silent" not in line, scene.log
