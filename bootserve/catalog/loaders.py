"""Configuration for PXELINUX and GRUB, made of the profiles that iPXE's scripts are made of.

Who is asked for by its UUID or MAC address and has an entry in ``[[machines]]`` gets what its
profile boots. Whoever has none gets nothing under such a name, so that its loader goes on to the
last one, ``pxelinux.cfg/default`` or ``grub.cfg``. There the address counts: a machine that was
seen there by HTTP is known by it, all others get ``boot.default``, or without one a menu.

What a lookup says of its sender is used for this one answer and not remembered: anybody can send a
datagram under anybody's address.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence

from bootserve.catalog.entries import Machine, Profile
from bootserve.catalog.loader_text import (
    Boot,
    CannotWrite,
    check_for_grub,
    check_for_pxelinux,
    fill_settings,
    grub_text,
    pxelinux_text,
)
from bootserve.catalog.lookups import Loader, Lookup
from bootserve.catalog.machines import Identity, Machines, Sightings
from bootserve.catalog.model import Arch
from bootserve.catalog.profiles import Found, Kernel, kernels
from bootserve.settings import Settings
from bootserve.text import printable

logger = logging.getLogger("bootserve.catalog")

_MOST_WARNINGS = 1000


class LoaderConfigs:
    """Answers the lookups of both loaders.

    Args:
        sightings: who was seen at which address.
        look: lists what the asset roots hold.
    """

    def __init__(
        self,
        settings: Settings,
        sightings: Sightings,
        look: Callable[[], Awaitable[Sequence[Found]]],
    ) -> None:
        self._settings = settings
        self._sightings = sightings
        self._look = look
        self._machines = Machines(settings.machines)
        self._warned: set[str] = set()

    async def answer(self, lookup: Lookup, url: str, client: str) -> str | None:
        """Return the text for whoever asks, or ``None`` if there is none under this name.

        Args:
            url: what this client would call our HTTP door.
            client: its address.

        Raises:
            AssetUnavailable: the asset roots could not be listed.
        """
        machine, identity = self._who(lookup, client)
        if machine is None and not lookup.is_last:
            return None
        known = _known(url, client, machine, identity)
        name = machine.profile if machine else self._settings.boot.default
        if name is None:
            return await self._menu(lookup.loader, known)
        return self._configured(lookup.loader, name, machine, known)

    def _who(self, lookup: Lookup, client: str) -> tuple[Machine | None, Identity]:
        for identity in lookup.identities:
            machine = self._machines.find(identity)
            if machine is not None:
                return machine, identity
        seen = self._sightings.at(client)
        if seen is None or not (lookup.is_last or lookup.address == client):
            return None, Identity()
        return seen.machine, seen.identity

    def _configured(
        self, loader: Loader, name: str, machine: Machine | None, known: dict[str, str]
    ) -> str:
        profile = self._settings.profiles[name]
        title = profile.title or name
        boots = self._boots(loader, title, profile, machine.cmdline if machine else "", known)
        text = _TEXT[loader]
        if boots:
            return text(boots, says=[f"booting {printable(title)}"])
        return text(
            (),
            says=[f"{printable(title)} is not for {loader}, going back to the firmware"],
        )

    async def _menu(self, loader: Loader, known: dict[str, str]) -> str | None:
        choices = [
            (profile.title or name, profile) for name, profile in self._settings.profiles.items()
        ]
        if not choices:
            choices = [
                (kernel.name, kernel.profile) for kernel in await self._look() if kernel.profile
            ]
        boots = [
            boot
            for title, profile in choices
            for boot in self._boots(loader, title, profile, "", known)
        ]
        if not boots:
            return None
        return _TEXT[loader](boots, is_menu=True, timeout=self._settings.boot.menu_timeout)

    def _boots(
        self, loader: Loader, title: str, profile: Profile, cmdline: str, known: dict[str, str]
    ) -> list[Boot]:
        """Return what this loader can boot of a profile, 64-bit kernels first."""
        if profile.script is not None:
            self._warn(f"{title}: a script for iPXE, which {loader} cannot boot")
        boots = []
        found = sorted(kernels(profile, cmdline), key=lambda kernel: kernel.arch is Arch.I386)
        for kernel in found:
            if kernel.arch not in _ARCHES[loader]:
                continue
            text, unknown = fill_settings(kernel.cmdline, known)
            for setting in sorted(unknown):
                self._warn(f"{title}: {loader} cannot fill in iPXE's ${{{setting}}}, left out")
            filled = Kernel(kernel.arch, kernel.kernel, kernel.initrds, text)
            try:
                _CHECK[loader](filled)
            except CannotWrite as error:
                self._warn(f"{title} ({kernel.arch}): {error}")
            else:
                boots.append(Boot(title, filled, profile.arches()))
        return boots

    def _warn(self, sentence: str) -> None:
        """Tell the operator once, not at each boot."""
        if sentence not in self._warned and len(self._warned) < _MOST_WARNINGS:
            self._warned.add(sentence)
            logger.warning("%s", printable(sentence, longest=500))


_TEXT = {Loader.PXELINUX: pxelinux_text, Loader.GRUB: grub_text}
_ARCHES = {Loader.PXELINUX: (Arch.X86_64, Arch.I386), Loader.GRUB: tuple(Arch)}
_CHECK = {Loader.PXELINUX: check_for_pxelinux, Loader.GRUB: check_for_grub}


def _known(url: str, client: str, machine: Machine | None, identity: Identity) -> dict[str, str]:
    """Return those of iPXE's settings that can be told without iPXE."""
    known = {
        "bootserve-url": url,
        "bootserve-machine": machine.name if machine else None,
        "ip": client,
        "mac": identity.mac,
        "mac:hexhyp": identity.mac and identity.mac.replace(":", "-"),
        "uuid": identity.uuid,
        "serial": identity.serial,
        "hostname": identity.hostname,
    }
    # The name of an entry may be left out, and is then empty with iPXE as well.
    return {
        name: value or "" for name, value in known.items() if value or name == "bootserve-machine"
    }
