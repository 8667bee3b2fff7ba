"""What clients of different lanes have set on their connections."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from bootserve.catalog.lanes import Lane
from bootserve.http import lane as lanes
from tests.http.lane_lab import (
    MAC,
    NO_PACE,
    SIZE,
    Set,
    connect,
    found,
    get,
    introduce,
    lane_of,
    serving,
)

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
