"""The real servers with the pasted text, asked on the wire.

The options are those that iPXE and OVMF were seen to send; scapy reads what they would be told.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pytest

from bootserve.dhcp_config import BootFiles, DhcpServer, render
from tests.cable import Cable

from .lab import RelayAgent, relay_socket
from .servers import OLD_FILE, OLD_SERVER, check_syntax, prepare, running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .lab import Offer

# Not the DHCP server itself, and not in its network: bootserve may live anywhere.
BOOTSERVE: Final = "192.0.2.10"
URL: Final = "http://192.0.2.10:8080"
FILES: Final = BootFiles("undionly.kpxe", "snponly.efi", "i386/snponly.efi", "arm64/snponly.efi")

ASKED: Final = bytes((1, 3, 6, 43, 60, 66, 67))
ASKED_BY_IPXE: Final = bytes((*ASKED, 119, 128, 175, 203))
ASKED_BY_OLD_ROM: Final = bytes((1, 3, 43, 60))
FEATURES: Final = bytes((235, 3, 1, 0, 0, 23, 1, 1, 34, 1, 1))


def pxe(*arch_types: int, undi: str = "003000", asked: bytes = ASKED) -> dict[int, bytes]:
    """The options of PXE firmware."""
    return {
        55: asked,
        60: b"PXEClient:Arch:%05d:UNDI:%b" % (arch_types[0], undi.encode()),
        93: b"".join(arch_type.to_bytes(2) for arch_type in arch_types),
        94: b"\x01\x03\x00",
    }


def http_boot(arch_type: int) -> dict[int, bytes]:
    """The options of UEFI HTTP Boot."""
    return pxe(arch_type) | {60: b"HTTPClient:Arch:%05d:UNDI:003000" % arch_type}


def ipxe(arch_type: int, undi: str) -> dict[int, bytes]:
    """The options of iPXE."""
    return pxe(arch_type, undi=undi, asked=ASKED_BY_IPXE) | {77: b"iPXE", 175: FEATURES}


def without(options: dict[int, bytes], code: int) -> dict[int, bytes]:
    return {key: value for key, value in options.items() if key != code}


OVER_TFTP: Final = {
    "BIOS": (pxe(0, undi="002001"), b"undionly.kpxe"),
    "BIOS that asks for little": (pxe(0, asked=ASKED_BY_OLD_ROM), b"undionly.kpxe"),
    "BIOS before EFI": (pxe(0, 7), b"undionly.kpxe"),
    "OVMF": (pxe(7), b"snponly.efi"),
    "EFI before BIOS": (pxe(7, 0), b"snponly.efi"),
    "EFI x86_64 as 9": (pxe(9), b"snponly.efi"),
    "EFI i386": (pxe(6), b"i386/snponly.efi"),
    "EFI arm64": (pxe(11), b"arm64/snponly.efi"),
}
OVER_HTTP: Final = {
    "OVMF": (http_boot(16), b"http://192.0.2.10:8080/boot/snponly.efi"),
    "i386": (http_boot(15), b"http://192.0.2.10:8080/boot/i386/snponly.efi"),
    "arm64": (http_boot(19), b"http://192.0.2.10:8080/boot/arm64/snponly.efi"),
}
IPXE: Final = {
    "BIOS": ipxe(0, "002001"),
    "EFI": ipxe(7, "003010"),
    "with a user class of its own": ipxe(7, "003010") | {77: b"workshop"},
    "without option 175": without(ipxe(0, "002001"), 175),
    "loaded by HTTP Boot": ipxe(16, "003010"),
}
OTHERS: Final = {
    "laptop": {55: bytes((1, 3, 6, 15)), 60: b"MSFT 5.0", 77: b"RRAS.Microsoft"},
    "laptop that sends nothing": {55: bytes((1, 3, 6, 66, 67))},
    "firmware of an unknown architecture": pxe(27),
}


@dataclass(frozen=True)
class Lab:
    """A running server and somebody to ask it."""

    kind: DhcpServer
    relay: RelayAgent

    def offer(self, options: dict[int, bytes]) -> Offer:
        return self.relay.discover(options)


@pytest.fixture(scope="module", params=list(DhcpServer))
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    kind: DhcpServer = request.param
    directory = tmp_path_factory.mktemp(kind.value)
    text = render(kind, server=BOOTSERVE, http_url=URL, files=FILES)
    server = prepare(kind, text, directory)
    with Cable() as cable:
        check_syntax(cable.server, server)
        log = directory / "log"
        with (
            running(cable.server, server, log) as check_server,
            relay_socket(cable.client) as endpoint,
        ):
            yield Lab(kind, RelayAgent(endpoint, check_server))


@pytest.mark.parametrize(("options", "file"), OVER_TFTP.values(), ids=OVER_TFTP)
def test_pxe_firmware_gets_the_file_for_its_architecture(
    lab: Lab, options: dict[int, bytes], file: bytes
) -> None:
    offer = lab.offer(options)
    assert offer.boot_file == file
    assert offer.options.get(67, b"\0").endswith(b"\0"), "old ROMs read past its end"
    assert offer.next_server == BOOTSERVE
    assert not offer.text(60).startswith(b"HTTPClient")


@pytest.mark.parametrize(("options", "url"), OVER_HTTP.values(), ids=OVER_HTTP)
def test_http_boot_gets_a_url_in_option_67_and_is_told_that_it_is_for_http(
    lab: Lab, options: dict[int, bytes], url: bytes
) -> None:
    offer = lab.offer(options)
    assert offer.text(67) == url
    assert offer.file_field in (b"", url)
    assert offer.text(60) == b"HTTPClient"


def test_http_boot_is_told_so_even_if_it_does_not_ask_for_option_60(lab: Lab) -> None:
    offer = lab.offer(http_boot(16) | {55: bytes((1, 3, 67))})
    assert offer.text(60) == b"HTTPClient"


@pytest.mark.parametrize("options", IPXE.values(), ids=IPXE)
def test_ipxe_gets_the_boot_script(lab: Lab, options: dict[int, bytes]) -> None:
    offer = lab.offer(options)
    assert offer.text(67) == b"http://192.0.2.10:8080/boot.ipxe"
    assert offer.next_server == BOOTSERVE
    assert not offer.text(60).startswith(b"HTTPClient")


@pytest.mark.parametrize("platform", ["BIOS", "EFI"])
def test_ipxe_is_told_not_to_wait_for_a_proxy(lab: Lab, platform: str) -> None:
    no_pxedhcp = bytes((176, 1, 1))
    encapsulated = lab.offer(IPXE[platform]).options.get(175, b"")
    # Encapsulated options may close with an END of their own (RFC 2132 section 8.4).
    assert encapsulated.removesuffix(b"\xff") == no_pxedhcp


@pytest.mark.parametrize("options", OTHERS.values(), ids=OTHERS)
def test_everybody_else_gets_what_they_got_before(lab: Lab, options: dict[int, bytes]) -> None:
    offer = lab.offer(options)
    assert offer.boot_file == OLD_FILE
    assert offer.next_server == OLD_SERVER
    assert 175 not in offer.options


@pytest.mark.parametrize("kind", DhcpServer)
@pytest.mark.parametrize(
    "files",
    [
        BootFiles("undionly.kpxe", "snponly.efi", None, None),
        BootFiles("undionly.kpxe", "snponly.efi", None, "arm64/snponly.efi"),
        BootFiles("bios/undionly-2.0+git.kpxe", "x86_64/ipxe_snp.efi", "a", "b"),
    ],
    ids=["x86_64 only", "no i386", "odd names"],
)
def test_the_server_accepts_the_text_without_complaint(
    kind: DhcpServer, files: BootFiles, tmp_path_factory: pytest.TempPathFactory
) -> None:
    text = render(
        kind,
        server=BOOTSERVE,
        http_url="https://[2001:db8::10]:8443/a~b/%7Ec",
        files=files,
        tftp_port=6969,
    )
    server = prepare(kind, text, tmp_path_factory.mktemp("syntax"))
    with Cable() as cable:
        said = check_syntax(cable.server, server).lower()
    assert "warn" not in said
    assert "error" not in said
