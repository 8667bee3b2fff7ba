"""Values that are going to be pasted into somebody's DHCP server.

Nothing is quoted or escaped: the three configuration languages disagree about how. Instead only
characters are let through that mean nothing in any of them.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address
from typing import Final

# RFC 2131 section 2: `file` has 128 octets and ends in a NUL.
MAX_TARGET: Final = 127

_URL: Final = re.compile(
    r"https?://"
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[(?P<ipv6>[0-9A-Fa-f:.]+)\])"
    r"(?::(?P<port>[0-9]{1,5}))?"
    r"(?:/[A-Za-z0-9._~%+-]+)*"
)
_FILE: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*(?:/[A-Za-z0-9_][A-Za-z0-9._+-]*)*")


def checked_address(server: IPv4Address | str) -> IPv4Address:
    """The IPv4 address, which must be one that a client could send a packet to."""
    try:
        address = IPv4Address(server)
    except ValueError:
        raise ValueError(f"server {server!r} is not an IPv4 address such as 192.168.1.10") from None
    if address.is_unspecified or address.is_loopback or address.is_multicast or address.is_reserved:
        raise ValueError(
            f"server {address} is not an address that a booting machine can reach; "
            "name the one that bootserve has on the boot network"
        )
    return address


def checked_url(http_url: str) -> str:
    """The beginning of a URL: scheme, host, port and perhaps a path, no slash at the end."""
    if http_url.endswith("/"):
        raise ValueError(f"http_url {http_url!r} must not end with a slash")
    match = _URL.fullmatch(http_url)
    if match is None:
        raise ValueError(
            f"http_url {http_url!r} is not a plain URL such as http://192.168.1.10:8080 "
            "(no spaces, quotes, user names, queries or fragments)"
        )
    if match["ipv6"] is not None:
        try:
            IPv6Address(match["ipv6"])
        except ValueError:
            raise ValueError(f"http_url {http_url!r} has no IPv6 address in its brackets") from None
    if match["port"] is not None:
        checked_port(int(match["port"]))
    return http_url


def checked_boot_file(name: str) -> str:
    """A file name as firmware asks for it over TFTP, directories allowed."""
    if _FILE.fullmatch(name) is None:
        raise ValueError(
            f"boot file {name!r} is not a plain name such as snponly.efi or x86_64/ipxe.efi "
            "(letters, digits and . _ + - only, no leading slash or dot)"
        )
    return name


def checked_target(target: str) -> str:
    """What a client is told to fetch, which has to fit into the packet."""
    if len(target) > MAX_TARGET:
        raise ValueError(
            f"{target!r} is {len(target)} characters long; "
            f"the boot file field of DHCP holds {MAX_TARGET}"
        )
    return target


def checked_port(port: int) -> int:
    """A port that can be listened on."""
    if not 1 <= port <= 65535:
        raise ValueError(f"port {port} is not between 1 and 65535")
    return port
