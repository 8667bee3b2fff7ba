"""The catalog as one thing: what every door needs to know to answer a machine."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial

from bootserve.catalog import binaries
from bootserve.catalog.assets import AssetNotFound, Assets, Source, Text
from bootserve.catalog.discovery import Discovery
from bootserve.catalog.ipxe import ScriptWriter
from bootserve.catalog.lanes import Lanes
from bootserve.catalog.loaders import LoaderConfigs
from bootserve.catalog.lookups import Loader, parse_lookup
from bootserve.catalog.machines import Sightings
from bootserve.catalog.names import NameQuirk, spellings
from bootserve.catalog.opening import split_name
from bootserve.catalog.other_case import open_in_other_case
from bootserve.catalog.profiles import discover
from bootserve.settings import Settings

ENTRY_SCRIPT = "boot.ipxe"
AUTOEXEC = "autoexec.ipxe"
"""What iPXE binaries since 2020 ask for on their own, beside the file that they came from."""

_QUIRKS = {
    Loader.PXELINUX: NameQuirk.PXELINUX_LOOKUP,
    Loader.GRUB: NameQuirk.GRUB_LOOKUP,
}


class Catalog:
    """Assets, scripts, and who is who. One for the whole process."""

    def __init__(self, settings: Settings) -> None:
        self.assets = Assets(settings.assets.roots, binaries.locate(settings.ipxe.search))
        look = partial(discover, self.assets)
        self.discovery = Discovery(look)
        self.scripts = ScriptWriter(settings, look)
        self.sightings = Sightings()
        self.lanes = Lanes(
            default=settings.http,
            slow=settings.lanes,
            profiles=settings.profiles,
            agents=settings.lanes.agents,
        )
        self._loaders = LoaderConfigs(settings, self.sightings, self.discovery.now)
        self._ignores_case = settings.tftp.ignore_case

    async def open(self, name: str, url: str) -> Source:
        """Open what a client calls ``name``, an asset or the entry script.

        Args:
            name: the client's name for it; ``boot/`` in front, as in an HTTP path, is optional.
            url: what this client would call our HTTP door, for the entry script.

        Raises:
            AssetNotFound, AssetForbidden, AssetUnavailable: as `Assets.open_now`.
        """
        try:
            return await self.assets.open(name)
        except AssetNotFound:
            parts = split_name(name) or [""]
            if parts[-1] == AUTOEXEC or parts in ([ENTRY_SCRIPT], ["boot", ENTRY_SCRIPT]):
                return Text("/".join(parts), self.scripts.entry(url).encode())
            raise

    async def open_for_firmware(
        self, name: str, url: str, *, client: str, note: Callable[[NameQuirk], None]
    ) -> Source:
        """Open what firmware or a boot loader calls ``name``.

        What `open` finds goes first; then the same with backslashes as slashes, a name in another
        case where the settings permit it, and a loader's configuration made of the profiles.

        Args:
            client: its address.
            note: called with each thing that was odd about a name under which something was found.

        Raises:
            AssetNotFound, AssetForbidden, AssetUnavailable: as `open`.
        """
        missing = None
        for spelling in spellings(name):
            try:
                source = await self.open(spelling.name, url)
            except AssetNotFound as error:
                missing = missing or error
            else:
                return _noted(source, spelling.quirks, note)
        if self._ignores_case:
            with contextlib.suppress(AssetNotFound):
                opener = partial(open_in_other_case, self.assets)
                source = await self.assets.in_thread(opener, spelling.name)
                return _noted(source, (*spelling.quirks, NameQuirk.OTHER_CASE), note)
        lookup = parse_lookup(spelling.name)
        text = await self._loaders.answer(lookup, url, client) if lookup else None
        if lookup is None or text is None:
            raise missing or AssetNotFound(name, "is not there")
        source = Text("/".join(split_name(spelling.name) or ()), text.encode())
        return _noted(source, (*spelling.quirks, _QUIRKS[lookup.loader]), note)


def _noted(
    source: Source, quirks: tuple[NameQuirk, ...], note: Callable[[NameQuirk], None]
) -> Source:
    for quirk in quirks:
        note(quirk)
    return source
