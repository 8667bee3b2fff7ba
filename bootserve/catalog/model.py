"""The words of the catalog: architectures, and how machines and command lines are written.

Every value is normalised here once, whether an operator wrote it in the configuration or a client
sent it over the network, so that the two can be compared.
"""

from __future__ import annotations

import re
import uuid as uuid_module
from enum import StrEnum
from typing import Annotated, TypeVar

from pydantic import BeforeValidator


class Arch(StrEnum):
    """Architectures, as iPXE's ``${buildarch}`` and the folders below an asset root call them."""

    X86_64 = "x86_64"
    I386 = "i386"
    ARM64 = "arm64"


SERVER_URL = (
    r"https?://([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+(%25[A-Za-z0-9._-]+)?\])"
    r"(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]*)?"
)
"""A server's URL that can stand in a script: a host, a port and a plain path, nothing to quote."""

_MAC = re.compile(r"[0-9a-f]{12}")
_HOSTNAME_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")


_PLACEHOLDERS = frozenset(
    {
        "00:00:00:00:00:00",
        "ff:ff:ff:ff:ff:ff",
        "00000000-0000-0000-0000-000000000000",
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
        "03000200-0400-0500-0006-000700080009",
        "localhost",
        "0",
        "none",
        "default string",
        "not specified",
        "system serial number",
        "to be filled by o.e.m.",
    }
)


def is_placeholder(value: str) -> bool:
    """Whether boards say this that were never given an identity of their own.

    Shared by thousands of machines, it identifies none.
    """
    return value.lower() in _PLACEHOLDERS


def parse_mac(value: object) -> str:
    """Return a MAC address as ``52:54:00:12:34:56``; takes ``:``, ``-``, ``.`` or nothing between.

    Raises:
        ValueError: it is no 48-bit MAC address.
    """
    digits = re.sub(r"[:.\-]", "", value).lower() if isinstance(value, str) else ""
    if not _MAC.fullmatch(digits):
        raise ValueError(f"{value!r} is not a MAC address; write it like 52:54:00:12:34:56")
    return ":".join(digits[i : i + 2] for i in range(0, 12, 2))


def parse_uuid(value: object) -> str:
    """Return a UUID in lower case with dashes, as ``dmidecode`` and iPXE's ``${uuid}`` print it.

    Raises:
        ValueError: it is no UUID.
    """
    try:
        return str(uuid_module.UUID(value if isinstance(value, str) else ""))
    except ValueError:
        raise ValueError(
            f"{value!r} is not a UUID; write it like 4c4c4544-0042-3510-8054-b4c04f4d3432"
        ) from None


def parse_serial(value: object) -> str:
    """Return a serial number (SMBIOS) without the blanks around it.

    Raises:
        ValueError: it is empty, longer than 128 characters, or has control characters in it.
    """
    text = value.strip() if isinstance(value, str) else ""
    if not text or len(text) > 128 or not text.isprintable():
        raise ValueError(f"{value!r} is not a serial number: 1 to 128 printable characters")
    return text


def parse_hostname(value: object) -> str:
    """Return a host name in lower case (RFC 1123, and ``_``, which real hosts use).

    Raises:
        ValueError: it is no host name.
    """
    text = value.lower().removesuffix(".") if isinstance(value, str) else ""
    if len(text) > 253 or not all(_HOSTNAME_LABEL.fullmatch(label) for label in text.split(".")):
        raise ValueError(f"{value!r} is not a host name; write it like node1 or node1.example.com")
    return text


def parse_command_line(value: object) -> str:
    """Return a kernel command line with single blanks between its words, as iPXE will pass it.

    iPXE's own ``${...}`` settings may stand in it. Line breaks become blanks: they would end
    iPXE's command early and begin another.

    Raises:
        ValueError: it has a control character in it.
    """
    if not isinstance(value, str):
        raise ValueError("is not a string")
    text = re.sub(r"[ \t\r\n]+", " ", value).strip()
    if not text.isprintable():
        raise ValueError("has a control character in it; a command line is one line of text")
    return text


def parse_profile_name(value: object) -> str:
    """Return the name of a profile.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", value):
        return value
    raise ValueError(f"{value!r} is not a name: up to 64 letters, digits and . _ -, no blanks")


def parse_server_url(value: object) -> str:
    """Return the URL of a server without a slash at its end.

    Raises:
        ValueError: it is more than a scheme, a host, a port and a plain path.
    """
    if isinstance(value, str) and re.fullmatch(SERVER_URL, value):
        return value.rstrip("/")
    raise ValueError(
        f"{value!r} is not the URL of a server; write it like http://boot.example:8080"
    )


Mac = Annotated[str, BeforeValidator(parse_mac)]
Uuid = Annotated[str, BeforeValidator(parse_uuid)]
Serial = Annotated[str, BeforeValidator(parse_serial)]
Hostname = Annotated[str, BeforeValidator(parse_hostname)]
CommandLine = Annotated[str, BeforeValidator(parse_command_line)]
ProfileName = Annotated[str, BeforeValidator(parse_profile_name)]
ServerUrl = Annotated[str, BeforeValidator(parse_server_url)]

_Item = TypeVar("_Item")
OneOrMany = Annotated[
    tuple[_Item, ...],
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
]
