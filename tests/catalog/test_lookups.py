"""What the loaders' names for their configuration say."""

from __future__ import annotations

import ipaddress
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootserve.catalog.lookups import Loader, Lookup, parse_lookup
from bootserve.catalog.machines import Identity

_WAYS = {
    Loader.PXELINUX: ("pxelinux.cfg/", "/bios/pxelinux.cfg/", "boot//pxelinux.cfg/"),
    Loader.GRUB: ("grub.cfg-", "/grub/grub.cfg-", "EFI/debian/grub.cfg-"),
}
_EITHER = [(loader, before) for loader, ways in _WAYS.items() for before in ways]


@pytest.mark.parametrize(("loader", "before"), _EITHER)
def test_by_mac_address(loader: Loader, before: str) -> None:
    expected = Lookup(loader, (Identity(mac="52:54:00:ab:cd:ef"),))
    assert parse_lookup(before + "01-52-54-00-ab-cd-ef") == expected
    assert parse_lookup(before + "01-52-54-00-AB-CD-EF") == expected
    # The hardware type of IEEE 802 networks, which some ROMs say instead of Ethernet's.
    assert parse_lookup(before + "06-52-54-00-ab-cd-ef") == expected


@pytest.mark.parametrize(("loader", "before"), _EITHER)
def test_by_uuid_in_both_orders_of_its_bytes(loader: Loader, before: str) -> None:
    # The first is what PXELINUX 6.04 asked for on a machine whose dmidecode says the second.
    assert parse_lookup(before + "33221100-5544-7766-8899-aabbccddeeff") == Lookup(
        loader,
        (
            Identity(uuid="33221100-5544-7766-8899-aabbccddeeff"),
            Identity(uuid="00112233-4455-6677-8899-aabbccddeeff"),
        ),
    )


@pytest.mark.parametrize(("loader", "before"), _EITHER)
def test_by_address(loader: Loader, before: str) -> None:
    assert parse_lookup(before + "C0A80101") == Lookup(loader, address="192.168.1.1")
    for length in range(1, 8):
        assert parse_lookup(before + "C0A80101"[:length]) == Lookup(loader)


@pytest.mark.parametrize(("loader", "before"), _EITHER)
@pytest.mark.parametrize(
    "said",
    [
        "01-00-00-00-00-00-00",
        "00000000-0000-0000-0000-000000000000",
        "03000200-0400-0500-0006-000700080009",
        # The same with its bytes as DHCP carries them.
        "00020003-0004-0005-0006-000700080009",
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
    ],
)
def test_what_thousands_of_boards_say_names_nobody(loader: Loader, before: str, said: str) -> None:
    found = parse_lookup(before + said)
    assert found is not None
    assert all("03000200" not in (identity.uuid or "") for identity in found.identities)
    assert found.identities == () or said.startswith(("0300", "0002"))
    assert not found.is_last


@pytest.mark.parametrize("name", ["pxelinux.cfg/default", "/a//pxelinux.cfg/default"])
def test_pxelinuxs_last(name: str) -> None:
    assert parse_lookup(name) == Lookup(Loader.PXELINUX, is_last=True)


@pytest.mark.parametrize("name", ["grub.cfg", "/grub/grub.cfg", "//EFI/debian/grub.cfg"])
def test_grubs_last(name: str) -> None:
    assert parse_lookup(name) == Lookup(Loader.GRUB, is_last=True)


@pytest.mark.parametrize(
    "name",
    [
        *("", "/", "default", "pxelinux.cfg", "pxelinux.cfg/", "pxelinux.cfg/a/b", "pxelinux.0"),
        *("grub.cfg/x", "mygrub.cfg", "grub.cfgx", "grub", "GRUB.CFG", "PXELINUX.CFG/default"),
        *("../pxelinux.cfg/default", "x/../grub.cfg", "grub.cfg\0", "01-52-54-00-ab-cd-ef"),
    ],
)
def test_other_names(name: str) -> None:
    assert parse_lookup(name) is None


@given(st.sampled_from(_EITHER), st.text(max_size=50))
def test_whatever_stands_in_a_lookup_only_a_real_identity_is_one(
    way: tuple[Loader, str], said: str
) -> None:
    found = parse_lookup(way[1] + said)
    if found is None:
        return
    for identity in found.identities:
        assert identity.mac or identity.uuid == str(uuid.UUID(identity.uuid))
    if found.address is not None:
        assert said == f"{int(ipaddress.IPv4Address(found.address)):08X}"


@given(st.uuids(), st.binary(min_size=6, max_size=6), st.ip_addresses(v=4))
def test_everybody_is_found_by_what_a_loader_says(
    number: uuid.UUID, mac: bytes, address: ipaddress.IPv4Address
) -> None:
    as_dhcp_carries_it = str(uuid.UUID(bytes=number.bytes_le))
    for before in ("pxelinux.cfg/", "grub.cfg-"):
        by_uuid = parse_lookup(before + as_dhcp_carries_it)
        assert by_uuid
        if number.int not in (0, 2**128 - 1, 0x03000200_0400_0500_0006_000700080009):
            assert Identity(uuid=str(number)) in by_uuid.identities
        by_mac = parse_lookup(f"{before}01-{mac.hex('-')}")
        assert by_mac
        if len(set(mac)) > 1:
            assert by_mac.identities == (Identity(mac=mac.hex(":")),)
        by_address = parse_lookup(f"{before}{int(address):08X}")
        assert by_address
        assert by_address.address == str(address)
