"""Under which addresses this host can be reached."""

from __future__ import annotations

import ipaddress
import socket

import ifaddr

_DOCUMENTATION_NET = ("192.0.2.1", 9)


def host_addresses() -> list[str]:
    """Return this host's IPv4 and IPv6 addresses, the likeliest for boot clients first.

    Loopback is left out unless there is nothing else; so are link-local addresses, whose meaning
    depends on the interface.
    """
    found = []
    for adapter in ifaddr.get_adapters():
        for ip in adapter.ips:
            text = ip.ip if isinstance(ip.ip, str) else ip.ip[0]
            address = ipaddress.ip_address(text)
            if not address.is_loopback and not address.is_link_local:
                found.append(str(address))
    preferred = _default_source()
    found.sort(key=lambda text: (text != preferred, ":" in text))
    return found or ["127.0.0.1"]


def _default_source() -> str | None:
    """Return the address that the default route would send from; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_DOCUMENTATION_NET)
        except OSError:
            return None
        return str(probe.getsockname()[0])
