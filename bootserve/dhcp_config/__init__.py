"""What a person pastes into a DHCP server so that machines chain into bootserve.

Which machine gets what, the same for every server:

==================================  =====================================  ======
who asks                            is told to fetch                       by
==================================  =====================================  ======
iPXE (option 77 "iPXE", or 175)     ``<http_url>/boot.ipxe``               HTTP
PXE firmware, option 93 = 0         the BIOS file                          TFTP
PXE firmware, option 93 = 7 or 9    the x86_64 EFI file                    TFTP
PXE firmware, option 93 = 6         the 32-bit EFI file                    TFTP
PXE firmware, option 93 = 11        the arm64 EFI file                     TFTP
UEFI HTTP Boot, 16, 15 or 19        ``<http_url>/boot/<file>``             HTTP
anything else                       nothing
==================================  =====================================  ======

Sources: RFC 4578 section 2.1 and the IANA registry "Processor Architecture Types" for option 93;
the first print of the RFC has 7 and 9 the other way round than the registry and its erratum, so
both mean x86_64. UEFI 2.10 section 24.7 for HTTP Boot, whose firmware takes an offer for one only
if option 60 of it begins with ``HTTPClient``. RFC 3004 for option 77, which iPXE fills with its
bare name, without the length that the RFC puts in front.

Option 93 may hold several types, and RFC 4578 does not say what that means. The first one
decides, with every server.

Where the file's name goes: for PXE firmware into the packet's ``file`` field only, if the server
leaves us the choice. Old ROMs, and some UEFI firmware, take option 67 for NUL-terminated, which
ISC's and Kea's is not, and ask for a name with 0xFF at its end (syslinux mailing list, February
2008, "pxe requesting bad filename"; netboot.xyz knowledge base, "TFTP filename issues"). iPXE and
HTTP Boot get it in both places, so that an option 67 of a wider scope does not win.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from bootserve.dhcp_config.checks import (
    checked_address,
    checked_boot_file,
    checked_port,
    checked_target,
    checked_url,
)

if TYPE_CHECKING:
    from ipaddress import IPv4Address

__all__ = ["BootFiles", "DhcpServer", "render"]

TFTP_PORT: Final = 69


class DhcpServer(StrEnum):
    """The DHCP servers whose language we speak."""

    DNSMASQ = "dnsmasq"
    ISC = "isc"
    KEA = "kea"


@dataclass(frozen=True)
class BootFiles:
    """First-stage files, named as firmware asks for them over TFTP; None: there is none."""

    bios: str
    efi_x86_64: str
    efi_i386: str | None
    efi_arm64: str | None


@dataclass(frozen=True)
class Firmware:
    """One kind of firmware, told by its architecture types, and what it is to fetch."""

    tag: str
    arch_types: tuple[int, ...]
    target: str
    over_http: bool


_ENVIRONMENT: Final = Environment(
    loader=PackageLoader("bootserve.dhcp_config", "."),
    undefined=StrictUndefined,
    # The output is no HTML, and the checks leave no character that needs quoting anywhere.
    autoescape=False,  # noqa: S701
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def render(
    kind: DhcpServer,
    *,
    server: IPv4Address | str,
    http_url: str,
    files: BootFiles,
    tftp_port: int | None = TFTP_PORT,
) -> str:
    """The text for one DHCP server.

    ``server`` is the address of bootserve as clients see it, ``http_url`` the beginning of its
    URLs (``http://192.168.1.10:8080``), ``tftp_port`` where TFTP listens, or ``None`` if it is off.
    Raises ValueError for a value that could mean something
    else once pasted.
    """
    url = checked_url(http_url)
    return _ENVIRONMENT.get_template(f"{kind.value}.j2").render(
        server=checked_address(server),
        script_url=checked_target(f"{url}/boot.ipxe"),
        firmwares=[
            firmware
            for firmware in _firmwares(url, files)
            if firmware.over_http or tftp_port is not None
        ],
        tftp_port=None if tftp_port is None else checked_port(tftp_port),
    )


def _firmwares(url: str, files: BootFiles) -> list[Firmware]:
    """The rows of the table above that have a file, PXE first."""
    known: tuple[tuple[str, str | None, tuple[int, ...], int | None], ...] = (
        ("bios", files.bios, (0,), None),
        ("efi-x86-64", files.efi_x86_64, (7, 9), 16),
        ("efi-i386", files.efi_i386, (6,), 15),
        ("efi-arm64", files.efi_arm64, (11,), 19),
    )
    pxe: list[Firmware] = []
    http: list[Firmware] = []
    for tag, name, pxe_types, http_type in known:
        if name is None:
            continue
        file = checked_boot_file(name)
        pxe.append(Firmware(tag, pxe_types, checked_target(file), over_http=False))
        if http_type is not None:
            target = checked_target(f"{url}/boot/{file}")
            http.append(Firmware(f"http-{tag}", (http_type,), target, over_http=True))
    return pxe + http
