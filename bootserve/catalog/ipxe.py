"""Profiles as iPXE scripts.

How iPXE reads a line (``src/core/exec.c`` and ``settings.c`` of iPXE): it is split at white space,
there are no quotes; a word that is ``||``, ``&&`` or ``;``, or begins with ``#``, ends the command;
``${...}`` is replaced inside each word afterwards, again and again until none is left. So:

* every value that a template prints goes through `quote` (Jinja's ``finalize``); forgetting it is
  not possible;
* a value cannot end its command: line breaks are taken out, and a word that would be a terminator
  gets an empty ``${}`` in front, which iPXE removes after it has looked for terminators;
* ``${`` stands only where an operator may use iPXE's settings (a command line); elsewhere it is
  broken up;
* paths are percent-encoded (RFC 3986), which leaves nothing to quote; names travel in paths, never
  in query strings, where iPXE of 2019 undoes the encoding of ``&``, ``+`` and ``#``;
* what a machine says of itself in free text travels in hexadecimal, for the same reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote as percent_encode
from urllib.parse import urlsplit

from bootserve.catalog.entries import Machine, Profile
from bootserve.catalog.machines import Identity, Machines, Sighting
from bootserve.catalog.memo import Memo
from bootserve.catalog.model import Arch, parse_server_url
from bootserve.catalog.profiles import Found, Kernel, kernels
from bootserve.catalog.templates import Raw as Script
from bootserve.catalog.templates import environment, one_line
from bootserve.settings import Settings

_REMEMBERED = 8 << 20
_OVERHEAD = 1024
"""Characters of scripts that are kept, and what each counts for beside its text."""

_TERMINATORS = frozenset({"||", "&&", ";"})


def quote(value: str) -> Script:
    """Make a value safe to stand anywhere in a line of a script as literal text."""
    return quote_settings(re.sub(r"\$(?=\{)", "$ ", value))


def quote_settings(value: str) -> Script:
    """The same for a value in which iPXE's ``${settings}`` are meant to be replaced."""
    return Script(" ".join(_quote_word(word) for word in one_line(value).split(" ")))


def _quote_word(word: str) -> str:
    if word in _TERMINATORS or word.startswith("#"):
        word = "${}" + word
    # A backslash at the end of a line would join the next line to it.
    return word + "${}" if word.endswith("\\") else word


def quote_path(value: str) -> Script:
    return Script(percent_encode(value, safe="/~"))


_ENVIRONMENT = environment(quote)
_ENVIRONMENT.filters["path"] = quote_path
_ENVIRONMENT.filters["settings"] = quote_settings


def checked_url(url: str) -> Script:
    """Return the URL under which a client reached us, if it is one and nothing else.

    Raises:
        ValueError: it holds anything but a scheme, a host, a port and a plain path.
    """
    return Script(parse_server_url(url))


@dataclass(frozen=True, slots=True)
class _Condition:
    """When a menu shows an item: ``iseq ${arch}<suffix> <value>``."""

    suffix: Script
    value: Script


@dataclass(frozen=True, slots=True)
class _Item:
    key: str
    title: str
    url: Script
    conditions: tuple[_Condition, ...]


