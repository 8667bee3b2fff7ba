"""What clients of different lanes have set on their connections, and what that does."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import socket
import struct
import subprocess
import termios
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest

from bootserve.assembly import watched_ledger
from bootserve.catalog.catalog import Catalog
from bootserve.catalog.lanes import UNLIMITED, Lane
from bootserve.http import lane as lanes
from bootserve.http.app import create_app
from bootserve.http.lane import SO_MAX_PACING_RATE
from bootserve.http.listener import open_listener
from bootserve.http.protocol import BootProtocol
from bootserve.http.server import HttpServer, http_config
from bootserve.sections import DEFAULT_WINDOW
from bootserve.settings import load
from bootserve.watch.budget import Budget
from tests import needs
from tests.cable import Cable
from tests.http.conftest import DEADLINE, Door, eventually, read_response
from tests.http.peers import reset

MAC = "52:54:00:12:34:56"
SIZE = 8 << 20
NO_PACE = 2**64 - 1
SIOCOUTQNSD = 0x894B  # linux/sockios.h
LOCALHOST = "127.0.0.1"
PORT = 8080

TREE: dict[str, Any] = {
    "profiles": {
        "plain": {"kernel": "x86_64/vmlinuz"},
        "gentle": {"kernel": "x86_64/vmlinuz", "pace": "80Mbit/s", "window": "128KiB"},
    },
    "machines": [
        {"mac": MAC, "profile": "gentle", "pace": "40Mbit/s"},
        {"mac": "52:54:00:00:00:02", "profile": "gentle"},
        {"mac": "52:54:00:00:00:03", "profile": "plain"},
    ],
    "lanes": {"agents": [{"user_agent": "iPXE/1.0.0*", "window": "256KiB"}]},
}


@contextlib.asynccontextmanager
async def serving(
    root: Path, listener: socket.socket | None = None, **tree: Any
) -> AsyncIterator[Door]:
    """A door with the process's own ledger and catalog."""
    (root / "initramfs").write_bytes(bytes(SIZE))
    (root / "vmlinuz").write_bytes(bytes(1000))
    listener = listener or open_listener(socket.AF_INET, LOCALHOST, 0)
    settings = load(None, {**tree, "assets": {"roots": [root]}})
    catalog = Catalog(settings)
    ledger = watched_ledger(settings, catalog)
    started = anyio.Event()
    budget = Budget()
    app = create_app(settings, catalog=catalog, ledger=ledger, budget=budget)
    server = HttpServer(http_config(settings, app), started.set, budget=budget)
    serving = asyncio.create_task(server.serve([listener]))
    await started.wait()
    try:
        yield Door(listener.getsockname()[1], root, ledger, server, budget)
    finally:
        server.should_exit = server.force_exit = True
        await serving


@dataclass(frozen=True)
class Set:
    """What the kernel says of the server's end of a connection."""

    pace: int
    buffer: int
    is_fixed: bool


def accepted(door: Door, client: socket.socket) -> socket.socket:
    """The server's end of a client's connection."""
    name = client.getsockname()
    transports = [
        protocol.connection
        for protocol in door.server.server_state.connections
        if isinstance(protocol, BootProtocol)
    ]
    [sock] = [
        transport.get_extra_info("socket")
        for transport in transports
        if transport.get_extra_info("peername") == name
    ]
    found: socket.socket = sock
    return found


def queued(sock: socket.socket) -> int:
    """Bytes that the kernel has taken and the client has not acknowledged."""
    answer = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
    return int(struct.unpack("i", answer)[0])


def in_flight(sock: socket.socket) -> int:
    """Those of them that have been sent."""
    answer = fcntl.ioctl(sock.fileno(), SIOCOUTQNSD, bytes(4))
    return queued(sock) - int(struct.unpack("i", answer)[0])


def retransmissions(sock: socket.socket) -> int:
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    return int(struct.unpack_from("=I", info, 100)[0])  # tcpi_total_retrans


def found(door: Door, client: socket.socket) -> Set:
    sock = accepted(door, client)
    return Set(
        struct.unpack("@L", sock.getsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, 8))[0],
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF),
        bool(sock.getsockopt(socket.SOL_SOCKET, lanes.SO_BUF_LOCK) & 1),
    )


