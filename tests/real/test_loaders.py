"""PXELINUX and GRUB, as Debian ships them, boot a real kernel with what the profiles say."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from . import needs
from .lab import CARDS, Lab
from .site import MARKER, UNAME, Site, place_kernel
from .vm import Firmware

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .vm import Vm

# Loading and starting takes about 15 s with two emulated machines on two cores.
BOOT_SECONDS = 120

CONFIG = """\
[http]
listen = ["*:8080"]

[tftp]
listen = ["*:69"]

[assets]
roots = ["{root}"]

[boot]
menu_timeout = 1

[profiles.installer]
script = "#!ipxe"

[profiles.debian]
title = "Debian's own"
architectures = ["i386", "x86_64"]
kernel = "{{arch}}/vmlinuz"
initrds = ["{{arch}}/initramfs", "{{arch}}/padding.cpio"]
cmdline = 'console=ttyS0,115200 said="two words" ip=${{ip}} host=${{bootserve-machine}}'

[[machines]]
name = "known"
mac = {known}
profile = "debian"
cmdline = "single"

[[machines]]
mac = {for_ipxe}
profile = "installer"
"""

PXELINUX, GRUB_EFI, OTHER_PXELINUX, OTHER_GRUB_EFI, GRUB_BIOS, GRUB_32BIT = CARDS[:6]
FOR_IPXE = CARDS[6:8]

DHCP = f"""\
dhcp-match=set:efi,option:client-arch,7
dhcp-mac=set:grub,{GRUB_BIOS.mac}
dhcp-mac=set:grub,{GRUB_32BIT.mac}
dhcp-boot=tag:efi,grub.efi
dhcp-boot=tag:grub,grub.0
dhcp-boot=tag:!efi,tag:!grub,bios/pxelinux.0
"""

GRUB_MODULES = ["tftp", "net", "linux", "normal", "configfile", "echo", "test", "minicmd"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    needs.root()
    directory = tmp_path_factory.mktemp("loaders")
    root = directory / "assets"
    checksums = {name: place_kernel(root, name, 1 << 20) for name in UNAME}
    (root / "bios").mkdir()
    for path, package in (
        ("/usr/lib/PXELINUX/pxelinux.0", "pxelinux"),
        ("/usr/lib/syslinux/modules/bios/ldlinux.c32", "syslinux-common"),
    ):
        shutil.copy(needs.file(path, package), root / "bios")
    _make_grub(root / "grub.efi", "x86_64-efi", "grub-efi-amd64-bin", "efinet")
    _make_grub(root / "grub.0", "i386-pc", "grub-pc-bin", "pxe", "cpuid")
    config = directory / "bootserve.toml"
    known = [card.mac for card in (PXELINUX, GRUB_EFI, GRUB_BIOS, GRUB_32BIT)]
    config.write_text(
        CONFIG.format(root=root, known=known, for_ipxe=[card.mac for card in FOR_IPXE])
    )
    with Lab(directory) as lab:
        started = lab.bootserve(config)
        lab.dhcp(DHCP)
        yield Site(lab, started, root, checksums)


def _make_grub(path: Path, platform: str, package: str, *modules: str) -> None:
    program = needs.program("grub-mkimage", "grub-common")
    needs.file(f"/usr/lib/grub/{platform}/normal.mod", package)
    target = "i386-pc-pxe" if platform == "i386-pc" else platform
    command = [program, "-O", target, "-p", "(tftp)/grub", "-o", str(path), *GRUB_MODULES, *modules]
    subprocess.run(command, check=True)


def _boots(site: Site, vm: Vm, architecture: str = "x86_64") -> str:
    """The machine comes up with this kernel, complete; the command line that it has got."""
    with site.server.shown_on_failure():
        uname, checksum, cmdline = vm.wait_for(MARKER, BOOT_SECONDS).groups()
        assert uname == UNAME[architecture]
        assert checksum == site.checksums[architecture]
        assert vm.wait_end(30) == 0
    return cmdline.replace('said="two words"', '"said=two words"')


def test_a_machine_is_known_by_the_mac_address_in_the_name_that_it_asks_for(site: Site) -> None:
    with (
        site.lab.machine("pxelinux", Firmware.BIOS) as pxelinux,
        site.lab.machine("grub-efi", Firmware.UEFI_PXE) as grub,
    ):
        for vm, card, name in (
            (pxelinux, PXELINUX, "bios/pxelinux.cfg/01-52-54-00-77-00-01"),
            (grub, GRUB_EFI, "grub/grub.cfg-01-52-54-00-77-00-02"),
        ):
            assert vm.card == card
            cmdline = _boots(site, vm)
            expected = f'"said=two words" ip={card.address} host=known single'
            assert expected in cmdline
            assert site.completed(vm, name)


def test_whoever_is_not_known_gets_a_menu(site: Site) -> None:
    with (
        site.lab.machine("other-pxelinux", Firmware.BIOS) as pxelinux,
        site.lab.machine("other-grub-efi", Firmware.UEFI_PXE) as grub,
    ):
        for vm, card, name in (
            (pxelinux, OTHER_PXELINUX, "bios/pxelinux.cfg/default"),
            (grub, OTHER_GRUB_EFI, "grub/grub.cfg"),
        ):
            assert vm.card == card
            cmdline = _boots(site, vm)
            assert f'"said=two words" ip={card.address} host=' in cmdline
            assert "single" not in cmdline
            assert "Debian's own" in vm.text()
            assert site.completed(vm, name)


def test_a_32_bit_grub_starts_the_kernel_that_its_cpu_can(site: Site) -> None:
    with (
        site.lab.machine("grub-bios", Firmware.BIOS) as wide,
        site.lab.machine("grub-bios-32", Firmware.BIOS_32BIT) as narrow,
    ):
        assert (wide.card, narrow.card) == (GRUB_BIOS, GRUB_32BIT)
        assert "host=known" in _boots(site, wide)
        assert "host=known" in _boots(site, narrow, "i386")


def test_a_machine_whose_profile_only_ipxe_can_boot_goes_back_to_its_firmware(site: Site) -> None:
    with (
        site.lab.machine("for-ipxe-pxelinux", Firmware.BIOS) as pxelinux,
        site.lab.machine("for-ipxe-grub", Firmware.UEFI_PXE) as grub,
    ):
        assert (pxelinux.card, grub.card) == FOR_IPXE
        pxelinux.wait_for("bootserve: installer is not for PXELINUX", BOOT_SECONDS)
        pxelinux.wait_for("Booting from Hard Disk", 30)
        grub.wait_for("bootserve: installer is not for GRUB", BOOT_SECONDS)
        # What the firmware loads next, be it another device or its own menu.
        grub.wait_for(r"BdsDxe: loading Boot(?!0001)", 30)
