"""What a lane does on the wire, and where the kernel does not go along."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import subprocess
import time
from pathlib import Path

import anyio
import pytest

from bootserve.catalog.lanes import UNLIMITED, Lane
from bootserve.http import lane as lanes
from bootserve.sections import DEFAULT_WINDOW
from tests import needs
from tests.cable import Cable
from tests.http.conftest import DEADLINE, eventually
from tests.http.lane_lab import (
    LOCALHOST,
    PORT,
    SIZE,
    accepted,
    ask,
    connect,
    get,
    in_flight,
    queued,
    retransmissions,
    serving,
)
from tests.http.peers import reset


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path


@pytest.mark.parametrize("window", [4096, 16384, 65536, 262144, 1 << 20])
@pytest.mark.parametrize("receive_buffer", [4096, None])
async def test_what_is_on_its_way_stays_within_the_window(
    root: Path, window: int, receive_buffer: int | None
) -> None:
    async with serving(root, http={"window": window}) as door:
        with await connect(door, LOCALHOST, receive_buffer) as client:
            await ask(client, "/boot/initramfs")
            await eventually(lambda: len(door.ledger.live) == 1)
            sock = accepted(door, client)

            most = 0
            received = 0
            loop = asyncio.get_running_loop()
            with anyio.fail_after(DEADLINE):
                # Reads by fits and starts, so that the queue is full between them.
                while received < min(SIZE // 2, 20 * window):
                    for _ in range(20):
                        most = max(most, queued(sock))
                        await asyncio.sleep(0)
                    received += len(await loop.sock_recv(client, window // 2))
        assert window // 4 < most <= max(window, 4608)


@pytest.mark.parametrize("window", [16384, 65536, 262144])
async def test_what_is_copied_exceeds_its_window_by_one_of_the_kernels_buffers_at_most(
    root: Path, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_sendfile(*_: object) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "sendfile", no_sendfile)
    async with serving(root, http={"window": window}) as door:
        with await connect(door, LOCALHOST, 4096) as client:
            await ask(client, "/boot/initramfs")
            await eventually(lambda: len(door.ledger.live) == 1)
            sock = accepted(door, client)
            most = 0
            with anyio.fail_after(DEADLINE):
                for _ in range(200):
                    for _ in range(5):
                        most = max(most, queued(sock))
                        await asyncio.sleep(0)
                    await asyncio.get_running_loop().sock_recv(client, window // 8)
        assert window // 4 < most <= window + 65536


DROP = f"""
add table ip t
add chain ip t c {{ type filter hook output priority 0; policy accept; }}
add rule ip t c tcp dport {PORT} drop
"""


@pytest.mark.parametrize("is_bound", [True, False])
async def test_a_client_that_acknowledges_nothing_is_sent_a_window_and_no_more(
    root: Path, is_bound: bool
) -> None:
    nft = needs.program("nft", "nftables")
    window = 128 << 10
    loop = asyncio.get_running_loop()
    with (root / "large").open("wb") as file:
        file.truncate(256 << 20)
    with Cable() as cable:

        def rules(text: str) -> None:
            # The server waits meanwhile: it lives in this thread.
            command = cable.client.command(nft, "-f", "-")
            subprocess.run(command, input=text, text=True, check=True)

        listener = cable.server.socket(socket.SOCK_STREAM)
        listener.bind((cable.server.address, PORT))
        async with serving(root, listener, http={"window": window if is_bound else "off"}) as door:
            with cable.client.socket(socket.SOCK_STREAM) as client:
                client.setblocking(False)
                await loop.sock_connect(client, (cable.server.address, PORT))
                # The kernel has learnt that this is a fast link, and the client's window is wide.
                assert len(await get(client, "/boot/initramfs")) == SIZE
                await ask(client, "/boot/large")
                with anyio.fail_after(DEADLINE):
                    # Until the file comes from memory: its first piece waits for a thread.
                    received = 0
                    while received < 4 << 20:
                        received += len(await loop.sock_recv(client, 65536))
                    sock = accepted(door, client)
                    rules(DROP)
                    # A probe of the tail may have been one before.
                    before = retransmissions(sock)
                    await eventually(lambda: queued(sock) > 0 and retransmissions(sock) > before)
                    sent, waiting = in_flight(sock), queued(sock)
                    rules("delete table ip t")
                    reset(client)
                    await eventually(lambda: not door.ledger.live)
        if is_bound:
            assert window // 2 < sent <= waiting <= window
        else:
            assert sent > window


async def test_a_pace_is_kept(root: Path) -> None:
    pace = 4_000_000
    async with serving(root, http={"pace": "4MB/s"}) as door:
        with await connect(door, LOCALHOST) as client:
            begun = time.monotonic()
            assert len(await get(client, "/boot/initramfs")) == SIZE
            assert time.monotonic() - begun >= SIZE / pace * 0.8


class _Unprivileged:
    """A socket of a kernel that permits 212,992 bytes, and nobody to exceed that."""

    def __init__(self) -> None:
        self.bound = 0
        self.is_fixed = False

    def setsockopt(self, _: int, option: int, value: int) -> None:
        if option == lanes.SO_SNDBUFFORCE:
            raise PermissionError(1, "Operation not permitted")
        if option == lanes.SO_BUF_LOCK:
            self.is_fixed = bool(value)
        else:
            self.bound = 2 * min(value, 212_992)
            self.is_fixed = True

    def getsockopt(self, _: int, option: int) -> int:
        return self.is_fixed if option == lanes.SO_BUF_LOCK else self.bound


async def test_a_window_that_the_kernel_does_not_permit_is_reported_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "_told", set())
    for window in (1 << 20, 1 << 20, 8 << 20, 1 << 20):
        sock = _Unprivileged()
        lanes.apply(sock, Lane(None, window), Lane())  # type: ignore[arg-type]
        # What remains is what an operator who asked for more would rather have than nothing.
        assert (sock.bound, sock.is_fixed) == (425_984, True)
    assert caplog.messages == [
        f"a window of {window} bytes is set, and the kernel permits 425984 at most; it is 425984"
        f" bytes now; `sysctl -w net.core.wmem_max={window // 2}` as root permits it"
        for window in (1 << 20, 8 << 20)
    ]


async def test_the_window_that_nobody_asked_for_is_dropped_where_the_kernel_does_not_permit_it(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "_told", set())
    for _ in range(2):
        sock = _Unprivileged()
        lanes.apply(sock, Lane(None, DEFAULT_WINDOW), Lane())  # type: ignore[arg-type]
        assert not sock.is_fixed
    [line] = caplog.messages
    assert "permits 425984 at most; it is left to the kernel; `sysctl" in line


def test_what_the_kernel_bounds_by_itself_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tcp_wmem").write_text("4096\t16384\t4194304\n")
    monkeypatch.setattr(lanes, "_TCP_WMEM", tmp_path / "tcp_wmem")
    lanes.needed.cache_clear()
    try:
        assert lanes.needed(Lane(None, 4 << 20)) is UNLIMITED
        assert lanes.needed(Lane(1000, 8 << 20)) == Lane(1000, None)
        assert lanes.needed(Lane(None, 2 << 20)) == Lane(None, 2 << 20)
        (tmp_path / "tcp_wmem").write_text("4096\t16384\t67108864\n")
        lanes.needed.cache_clear()
        assert lanes.needed(Lane(None, 4 << 20)) == Lane(None, 4 << 20)
    finally:
        lanes.needed.cache_clear()


async def test_a_kernel_without_lanes_serves_all_the_same(
    root: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "_told", set())
    monkeypatch.setattr(lanes, "SO_MAX_PACING_RATE", 9999)
    async with serving(root, http={"pace": "1Gbit/s"}) as door:
        for _ in range(2):
            with await connect(door, LOCALHOST) as client:
                assert await get(client, "/boot/vmlinuz") == bytes(1000)
    complaints = [message for message in caplog.messages if "cannot pace" in message]
    assert complaints == ["the kernel cannot pace connections: Protocol not available"]
