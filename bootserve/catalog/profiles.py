"""What to boot: configured profiles, and what can be told from the asset roots alone."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from bootserve.catalog.assets import AssetError, Assets
from bootserve.catalog.entries import Profile
from bootserve.catalog.model import Arch, parse_command_line
from bootserve.text import printable

logger = logging.getLogger("bootserve.catalog")

_KERNEL = re.compile(r"(vmlinu[xz]|linux|kernel|bzImage|Image)([-._].*)?", re.IGNORECASE)
_INITRD = re.compile(r"(initrd|initramfs)([-._].*)?", re.IGNORECASE)
_NOT_BOOTED = re.compile(r"\.(cmdline|ipxe|sha\d+|md5|asc|sig|old|txt|config|map)$", re.IGNORECASE)
_DEPTH = 3


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel and what goes with it, for one architecture; names are those of assets."""

    arch: Arch
    kernel: str
    initrds: tuple[str, ...]
    cmdline: str


def kernels(profile: Profile, extra_cmdline: str = "") -> tuple[Kernel, ...]:
    """Return what a profile boots on each of its architectures; nothing for a raw script."""
    if profile.kernel is None:
        return ()
    result = []
    for arch in profile.arches():
        kernel = profile.kernel[arch] if isinstance(profile.kernel, dict) else profile.kernel
        initrds = profile.initrds[arch] if isinstance(profile.initrds, dict) else profile.initrds
        cmdline = profile.cmdline[arch] if isinstance(profile.cmdline, dict) else profile.cmdline
        result.append(
            Kernel(
                arch,
                _asset_name(kernel, arch),
                tuple(_asset_name(initrd, arch) for initrd in initrds),
                _with_arch(f"{cmdline} {extra_cmdline}".strip(), arch),
            )
        )
    return tuple(result)


def _with_arch(text: str, arch: Arch) -> str:
    """Fill ``{arch}`` in, and leave iPXE's own ``${arch}`` alone."""
    return re.sub(r"(?<!\$)\{arch\}", arch, text)


def _asset_name(name: str, arch: Arch) -> str:
    return _with_arch(name, arch).strip("/")


@dataclass(frozen=True, slots=True)
class Found:
    """Something bootable that lies below an asset root: a kernel as a profile, or a script."""

    name: str
    arch: Arch
    profile: Profile | None


def discover(assets: Assets) -> list[Found]:
    """List what could be booted from the asset roots, architecture by architecture.

    A kernel is a file named as distributions name them (vmlinuz, linux, kernel, bzImage, Image,
    each with or without a version behind it). Its initrd is the one beside it with the same
    version, or the only one beside the only kernel. A text file ``<kernel>.cmdline`` or
    ``cmdline`` beside it holds its command line. Files that end in ``.ipxe`` are scripts.
    """
    found = []
    for arch in Arch:
        names = list(assets.walk(arch, _DEPTH))
        for name in names:
            path = PurePosixPath(name)
            if path.suffix == ".ipxe":
                found.append(Found(name, arch, None))
            elif _is_kernel(path):
                initrd = _initrd_of(path, names)
                profile = Profile(
                    title=name,
                    architectures=(arch,),
                    kernel=name,
                    initrds=(initrd,) if initrd else (),
                    cmdline=_cmdline_of(path, assets),
                )
                found.append(Found(name, arch, profile))
    return found


def _initrd_of(kernel: PurePosixPath, names: list[str]) -> str | None:
    beside = [PurePosixPath(name) for name in names if PurePosixPath(name).parent == kernel.parent]
    initrds = [p for p in beside if _INITRD.fullmatch(p.name) and not _NOT_BOOTED.search(p.name)]
    kernels_beside = [p for p in beside if _is_kernel(p)]
    version = re.sub(r"^[A-Za-z]+", "", kernel.name)
    if version:
        ends_there = re.compile(re.escape(version) + r"(?![\w-]|\.\d)")
        choice = [p for p in initrds if ends_there.search(p.name)]
    else:
        choice = [p for p in initrds if not re.search(r"\d", p.name)]
    if not choice and len(initrds) == len(kernels_beside) == 1:
        choice = initrds
    return str(choice[0]) if choice else None


def _is_kernel(path: PurePosixPath) -> bool:
    return bool(_KERNEL.fullmatch(path.name)) and not _NOT_BOOTED.search(path.name)


def _cmdline_of(kernel: PurePosixPath, assets: Assets) -> str:
    for name in (f"{kernel}.cmdline", str(kernel.parent / "cmdline")):
        try:
            with assets.open_now(name) as asset:
                text = asset.read_blocking(4096).decode("utf-8", "replace")
                return parse_command_line(text)
        except ValueError as error:
            logger.warning("%s is not used as a command line: it %s", printable(name), error)
        except (AssetError, OSError):
            continue
    return ""