async def connect(door: Door, address: str, receive_buffer: int | None = None) -> socket.socket:
    client = socket.socket()
    if receive_buffer is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.setblocking(False)
    client.bind((address, 0))
    await asyncio.get_running_loop().sock_connect(client, (LOCALHOST, door.port))
    return client


async def ask(client: socket.socket, path: str, headers: str = "") -> None:
    request = f"GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n"
    await asyncio.get_running_loop().sock_sendall(client, request.encode())


async def get(client: socket.socket, path: str, headers: str = "") -> bytes:
    await ask(client, path, headers)
    return (await read_response(client))[1]


async def get_from(door: Door, address: str, path: str) -> bytes:
    with await connect(door, address) as client:
        return await get(client, path)


async def introduce(door: Door, address: str, mac: str) -> None:
    """Ask for this machine's script, as it does before it asks for files."""
    with await connect(door, address) as client:
        assert (await get(client, f"/machine.ipxe?mac={mac}")).startswith(b"#!ipxe")


async def lane_of(door: Door, address: str, headers: str = "") -> Set:
    with await connect(door, address) as client:
        assert await get(client, "/boot/vmlinuz", headers) == bytes(1000)
        return found(door, client)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path


async def test_each_client_is_held_to_its_lane(root: Path) -> None:
    async with serving(root, **TREE) as door:
        await introduce(door, "127.0.0.2", MAC)
        await introduce(door, "127.0.0.3", "52:54:00:00:00:02")
        await introduce(door, "127.0.0.4", "52:54:00:00:00:03")
        untouched = await lane_of(door, "127.0.0.1")
        assert (untouched.pace, untouched.is_fixed) == (NO_PACE, False)
        assert await lane_of(door, "127.0.0.2") == Set(5_000_000, 131072, True)
        assert await lane_of(door, "127.0.0.3") == Set(10_000_000, 131072, True)
        assert (await lane_of(door, "127.0.0.4")).pace == NO_PACE
        assert not (await lane_of(door, "127.0.0.4")).is_fixed
        old = "User-Agent: ipxe/1.0.0+git\r\n"
        assert await lane_of(door, "127.0.0.4", old) == Set(NO_PACE, 262144, True)
        assert await lane_of(door, "127.0.0.2", old) == Set(5_000_000, 131072, True)
        assert not (await lane_of(door, "127.0.0.4", "User-Agent: iPXE/1.21.1\r\n")).is_fixed


async def test_the_doors_own_lane_is_everybodys_who_has_no_other(root: Path) -> None:
    tree: dict[str, Any] = {
        "http": {"pace": "1Gbit/s", "window": "1MiB"},
        "machines": [{"mac": MAC, "profile": "p", "pace": "off", "window": "off"}],
        "profiles": {"p": {"script": "#!ipxe\n"}},
    }
    async with serving(root, **tree) as door:
        await introduce(door, "127.0.0.2", MAC)
        assert await lane_of(door, "127.0.0.1") == Set(125_000_000, 1 << 20, True)
        lifted = await lane_of(door, "127.0.0.2")
        assert (lifted.pace, lifted.is_fixed) == (NO_PACE, False)


async def test_a_profile_chosen_from_the_menu_brings_its_lane(root: Path) -> None:
    async with serving(root, **{**TREE, "machines": []}) as door:
        await introduce(door, "127.0.0.2", MAC)
        assert (await lane_of(door, "127.0.0.2")).pace == NO_PACE
        with await connect(door, "127.0.0.2") as client:
            await get(client, "/profile/gentle")
        assert await lane_of(door, "127.0.0.2") == Set(10_000_000, 131072, True)


async def test_the_profile_of_everybody_brings_its_lane(root: Path) -> None:
    async with serving(root, **{**TREE, "machines": [], "boot": {"default": "gentle"}}) as door:
        with await connect(door, "127.0.0.2") as client:
            await get(client, "/machine.ipxe")
        assert await lane_of(door, "127.0.0.2") == Set(10_000_000, 131072, True)


