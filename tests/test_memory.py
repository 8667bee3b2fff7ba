"""What a process knows of the machines, from one that leaves to the one that takes over."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootserve import memory
from bootserve.catalog.catalog import Catalog
from bootserve.catalog.lanes import Lane
from bootserve.catalog.machines import Identity
from bootserve.memory import recall, snapshot
from bootserve.settings import load
from tests.family import DEADLINE, Family, descriptors, family

MAC = "52:54:00:12:34:56"

TREE: dict[str, Any] = {
    "profiles": {name: {"script": "#!ipxe\n"} for name in ("plain", "other")},
    "http": {"window": "off"},
    "lanes": {"pace": "8kbit/s", "window": 4096},
}


def _catalog(pace: str | None = None) -> Catalog:
    machine = {"mac": MAC, "profile": "plain", **({"pace": pace} if pace else {})}
    return Catalog(load(None, {**TREE, "machines": [machine]}))


def _hand_over(old: Catalog, new: Catalog, *, with_slowed: bool = True) -> None:
    recall(new, snapshot(old)(), with_slowed=with_slowed)


def _see(catalog: Catalog, address: str, **said: str) -> None:
    catalog.sightings.note(address, catalog.scripts.sight(Identity(**said)))


def test_a_machine_is_known_again_by_what_the_new_configuration_says_of_it() -> None:
    old, new = _catalog("8Mbit/s"), _catalog("80Mbit/s")
    _see(old, "192.0.2.1", mac=MAC, hostname="h")
    _see(old, "fe80::1%eth0", serial="S\u20ac 1")
    _hand_over(old, new)
    seen = new.sightings.at("192.0.2.1")
    assert seen is not None
    assert (seen.label, seen.profile) == (MAC, "plain")
    assert new.lanes.choose(seen, "192.0.2.1").pace == 10_000_000
    assert new.sightings.label("fe80::1%eth0") == "S\u20ac 1"
    assert [address for address, _ in new.sightings.all()] == ["192.0.2.1", "fe80::1%eth0"]


def test_a_profile_chosen_from_a_menu_stays_chosen_through_two_upgrades() -> None:
    old = _catalog()
    _see(old, "192.0.2.1", mac=MAC)
    old.sightings.note_profile("192.0.2.1", "other")
    old.sightings.note_profile("192.0.2.2", "other")
    for _ in range(2):
        new = _catalog()
        _hand_over(old, new)
        assert {address: seen.profile for address, seen in new.sightings.all()} == {
            "192.0.2.1": "other",
            "192.0.2.2": "other",
        }
        assert new.sightings.label("192.0.2.1") == MAC
        old = new


@pytest.mark.parametrize("with_slowed", [True, False])
def test_who_is_in_the_slow_lane_stays_there_where_there_is_one(with_slowed: bool) -> None:
    old, new = _catalog(), _catalog()
    for name in ("192.0.2.9", MAC):
        old.lanes.slow_down(name)
    _hand_over(old, new, with_slowed=with_slowed)
    assert new.lanes.slowed() == (["192.0.2.9", MAC] if with_slowed else [])
    assert new.lanes.choose(None, "192.0.2.9") == (Lane(1000, 4096) if with_slowed else Lane())


@pytest.mark.parametrize(
    "data",
    [
        b"\xff",
        b"[" * 100_000,
        b"[]",
        b"{}",
        b'{"format":2,"sightings":[],"slowed":[]}',
        b'{"format":1,"sightings":[["a",{},null,1]],"slowed":["x"]}',
        b'{"format":1,"sightings":[["a",[],null]],"slowed":["x"]}',
        b'{"format":1,"sightings":[[1,{},null]],"slowed":["x"]}',
        b'{"format":1,"sightings":7,"slowed":["x"]}',
        b'{"format":1,"sightings":[],"slowed":[7]}',
        json.dumps({"format": 1, "sightings": [], "slowed": ["x" * 301]}).encode(),
    ],
)
def test_what_cannot_be_read_is_one_line_and_changes_nothing(
    data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    new = _catalog()
    recall(new, data, with_slowed=True)
    assert new.sightings.all() == []
    assert new.lanes.slowed() == []
    [line] = caplog.messages
    assert "cannot be read" in line
    assert len(line) < 500


@given(
    st.binary()
    | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(
        lambda value: json.dumps({"format": 1, "sightings": value, "slowed": value}).encode()
    )
)
def test_nothing_that_is_handed_over_keeps_a_process_from_its_start(data: bytes) -> None:
    recall(_catalog(), data, with_slowed=True)


def test_nothing_is_no_line(caplog: pytest.LogCaptureFixture) -> None:
    recall(_catalog(), b"", with_slowed=True)
    assert caplog.messages == []


def test_who_was_not_seen_for_longest_is_left_out_where_it_would_be_too_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "LONGEST_MEMORY", 10_000)
    old, new = _catalog(), _catalog()
    for number in range(1000):
        _see(old, f"192.0.2.{number}", hostname=f"h{number}")
    data = snapshot(old)()
    assert len(data) <= 10_000
    recall(new, data, with_slowed=True)
    known = new.sightings.all()
    assert len(known) > 50
    assert known == old.sightings.all()[-len(known) :]


CONFIG = f"""
[http]
listen = ["127.0.0.1:0"]
[tftp]
listen = "off"
[assets]
roots = ["one"]
[service]
runtime_dir = "run"
[profiles.p]
script = "#!ipxe"
[[machines]]
mac = "{MAC}"
profile = "p"
pace = "8Mbit/s"
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Family]:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "big").write_bytes(bytes(1_000_000))
    with family(tmp_path, CONFIG) as found:
        yield found


def _get(server: Family, path: str) -> bytes:
    port = int(server.banner().rpartition("http://127.0.0.1:")[2].split()[0].split("/")[0])
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as client:
        request = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        client.sendall(request.encode())
        data = b""
        while more := client.recv(1 << 20):
            data += more
    return data.partition(b"\r\n\r\n")[2]


def test_a_machine_in_mid_boot_keeps_its_lane_and_its_name_through_upgrades(
    server: Family,
) -> None:
    assert _get(server, f"/machine.ipxe?mac={MAC}").startswith(b"#!ipxe")
    for _ in range(2):
        new = server.replace()
    begun = time.monotonic()
    assert len(_get(server, "/boot/big")) == 1_000_000
    assert time.monotonic() - begun > 0.5  # a second, at its pace
    server.wait_for_log(f"HTTP 127.0.0.1 ({MAC}) big 1000000 of 1000000 bytes")
    assert "no such setting" not in server.log()
    assert not [kind for kind in descriptors(new) if "memfd" in kind]
