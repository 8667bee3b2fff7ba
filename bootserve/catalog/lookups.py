"""What PXELINUX and GRUB call their configuration when they look for it.

Both ask for one name after the other until a server has it, from the most telling to the least:

=============  ============================  ======================================
asks by        PXELINUX                      GRUB
=============  ============================  ======================================
UUID           ``pxelinux.cfg/<uuid>``       ``grub.cfg-<uuid>``
MAC address    ``pxelinux.cfg/01-<mac>``     ``grub.cfg-01-<mac>``
IPv4 address   ``pxelinux.cfg/C0A80101``,    ``grub.cfg-C0A80101``, and so on
               then ``C0A8010``, ... ``C``
nothing        ``pxelinux.cfg/default``      ``grub.cfg``
=============  ============================  ======================================

each in the directory that the loader came from. The part before the MAC address is the hardware
type (1 is Ethernet). Both loaders print the UUID as DHCP carries it, which most firmware fills with
SMBIOS's bytes as they are: the first three groups are then the wrong way round for a person, and
for ``dmidecode`` and iPXE. PXELINUX 6.04 under SeaBIOS asks for ``33221100-5544-7766-8899-...``
where ``${uuid}`` is ``00112233-4455-6677-8899-...``. So a UUID is read both ways.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from bootserve.catalog.machines import Identity
from bootserve.catalog.model import is_placeholder, parse_mac
from bootserve.catalog.opening import split_name


class Loader(StrEnum):
    PXELINUX = "PXELINUX"
    GRUB = "GRUB"


@dataclass(frozen=True, slots=True)
class Lookup:
    """One of a loader's questions. One that says nothing of who asks is its last."""

    loader: Loader
    identities: tuple[Identity, ...] = ()
    """Who asks; any of these, where what it says can be read in two ways."""

    address: str | None = None
    """The address that it asks by, an IPv4 literal."""

    is_last: bool = False


_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_MAC = re.compile(r"[0-9a-f]{2}-([0-9a-f]{2}(?:-[0-9a-f]{2}){5})", re.IGNORECASE)
_ADDRESS = re.compile(r"[0-9A-F]{8}")


def parse_lookup(name: str) -> Lookup | None:
    """Return what a loader asks for by this name, or ``None`` if it is no such name.

    A name of the right kind that says nothing we could know anybody by, like a part of an address,
    is a lookup without identities and address that is not the last.
    """
    parts = split_name(name) or [""]
    if len(parts) > 1 and parts[-2] == "pxelinux.cfg":
        if parts[-1] == "default":
            return Lookup(Loader.PXELINUX, is_last=True)
        return _lookup(Loader.PXELINUX, parts[-1])
    if parts[-1] == "grub.cfg":
        return Lookup(Loader.GRUB, is_last=True)
    if parts[-1].startswith("grub.cfg-"):
        return _lookup(Loader.GRUB, parts[-1].removeprefix("grub.cfg-"))
    return None


def _lookup(loader: Loader, said: str) -> Lookup:
    if _UUID.fullmatch(said):
        given = UUID(said)
        either = dict.fromkeys((str(given), str(UUID(bytes=given.bytes_le))))
        known = [uuid for uuid in either if not is_placeholder(uuid)]
        return Lookup(loader, tuple(Identity(uuid=uuid) for uuid in known))
    if match := _MAC.fullmatch(said):
        mac = parse_mac(match[1])
        return Lookup(loader, () if is_placeholder(mac) else (Identity(mac=mac),))
    if _ADDRESS.fullmatch(said):
        return Lookup(loader, address=str(ipaddress.IPv4Address(bytes.fromhex(said))))
    return Lookup(loader)