async def test_a_kept_connection_changes_lanes(root: Path) -> None:
    async with serving(root, **TREE) as door:
        with await connect(door, "127.0.0.2") as client:
            assert len(await get(client, "/boot/initramfs")) == SIZE
            before = found(door, client)
            assert (before.pace, before.is_fixed) == (NO_PACE, False)
            for mac, there in (
                (MAC, Set(5_000_000, 131072, True)),
                ("52:54:00:00:00:02", Set(10_000_000, 131072, True)),
            ):
                await get(client, f"/machine.ipxe?mac={mac}")
                await get(client, "/boot/vmlinuz")
                assert found(door, client) == there
            await get(client, "/machine.ipxe?mac=52:54:00:00:00:03")
            await get(client, "/boot/vmlinuz")
            after = found(door, client)
            assert (after.pace, after.is_fixed) == (NO_PACE, False)
            # The kernel lets the buffer grow again with what the connection carries.
            assert len(await get(client, "/boot/initramfs")) == SIZE
            assert found(door, client).buffer > 131072


async def test_what_holds_already_costs_no_system_call(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    applied: list[Lane] = []
    apply = lanes.apply

    def spy(sock: socket.socket, lane: Lane, before: Lane) -> None:
        applied.append(lane)
        apply(sock, lane, before)

    monkeypatch.setattr(lanes, "apply", spy)
    async with serving(root, **TREE) as door:
        with await connect(door, "127.0.0.1") as client:
            for _ in range(3):
                await get(client, "/boot/vmlinuz")
        assert applied == []
        await introduce(door, "127.0.0.2", MAC)
        with await connect(door, "127.0.0.2") as client:
            for _ in range(3):
                await get(client, "/boot/vmlinuz")
        assert applied == [Lane(5_000_000, 131072)]


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
                    await loop.sock_recv(client, 65536)
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


# --- restart loops -------------------------------------------------------------------------------


async def break_off(door: Door, address: str, after: int) -> None:
    """Begin the file, and leave as a machine does that is switched off and on again."""
    loop = asyncio.get_running_loop()
    with await connect(door, address, 4096) as client:
        await ask(client, "/boot/initramfs")
        left = after
        with anyio.fail_after(DEADLINE):
            while left > 0:
                left -= len(await loop.sock_recv(client, left))
        reset(client)
    await eventually(lambda: not door.ledger.live)


def loops(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [message for message in caplog.messages if message.startswith("restart loop")]


def stopped_at(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [message.split()[4] for message in caplog.messages if "client closed the" in message]


async def test_the_third_beginning_is_a_restart_loop(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with serving(root) as door:
        await introduce(door, LOCALHOST, MAC)
        for after in (100_000, 300_000):
            await break_off(door, LOCALHOST, after)
        one, other = stopped_at(caplog)
        assert int(one) >= 90_000
        assert int(other) >= 290_000
        assert loops(caplog) == []
        with await connect(door, LOCALHOST) as client:
            assert len(await get(client, "/boot/initramfs")) == SIZE
            assert found(door, client).pace == NO_PACE
    assert loops(caplog) == [
        f"restart loop: {MAC} begins initramfs from zero for the 3rd time in this boot; it stopped"
        f" at {one} and {other} of {SIZE} bytes, the last time: client closed the connection;"
        " set `pace` and `window` for this machine, or lanes.auto_lane = true"
    ]


async def test_whoever_is_in_a_restart_loop_is_moved_to_the_slow_lane(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tree: dict[str, Any] = {"lanes": {"auto_lane": True, "pace": "800Mbit/s", "window": "128KiB"}}
    async with serving(root, **tree) as door:
        for _ in range(2):
            await break_off(door, "127.0.0.2", 100_000)
        assert (await lane_of(door, "127.0.0.2")).pace == NO_PACE
        with await connect(door, "127.0.0.2") as client:
            assert len(await get(client, "/boot/initramfs")) == SIZE
            assert found(door, client) == Set(100_000_000, 131072, True)
        # It stays there, and nobody else is.
        await introduce(door, "127.0.0.3", MAC)
        assert (await lane_of(door, "127.0.0.2")).pace == 100_000_000
        assert (await lane_of(door, "127.0.0.3")).pace == NO_PACE
    [line] = loops(caplog)
    assert line.endswith(
        ": client closed the connection (moved to the slow lane: 800 Mbit/s, 128 KiB)"
    )


async def test_a_slowed_machine_stays_slow_when_it_says_its_name(root: Path) -> None:
    tree: dict[str, Any] = {"lanes": {"auto_lane": True, "pace": "800Mbit/s", "window": "128KiB"}}
    async with serving(root, **tree) as door:
        for _ in range(2):
            await break_off(door, "127.0.0.2", 100_000)
        assert (await get_from(door, "127.0.0.2", "/boot/initramfs")) == bytes(SIZE)
        await introduce(door, "127.0.0.2", MAC)
        assert (await lane_of(door, "127.0.0.2")).pace == 100_000_000
        # It is the machine that is slow, and not the address.
        await introduce(door, "127.0.0.3", MAC)
        assert (await lane_of(door, "127.0.0.3")).pace == 100_000_000
        await introduce(door, "127.0.0.2", "52:54:00:00:00:01")
        assert (await lane_of(door, "127.0.0.2")).pace == NO_PACE


@pytest.mark.parametrize(
    ("tree", "lane", "there"),
    [
        (
            {"machines": [{"mac": MAC, "profile": "plain", "pace": "off", "window": "off"}]},
            "the slow lane would change nothing; its lane stays: off, off",
            NO_PACE,
        ),
        (
            {"http": {"pace": "400Mbit/s", "window": "64KiB"}},
            "the slow lane would change nothing; its lane stays: 400 Mbit/s, 64 KiB",
            50_000_000,
        ),
        (
            {"http": {"pace": "400Mbit/s"}},
            "moved to the slow lane: 400 Mbit/s, 128 KiB",
            50_000_000,
        ),
        (
            {"agents": [{"user_agent": "slowpoke*", "pace": "400Mbit/s"}]},
            "moved to the slow lane: 400 Mbit/s, 128 KiB",
            50_000_000,
        ),
    ],
)
async def test_the_log_says_which_lane_a_machine_in_a_loop_really_gets(
    root: Path, caplog: pytest.LogCaptureFixture, tree: dict[str, Any], lane: str, there: int
) -> None:
    lanes = {"auto_lane": True, "pace": "800Mbit/s", "window": "128KiB"}
    lanes["agents"] = tree.pop("agents", [])
    profiles = {"plain": {"kernel": "x86_64/vmlinuz"}}
    async with serving(root, lanes=lanes, profiles=profiles, **tree) as door:
        await introduce(door, LOCALHOST, MAC)
        for _ in range(2):
            await break_off(door, LOCALHOST, 100_000)
        with await connect(door, LOCALHOST) as client:
            await get(client, "/boot/initramfs", "User-Agent: slowpoke/1\r\n")
            assert found(door, client).pace == there
    [line] = loops(caplog)
    assert line.endswith(f": client closed the connection ({lane})")


@pytest.mark.parametrize("path", ["/boot/initramfs", f"/machine.ipxe?mac={MAC}"])
async def test_a_complete_file_or_a_new_boot_is_no_loop(
    root: Path, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    async with serving(root) as door:
        await introduce(door, LOCALHOST, MAC)
        for _ in range(3):
            await break_off(door, LOCALHOST, 100_000)
            with await connect(door, LOCALHOST) as client:
                await get(client, path)
    assert loops(caplog) == []


@pytest.mark.parametrize("is_known", [True, False])
async def test_a_new_boot_is_no_loop_for_a_machine_that_does_not_say_its_name_either(
    root: Path, caplog: pytest.LogCaptureFixture, is_known: bool
) -> None:
    async with serving(root) as door:
        if is_known:
            await introduce(door, LOCALHOST, MAC)
        for path in ("/boot.ipxe", "/autoexec.ipxe", "/machine.ipxe"):
            for _ in range(2):
                await break_off(door, LOCALHOST, 100_000)
            with await connect(door, LOCALHOST) as client:
                await get(client, path)
        await break_off(door, LOCALHOST, 100_000)
    assert loops(caplog) == []


async def test_what_does_not_begin_at_zero_is_no_beginning(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(root) as door:
        for _ in range(2):
            await break_off(door, LOCALHOST, 100_000)
        with await connect(door, LOCALHOST) as client:
            await get(client, "/boot/initramfs", f"Range: bytes={SIZE - 5}-\r\n")
            request = b"HEAD /boot/initramfs HTTP/1.1\r\nHost: x\r\n\r\n"
            await asyncio.get_running_loop().sock_sendall(client, request)
            assert b" 200 " in await asyncio.get_running_loop().sock_recv(client, 65536)
        assert loops(caplog) == []
        await break_off(door, LOCALHOST, 100_000)
        assert len(loops(caplog)) == 1
