"""Who is asking: what iPXE says about a machine, and which configured machine that is."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from bootserve.catalog.entries import Machine
from bootserve.catalog.model import (
    is_placeholder,
    parse_hostname,
    parse_mac,
    parse_serial,
    parse_uuid,
)


@dataclass(frozen=True, slots=True)
class Identity:
    """What a client said of itself, normalised; what was absent or no such thing is ``None``."""

    mac: str | None = None
    uuid: str | None = None
    serial: str | None = None
    hostname: str | None = None

    @property
    def label(self) -> str | None:
        """The most telling single name, for a log line."""
        return self.mac or self.uuid or self.serial or self.hostname


_PARSERS: dict[str, Callable[[object], str]] = {
    "mac": parse_mac,
    "uuid": parse_uuid,
    "serial": parse_serial,
    "hostname": parse_hostname,
}


def identify(said: Mapping[str, str]) -> tuple[Identity, list[str]]:
    """Read the identity out of a query string's values.

    Returns the identity and a sentence for each value that is not what it claims to be. Such a
    value is left out; the machine still gets what it would get without it.
    """
    found: dict[str, str] = {}
    complaints = []
    for key, parse in _PARSERS.items():
        text = _said(said, key)
        if not text:
            continue
        try:
            value = parse(text)
        except ValueError as error:
            complaints.append(f"{key}: {error}")
            continue
        if not is_placeholder(value):
            found[key] = value
    return Identity(**found), complaints


def _said(said: Mapping[str, str], key: str) -> str:
    """Return what was said in plain text or, as our scripts say it, in hexadecimal."""
    in_hex = said.get(f"{key}-hex")
    if in_hex is None:
        return said.get(key, "")
    try:
        return bytes.fromhex(in_hex).decode("utf-8", "replace")
    except ValueError:
        return ""


class Machines:
    """The configured machines, found by what identifies them best: MAC, UUID, serial, host name."""

    def __init__(self, machines: Sequence[Machine]) -> None:
        self._index: dict[tuple[str, str], Machine] = {
            (kind, value): machine
            for machine in machines
            for kind in _PARSERS
            for value in getattr(machine, kind)
        }

    def find(self, identity: Identity) -> Machine | None:
        for kind in _PARSERS:
            machine = self._index.get((kind, getattr(identity, kind) or ""))
            if machine is not None:
                return machine
        return None


@dataclass(frozen=True, slots=True)
class Sighting:
    """Who asked for a script: its `Identity.label`, its entry, and the profile that it boots.

    The rest is what finds these again in another configuration: all that it said of itself, and
    whether the profile was chosen from a menu.
    """

    label: str | None
    machine: Machine | None = None
    profile: str | None = None
    identity: Identity = field(default=Identity(), compare=False)
    is_chosen: bool = field(default=False, compare=False)


class Sightings:
    """Which machine was last seen at which address, so that a download by address gets a name.

    Bounded: the address not seen for longest is forgotten first.
    """

    def __init__(self, capacity: int = 65536) -> None:
        self._capacity = capacity
        self._seen: OrderedDict[str, Sighting] = OrderedDict()

    def note(self, address: str, sighting: Sighting) -> None:
        self._seen[address] = sighting
        self._seen.move_to_end(address)
        if len(self._seen) > self._capacity:
            self._seen.popitem(last=False)

    def note_profile(self, address: str, profile: str) -> None:
        """Whoever is at this address has chosen another profile from a menu."""
        known = self._seen.get(address)
        if known is None:
            self.note(address, Sighting(None, None, profile, is_chosen=True))
        elif known.profile != profile:
            self.note(address, replace(known, profile=profile, is_chosen=True))

    def all(self) -> list[tuple[str, Sighting]]:
        """Return every address and who was seen there, the one not seen for longest first."""
        return list(self._seen.items())

    def at(self, address: str) -> Sighting | None:
        return self._seen.get(address)

    def label(self, address: str) -> str | None:
        seen = self._seen.get(address)
        return None if seen is None else seen.label