class ScriptWriter:
    """Writes the scripts that machines get. Pure: what it depends on is given to it.

    Every method takes the URL under which the client calls us, and returns the script's text. What
    depends on the settings alone is written once for each URL, profile and machine.

    Args:
        look: lists what the asset roots hold, if the caller does not say what that is.
    """

    def __init__(self, settings: Settings, look: Callable[[], Sequence[Found]]) -> None:
        self._settings = settings
        self._look = look
        self._machines = Machines(settings.machines)
        self._written = Memo[tuple[str, str, int], str](
            _REMEMBERED, lambda text: len(text) + _OVERHEAD
        )

    @property
    def reads_disk(self) -> bool:
        """Whether scripts depend on what the asset roots hold, so that making one takes a disk."""
        return not self._settings.profiles

    def sight(self, identity: Identity) -> Sighting:
        """Which entry and which profile this machine's script will be made of."""
        machine = self._machines.find(identity)
        profile = machine.profile if machine else self._settings.boot.default
        return Sighting(identity.label, machine, profile, identity)

    def entry(self, url: str) -> str:
        """The entry script, which sends a machine on to its own."""
        return self._written.get((url, "", 0), lambda: self._entry(checked_url(url)))

    def _entry(self, base: Script) -> str:
        rechain = self._rechain_url(base) if self._settings.ipxe.rechain else None
        return self._render("entry.j2", url=base, rechain_url=rechain)

    def machine(
        self, url: str, identity: Identity, found: Sequence[Found] | None = None
    ) -> tuple[str, str]:
        """The script for one machine, and in a few words what it is, for the log."""
        machine = self._machines.find(identity)
        name = machine.profile if machine else self._settings.boot.default
        if name is None:
            return self.menu(url, found), "menu"
        return self._configured(url, name, machine), name

    def profile(self, url: str, name: str, found: Sequence[Found] | None = None) -> str | None:
        """The script of a profile by name; without any, of a kernel below a root by its path."""
        if name in self._settings.profiles:
            return self._configured(url, name, None)
        if not self.reads_disk:
            return None
        for kernel in self._look() if found is None else found:
            if kernel.name == name and kernel.profile:
                return self._profile(checked_url(url), kernel.profile, name, None)
        return None

    def menu(self, url: str, found: Sequence[Found] | None = None) -> str:
        """The menu of the configured profiles; if there are none, of what the roots hold."""
        if self.reads_disk:
            return self._menu(checked_url(url), self._look() if found is None else found)
        return self._written.get((url, "", 1), lambda: self._menu(checked_url(url), ()))

    def _menu(self, base: Script, found: Sequence[Found]) -> str:
        entries: list[tuple[str, Sequence[Arch], str]] = []
        for name, profile in self._settings.profiles.items():
            link = f"{base}/profile/{quote_path(name)}"
            entries.append((profile.title or name, profile.arches(), link))
        for kernel in found:
            kind = "profile" if kernel.profile else "boot"
            link = f"{base}/{kind}/{quote_path(kernel.name)}"
            entries.append((kernel.name, (kernel.arch,), link))
        items = [
            _Item(f"item{index}", title, Script(link), _conditions(arches))
            for index, (title, arches, link) in enumerate(entries)
        ]
        return self._render(
            "menu.j2", url=base, items=items, timeout_ms=self._settings.boot.menu_timeout * 1000
        )

    def _configured(self, url: str, name: str, machine: Machine | None) -> str:
        # Machines live as long as the settings that hold them, and so do their ids.
        key = (url, name, id(machine) if machine else 0)
        profile = self._settings.profiles[name]
        return self._written.get(
            key, lambda: self._profile(checked_url(url), profile, name, machine)
        )

    def _profile(self, url: Script, profile: Profile, name: str, machine: Machine | None) -> str:
        if profile.script is not None:
            return profile.script
        entries: tuple[Kernel, ...] = kernels(profile, machine.cmdline if machine else "")
        return self._render(
            "profile.j2",
            url=url,
            title=profile.title or name,
            machine=machine.name if machine else None,
            kernels=entries,
            arches=[entry.arch for entry in entries],
        )

    def _rechain_url(self, url: Script) -> Script:
        """Over TFTP, as firmware would load it, where TFTP is sure to answer at the same address.

        An optional address may not have been had. iPXE, other than firmware, can use any port.
        """
        host = urlsplit(url).hostname
        ports = [
            endpoint.port
            for endpoint in self._settings.tftp.listen
            if endpoint.host in (None, host) and not endpoint.is_optional
        ]
        if not ports or not host:
            return Script(f"{url}/boot/undionly.kpxe")
        bracketed = f"[{host}]" if ":" in host else host
        port = "" if 69 in ports else f":{ports[0]}"
        return Script(f"tftp://{bracketed}{port}/undionly.kpxe")

    def _render(self, template: str, **values: Any) -> str:
        return _ENVIRONMENT.get_template(template).render(
            attempts=self._settings.boot.attempts, **values
        )


def _conditions(arches: Sequence[Arch]) -> tuple[_Condition, ...]:
    plain = Script("")
    conditions = [_Condition(plain, Script(arch.value)) for arch in arches]
    if Arch.I386 in arches and Arch.X86_64 not in arches:
        # Under BIOS a 64-bit CPU starts a 32-bit kernel as well; under UEFI it cannot.
        conditions.append(_Condition(Script("-${platform}"), Script("x86_64-pcbios")))
    return tuple(conditions)
