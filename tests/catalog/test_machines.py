from __future__ import annotations

from typing import Any

import pytest

from bootserve.catalog.machines import Identity, Machines, Sighting, Sightings, identify
from bootserve.settings import load

_MAC = "52:54:00:12:34:56"
_UUID = "4c4c4544-0042-3510-8054-b4c04f4d3432"


def _machines(*entries: dict[str, Any]) -> Machines:
    tree = {
        "profiles": {"p": {"script": "#!ipxe\n"}},
        "machines": [{"profile": "p", **entry} for entry in entries],
    }
    return Machines(load(flags=tree).machines)


def _name(machines: Machines, **said: str) -> str | None:
    machine = machines.find(identify(said)[0])
    return machine.name if machine else None


def test_what_ipxe_says_is_read() -> None:
    identity, complaints = identify(
        {
            "mac": "52-54-00-12-34-56",
            "uuid": _UUID.upper(),
            "serial": "7XK2P",
            "hostname": "Node1",
            "buildarch": "i386",
            "platform": "pcbios",
        }
    )
    assert identity == Identity(_MAC, _UUID, "7XK2P", "node1")
    assert complaints == []


def test_what_is_absent_or_empty_is_no_complaint() -> None:
    assert identify({}) == (Identity(), [])
    assert identify({"mac": "", "uuid": "", "serial": "", "hostname": ""}) == (Identity(), [])
    assert Identity().label is None


def test_what_is_no_such_thing_is_left_out_and_told() -> None:
    identity, complaints = identify(
        {"mac": "\n#!ipxe", "uuid": _UUID, "serial": "a\x1bb", "hostname": "a b"}
    )
    assert identity == Identity(uuid=_UUID)
    assert [line.partition(":")[0] for line in complaints] == ["mac", "serial", "hostname"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mac", "00-00-00-00-00-00"),
        ("uuid", "00000000-0000-0000-0000-000000000000"),
        ("uuid", "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF"),
        ("uuid", "03000200-0400-0500-0006-000700080009"),
        ("serial", "To Be Filled By O.E.M."),
        ("serial", "Default string"),
        ("serial", "System Serial Number"),
        ("serial", "0"),
        ("hostname", "localhost"),
    ],
)
def test_what_thousands_of_boards_share_identifies_none(key: str, value: str) -> None:
    assert identify({key: value}) == (Identity(), [])


@pytest.mark.parametrize(
    ("identity", "label"),
    [
        (Identity(_MAC, _UUID, "s", "h"), _MAC),
        (Identity(None, _UUID, "s", "h"), _UUID),
        (Identity(None, None, "s", "h"), "s"),
        (Identity(None, None, None, "h"), "h"),
    ],
)
def test_the_most_telling_name(identity: Identity, label: str) -> None:
    assert identity.label == label


def test_each_way_to_name_a_machine_finds_it() -> None:
    machines = _machines(
        {"name": "by mac", "mac": "525400123456"},
        {"name": "by uuid", "uuid": _UUID},
        {"name": "by serial", "serial": "7XK2P"},
        {"name": "by hostname", "hostname": "node1"},
    )
    assert _name(machines, mac="52-54-00-12-34-56") == "by mac"
    assert _name(machines, uuid=_UUID.upper()) == "by uuid"
    assert _name(machines, serial=" 7XK2P") == "by serial"
    assert _name(machines, hostname="NODE1.") == "by hostname"
    assert _name(machines, mac="52-54-00-12-34-57", serial="7xk2p") is None
    assert _name(machines) is None


def test_what_identifies_best_wins() -> None:
    machines = _machines(
        {"name": "by hostname", "hostname": "node1"},
        {"name": "by serial", "serial": "7XK2P"},
        {"name": "by uuid", "uuid": _UUID},
        {"name": "by mac", "mac": _MAC},
    )
    said = {"mac": _MAC, "uuid": _UUID, "serial": "7XK2P", "hostname": "node1"}
    for key, expected in (
        ("mac", "by mac"),
        ("uuid", "by uuid"),
        ("serial", "by serial"),
        ("hostname", "by hostname"),
    ):
        assert _name(machines, **said) == expected
        del said[key]


def test_a_group_is_found_by_each_of_its_members() -> None:
    machines = _machines(
        {"name": "rack", "mac": [_MAC, "525400000001"], "hostname": ["a1", "a2"]},
        {"name": "other", "mac": "525400000002"},
    )
    for said in ({"mac": _MAC}, {"mac": "525400000001"}, {"hostname": "a2"}):
        assert _name(machines, **said) == "rack"
    assert _name(machines, mac="525400000002", hostname="a1") == "other"


def test_a_value_of_one_kind_is_none_of_another() -> None:
    machines = _machines({"name": "one", "serial": "node1"})
    assert _name(machines, hostname="node1") is None


def test_sightings_forget_the_address_not_seen_for_longest() -> None:
    sightings = Sightings(capacity=2)
    sightings.note("192.0.2.1", Sighting("one"))
    sightings.note("192.0.2.2", Sighting("two"))
    sightings.note("192.0.2.1", Sighting("one again"))
    sightings.note("192.0.2.3", Sighting("three"))
    assert sightings.label("192.0.2.1") == "one again"
    assert sightings.label("192.0.2.2") is None
    assert sightings.label("192.0.2.3") == "three"


def test_a_profile_chosen_from_a_menu_is_remembered_beside_what_is_known() -> None:
    sightings = Sightings()
    sightings.note("192.0.2.1", Sighting("one", None, "rescue"))
    sightings.note_profile("192.0.2.1", "installer")
    sightings.note_profile("192.0.2.2", "installer")
    assert sightings.at("192.0.2.1") == Sighting("one", None, "installer")
    assert sightings.at("192.0.2.2") == Sighting(None, None, "installer")
    assert sightings.label("192.0.2.2") is None
    assert sightings.at("192.0.2.3") is None
