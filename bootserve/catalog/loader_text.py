r"""Profiles as PXELINUX's and GRUB's configuration.

How PXELINUX 6 reads a line (``com32/elflink/ldlinux/readconfig.c`` of Syslinux): 4096 bytes at
most, the rest would be a line of its own; there are no quotes, and nothing is replaced. A file's
name ends at white space, several initrds are parted by commas, and ``::`` in front makes a name
begin at the TFTP server's root instead of the directory that PXELINUX came from. So names are held
to characters that mean nothing there, and lines to a length; what cannot be written is refused with
the reason.

How GRUB reads one: as a shell. Between single quotes everything is itself, the quote excepted. What
it hands to the kernel it quotes again, for the kernel: a word with a blank is put into double
quotes, and ``"``, ``'`` and ``\`` get a backslash in front, which the kernel does not take away. So
``a="b c"`` is handed over without its quotes, and arrives as ``"a=b c"``, which means the same.

In both, ``initrd=`` words are left out of a command line. They are there for iPXE; PXELINUX would
load what they name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bootserve.catalog.model import Arch
from bootserve.catalog.profiles import Kernel
from bootserve.catalog.templates import Raw, environment, one_line

_LONGEST_LINE: Final = 2047
"""Bytes of a command line that x86 kernels take (``COMMAND_LINE_SIZE`` is 2048), and PXELINUX."""
_LONGEST_NAME: Final = 240
"""Bytes of a file's name in PXELINUX, whose ``FILENAME_MAX`` is 256, less what stands around it."""
_LONGEST_TITLE: Final = 70
"""Characters, so that a title stays in its line of a console."""

_PLAIN_NAME = re.compile(r"[\w.+/~@=-]+", re.ASCII)
_SETTING = re.compile(r"\$\{([^${}]*)\}")
_CARD = re.compile(r"net[0-9X]+/")
_DEPTH: Final = 8
"""How often settings in settings are replaced."""


class CannotWrite(ValueError):
    """Why a kernel cannot be booted by this loader, as the end of a sentence."""


@dataclass(frozen=True, slots=True)
class Boot:
    """A kernel under the title that a person sees."""

    title: str
    kernel: Kernel
    arches: tuple[Arch, ...]
    """All that the same profile has a kernel for."""


def fill_settings(cmdline: str, values: Mapping[str, str]) -> tuple[str, set[str]]:
    """Replace iPXE's ``${settings}``, and return the text and those that nobody knows here.

    As in iPXE they are replaced from the inside out, and one without a value by nothing.
    """
    unknown = set()

    def value(match: re.Match[str]) -> str:
        name = _CARD.sub("", match[1], count=1)
        if name and name not in values:
            unknown.add(match[1])
        return one_line(values.get(name, "")).replace("${", "$ {")

    for _ in range(_DEPTH):
        cmdline, count = _SETTING.subn(value, cmdline)
        if not count:
            break
    return cmdline, unknown


def pxelinux_text(
    boots: Sequence[Boot],
    *,
    is_menu: bool = False,
    timeout: int = 0,
    says: Sequence[str] = (),
) -> str:
    """Return a configuration that boots the first of ``boots``, or from the disk if there is none.

    Args:
        boots: each as `check_for_pxelinux` accepts it.
        is_menu: let a person choose.
        timeout: seconds that a person has; 0 is for ever.
        says: lines to be shown.
    """
    return _PXELINUX.get_template("pxelinux.j2").render(
        boots=[
            {
                # PXELINUX cannot tell the CPUs apart, so a person has to.
                "title": _title(boot.title) + (" (i386)" if _is_narrow(boot) else ""),
                "kernel": boot.kernel.kernel,
                "initrds": boot.kernel.initrds,
                "cmdline": " ".join(_words(boot.kernel.cmdline)),
            }
            for boot in boots
        ],
        is_menu=is_menu,
        timeout=timeout,
        says=says,
    )


def check_for_pxelinux(kernel: Kernel) -> None:
    """Raise `CannotWrite` if PXELINUX could not be told of this kernel."""
    for name in (kernel.kernel, *kernel.initrds):
        if not _PLAIN_NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
            raise CannotWrite(
                f"PXELINUX takes only names of up to {_LONGEST_NAME} letters, digits and any of"
                f" . _ + - ~ @ = /, and not {name!r}"
            )
    initrds = ",".join(f"::/{name}" for name in kernel.initrds)
    words = [f"BOOT_IMAGE=::/{kernel.kernel}", *_words(kernel.cmdline), f"initrd={initrds}"]
    if len(" ".join(words).encode()) > _LONGEST_LINE:
        raise CannotWrite(f"its command line is longer than {_LONGEST_LINE} bytes")


def grub_text(
    boots: Sequence[Boot],
    *,
    is_menu: bool = False,
    timeout: int = 0,
    says: Sequence[str] = (),
) -> str:
    """The same for GRUB; it boots the first that is for its CPU."""
    return _GRUB.get_template("grub.j2").render(
        boots=[
            {
                # A title with a dash in front would be an option.
                "title": re.sub("^-", " -", _title(boot.title)),
                "kernel": boot.kernel.kernel,
                "initrds": boot.kernel.initrds,
                "words": [_grub_argument(word) for word in _words(boot.kernel.cmdline)],
                "conditions": _conditions(boot.kernel.arch, boot.arches),
            }
            for boot in boots
        ],
        is_menu=is_menu,
        timeout=timeout,
        says=says,
        raw=Raw,
    )


def check_for_grub(kernel: Kernel) -> None:
    """Raise `CannotWrite` if GRUB could not be told of this kernel."""
    for name in (kernel.kernel, *kernel.initrds):
        if not name.isprintable():
            raise CannotWrite(f"GRUB takes only names of printable characters, and not {name!r}")


@dataclass(frozen=True, slots=True)
class _Condition:
    """When GRUB shows an entry: ``"$bootserve_cpu<suffix>" = <value>``."""

    suffix: Raw
    value: Raw


def _conditions(arch: Arch, arches: Sequence[Arch]) -> list[_Condition]:
    conditions = [_Condition(Raw(""), Raw(arch.value))]
    platform = Raw("-$grub_platform")
    if arch is Arch.X86_64 and Arch.I386 not in arches:
        # GRUB may lack its module cpuid. A CPU that cannot is told so by the kernel itself.
        conditions.append(_Condition(platform, Raw("i386-pc")))
    if arch is Arch.I386 and Arch.X86_64 not in arches:
        # Under BIOS a 64-bit CPU starts a 32-bit kernel as well; under UEFI it cannot.
        conditions.append(_Condition(platform, Raw("x86_64-pc")))
    return conditions


def _is_narrow(boot: Boot) -> bool:
    return boot.kernel.arch is Arch.I386 and Arch.X86_64 in boot.arches


def _title(title: str) -> str:
    return title if len(title) <= _LONGEST_TITLE else title[: _LONGEST_TITLE - 1] + "…"


def _words(cmdline: str) -> list[str]:
    """Part a command line as the kernel does: at blanks that are not between double quotes."""
    words = re.findall(r'(?:[^ "]|"[^"]*(?:"|$))+', one_line(cmdline))
    return [word for word in words if not word.startswith("initrd=")]


_QUOTED = re.compile(r'([^"=]+=)?"([^"]*)"')


def _grub_argument(word: str) -> str:
    match = _QUOTED.fullmatch(word)
    return (match[1] or "") + match[2] if match else word


def _grub_quoted(text: str) -> str:
    return "'" + one_line(text).replace("'", "'\\''") + "'"


_PXELINUX = environment(one_line)
_GRUB = environment(_grub_quoted)
