"""Restart loops, and what becomes of the machines that are in one."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import anyio
import pytest

from bootserve.watch import liveness
from tests.http.conftest import DEADLINE, Door, eventually
from tests.http.lane_lab import (
    LOCALHOST,
    MAC,
    NO_PACE,
    SIZE,
    Set,
    ask,
    connect,
    found,
    get,
    get_from,
    introduce,
    lane_of,
    serving,
)
from tests.http.peers import reset


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path


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


async def test_attempts_that_a_machine_has_given_up_without_a_word_count(
    root: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "_PAUSED_AFTER", 0.1)
    async with serving(root, http={"silence_limit": 5}) as door:
        await introduce(door, LOCALHOST, MAC)
        with await connect(door, LOCALHOST, 4096) as one, await connect(door, LOCALHOST) as other:
            # Side by side they are two downloads ...
            for client in (one, other):
                await ask(client, "/boot/initramfs")
            await eventually(lambda: len(door.ledger.live) == 2)
            assert len(await get_from(door, "127.0.0.2", "/boot/initramfs")) == SIZE
            # ... and no longer when neither is read.
            await eventually(lambda: {found.verdict for found in door.ledger.live} == {"paused"})
            assert loops(caplog) == []
            assert len(await get_from(door, LOCALHOST, "/boot/initramfs")) == SIZE
    [line] = loops(caplog)
    assert " for the 3rd time in this boot; it stopped at " in line
    assert ", the last time: still open, and paused; set `pace`" in line


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
