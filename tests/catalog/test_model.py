"""Values are written in many ways and compared in one."""

from __future__ import annotations

import string
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootserve.catalog.model import (
    parse_command_line,
    parse_hostname,
    parse_mac,
    parse_serial,
    parse_uuid,
)

_NOT_TEXT = (None, 5, b"x", ["x"], {"x": "y"}, True)


@pytest.mark.parametrize(
    "text",
    [
        "52:54:00:ab:cd:ef",
        "52:54:00:AB:CD:EF",
        "52-54-00-ab-cd-ef",
        "5254.00ab.cdef",
        "525400abcdef",
    ],
)
def test_ways_to_write_a_mac_address(text: str) -> None:
    assert parse_mac(text) == "52:54:00:ab:cd:ef"


@pytest.mark.parametrize(
    "value",
    [
        "",
        "52:54:00:ab:cd",
        "52:54:00:ab:cd:ef:00",
        "52:54:00:ab:cd:eg",
        "52:54:00:ab:cd:ef\n",
        " 52:54:00:ab:cd:ef",
        "52:54:00:ab:cd:e${x}",
        "5\u0662:54:00:ab:cd:ef",
        *_NOT_TEXT,
    ],
)
def test_what_is_no_mac_address(value: object) -> None:
    with pytest.raises(ValueError, match="write it like 52:54:00:12:34:56"):
        parse_mac(value)


@given(st.binary(min_size=6, max_size=6), st.sampled_from([":", "-", ""]))
def test_every_mac_address_is_told_in_one_way(address: bytes, separator: str) -> None:
    text = address.hex(separator) if separator else address.hex()
    assert parse_mac(text.upper()) == address.hex(":")


@given(st.uuids())
def test_every_uuid_is_told_in_one_way(value: uuid.UUID) -> None:
    assert parse_uuid(str(value).upper()) == parse_uuid(value.hex) == str(value)


@pytest.mark.parametrize("value", ["", "4c4c4544", "g" * 32, "0" * 33, *_NOT_TEXT])
def test_what_is_no_uuid(value: object) -> None:
    with pytest.raises(ValueError, match="write it like 4c4c4544-"):
        parse_uuid(value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  7XK2P ", "7XK2P"),
        ("VMware-56 4d 1a", "VMware-56 4d 1a"),
        ("$#;||", "$#;||"),
        ("a" * 128, "a" * 128),
    ],
)
def test_serial_numbers_are_nearly_anything(text: str, expected: str) -> None:
    assert parse_serial(text) == expected


@pytest.mark.parametrize(
    "value", ["", "   ", "a\nb", "a\0", "\x1b[2J", "\ud800", "a" * 129, *_NOT_TEXT]
)
def test_what_is_no_serial_number(value: object) -> None:
    with pytest.raises(ValueError, match="serial number"):
        parse_serial(value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("node1", "node1"),
        ("Node1.Example.COM", "node1.example.com"),
        ("node1.example.com.", "node1.example.com"),
        ("web_01", "web_01"),
        ("9", "9"),
        ("a" * 63, "a" * 63),
    ],
)
def test_host_names(text: str, expected: str) -> None:
    assert parse_hostname(text) == expected


@pytest.mark.parametrize(
    "value",
    [
        "",
        ".",
        "a..b",
        "-a",
        "a-",
        "a b",
        "a\n",
        "${mac}",
        "a;reboot",
        "n\u00f6de",
        "a" * 64,
        ".".join(["a" * 63] * 4),
        *_NOT_TEXT,
    ],
)
def test_what_is_no_host_name(value: object) -> None:
    with pytest.raises(ValueError, match="write it like node1"):
        parse_hostname(value)


@given(st.text(st.characters(codec=None)))
def test_a_host_name_that_passes_is_made_of_harmless_characters(text: str) -> None:
    try:
        name = parse_hostname(text)
    except ValueError:
        return
    assert set(name) <= set(string.ascii_lowercase + string.digits + "-_.")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("  quiet   splash ", "quiet splash"),
        ("console=ttyS0,115200n8 root=/dev/sda1", "console=ttyS0,115200n8 root=/dev/sda1"),
        ("quiet\n\tsplash\n", "quiet splash"),
        ("quiet splash\r\n", "quiet splash"),
        ("quiet\r\nsplash\r\n", "quiet splash"),
        ("ip=${net0/ip} || # ; && \\", "ip=${net0/ip} || # ; && \\"),
    ],
)
def test_command_lines_are_one_line(text: str, expected: str) -> None:
    assert parse_command_line(text) == expected


@pytest.mark.parametrize("value", ["a\x1bb", "a\0b", "a\u2028b", "a\x85b", "\ud800", *_NOT_TEXT])
def test_what_is_no_command_line(value: object) -> None:
    with pytest.raises(ValueError, match=r"control character|not a string"):
        parse_command_line(value)
