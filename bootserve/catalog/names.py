r"""Names as firmware and boot loaders write them.

A client's name for a file is taken as it is first: a file may be called ``boot\x``, and then that
is what is meant. Empty parts are dropped wherever a name is split (`opening.split_name`), so
slashes too many change nothing; they are only told of here, to be counted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from bootserve.catalog.model import Arch

_OTHER_WORDS = {
    "amd64": Arch.X86_64,
    "x64": Arch.X86_64,
    "i686": Arch.I386,
    "x86": Arch.I386,
    "aarch64": Arch.ARM64,
    # iPXE's and the loaders' own files, which lie wherever somebody has put them.
    "undionly": Arch.I386,
    "pxelinux": Arch.I386,
    "snponly": Arch.X86_64,
    "grubx64": Arch.X86_64,
    "grubaa64": Arch.ARM64,
}


class NameQuirk(StrEnum):
    """What is odd about a name that was answered all the same. The values are for logs and figures.

    A quirk counts when a client got something under that name, not when it merely asked.
    """

    LEADING_SLASH = "leading-slash"
    """``/grub/grub.cfg``: GRUB, and whatever was told a path instead of a name by DHCP. There is
    no other directory than ours that it could begin at."""

    DOUBLED_SLASHES = "doubled-slashes"
    """``bios//file``: PXELINUX and shim join the directory that they came from, which ends in a
    slash, and a name that begins with one."""

    BACKSLASHES = "backslashes"
    r"""``\Boot\BCD``, ``\EFI\boot\grubx64.efi``: Windows' boot manager, and loaders that pass on a
    path as UEFI writes it. A backslash parts a name if no file has it in its own."""

    OTHER_CASE = "other-case"
    """``/X86_64/VMLINUZ``: Windows' boot manager and DOS tools, for which case never meant
    anything. Only with ``tftp.ignore_case``."""

    PXELINUX_LOOKUP = "pxelinux-lookup"
    """``pxelinux.cfg/...``, answered from the profiles, see `catalog.loaders`."""

    GRUB_LOOKUP = "grub-lookup"
    """``grub.cfg``, ``grub.cfg-...``, answered from the profiles."""


@dataclass(frozen=True, slots=True)
class Spelling:
    """A name to be looked for, and what is odd about a client that meant this one."""

    name: str
    quirks: tuple[NameQuirk, ...]


def spellings(name: str) -> tuple[Spelling, ...]:
    """Return what a client may mean by ``name``, the likeliest first; there is at least one."""
    as_given = Spelling(name, _about_slashes(name))
    if "\\" not in name:
        return (as_given,)
    turned = name.replace("\\", "/")
    return as_given, Spelling(turned, (NameQuirk.BACKSLASHES, *_about_slashes(turned)))


def _about_slashes(name: str) -> tuple[NameQuirk, ...]:
    quirks = []
    if name.startswith("/"):
        quirks.append(NameQuirk.LEADING_SLASH)
    if "//" in name:
        quirks.append(NameQuirk.DOUBLED_SLASHES)
    return tuple(quirks)


@lru_cache(maxsize=4096)
def architecture_of(name: str) -> str:
    """Return the architecture for which an asset is, as its name tells; empty if it does not.

    The nearest word counts: in ``x86_64/snponly-arm64.efi`` that is arm64.
    """
    for part in reversed(name.lower().split("/")):
        for word in (part, *re.split(r"[-.,+]", part)[::-1]):
            if word in _ARCHES:
                return _ARCHES[word]
    return ""


_ARCHES = {**{arch.value: arch.value for arch in Arch}, **_OTHER_WORDS}
