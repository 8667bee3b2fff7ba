"""Where the iPXE binaries are that firmware loads first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bootserve.catalog.assets import Assets

_DISTRIBUTIONS = (
    Path("/usr/lib/ipxe"),  # Debian, Ubuntu
    Path("/usr/share/ipxe"),  # Fedora, Arch, openSUSE, Alpine
)


@dataclass(frozen=True, slots=True)
class Kind:
    """An iPXE binary under the name that we serve it by, and its names elsewhere."""

    name: str
    firmware: str
    is_common: bool
    elsewhere: tuple[str, ...] = ()


KINDS = (
    Kind("undionly.kpxe", "BIOS", True, ("undionly.kpxe",)),
    Kind("ipxe.pxe", "BIOS, iPXE's own drivers", False, ("ipxe.pxe",)),
    Kind(
        "snponly.efi",
        "UEFI x86_64",
        True,
        ("snponly.efi", "ipxe-snponly-x86_64.efi", "x86_64/snponly.efi", "snp-x86_64.efi"),
    ),
    Kind(
        "ipxe.efi",
        "UEFI x86_64, iPXE's own drivers",
        True,
        ("ipxe.efi", "ipxe-x86_64.efi", "x86_64/ipxe.efi"),
    ),
    Kind("ipxe-i386.efi", "UEFI i386", False, ("ipxe-i386.efi", "i386/ipxe.efi")),
    Kind(
        "snponly-arm64.efi",
        "UEFI arm64",
        False,
        ("snponly-arm64.efi", "arm64-efi/snponly.efi", "arm64/snponly.efi"),
    ),
    Kind(
        "ipxe-arm64.efi",
        "UEFI arm64, iPXE's own drivers",
        False,
        ("ipxe-arm64.efi", "arm64-efi/ipxe.efi", "arm64/ipxe.efi"),
    ),
)


@dataclass(frozen=True, slots=True)
class Binary:
    """A kind of iPXE binary and where it was found."""

    kind: Kind
    where: str
    """An asset's name, or the path of a file outside the roots."""


def locate(search: Sequence[Path] = ()) -> dict[str, Path]:
    """Find each kind outside the asset roots: in ``search``, then where distributions put it."""
    found: dict[str, Path] = {}
    for kind in KINDS:
        for folder in (*search, *_DISTRIBUTIONS):
            paths = [folder / name for name in (kind.name, *kind.elsewhere)]
            path = next((path for path in paths if _is_file(path)), None)
            if path is not None:
                found[kind.name] = path
                break
    return found


def available(assets: Assets) -> list[Binary]:
    """The kinds that a client can get from ``assets`` now, in the order of `KINDS`."""
    binaries = []
    for kind in KINDS:
        if assets.exists(kind.name):
            extra = assets.extras.get(kind.name)
            in_root = any(_is_file(root / kind.name) for root in assets.roots)
            binaries.append(Binary(kind, kind.name if in_root or extra is None else str(extra)))
    return binaries


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        # Somebody else's folder: what we may not look into, we cannot serve.
        return False


def advice(binaries: Sequence[Binary]) -> str | None:
    """One sentence on what is missing that most sites need, or ``None``."""
    have = {binary.kind.name for binary in binaries}
    if not have:
        what = "no iPXE binary"
    elif "undionly.kpxe" not in have:
        what = "no undionly.kpxe, so BIOS machines cannot start"
    elif not have & {"snponly.efi", "ipxe.efi"}:
        what = "no snponly.efi or ipxe.efi, so UEFI machines cannot start"
    else:
        return None
    return (
        f"{what}: install the package with iPXE's boot files (Debian, Ubuntu: ipxe;"
        " Fedora: ipxe-bootimgs-x86; Arch: ipxe) or put them into an asset root"
    )
