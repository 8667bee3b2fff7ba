"""Real firmware boots a real kernel through bootserve, unattended."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .site import Site, boot_site
from .vm import Firmware, Vm

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with boot_site(tmp_path_factory.mktemp("site")) as running:
        yield running


@pytest.fixture(scope="module")
def bios(site: Site) -> Iterator[tuple[Vm, Vm]]:
    """A 64-bit and a 32-bit machine with BIOS, booting at the same time."""
    with (
        site.lab.machine("bios-x86_64", Firmware.BIOS) as wide,
        site.lab.machine("bios-i386", Firmware.BIOS_32BIT) as narrow,
    ):
        yield wide, narrow


@pytest.fixture(scope="module")
def uefi(site: Site) -> Iterator[tuple[Vm, Vm]]:
    """Two machines with UEFI, one set to PXE and one to HTTP Boot, at the same time."""
    with (
        site.lab.machine("uefi-pxe", Firmware.UEFI_PXE) as pxe,
        site.lab.machine("uefi-http", Firmware.UEFI_HTTP) as http,
    ):
        yield pxe, http


def test_bios_machine_boots_the_64_bit_kernel(site: Site, bios: tuple[Vm, Vm]) -> None:
    vm, _ = bios
    site.boots(vm, "x86_64")
    assert any("tftp" in line.lower() for line in site.completed(vm, "undionly.kpxe"))


def test_32_bit_bios_machine_boots_the_32_bit_kernel(site: Site, bios: tuple[Vm, Vm]) -> None:
    _, vm = bios
    site.boots(vm, "i386")
    assert any("tftp" in line.lower() for line in site.completed(vm, "undionly.kpxe"))


def test_uefi_machine_boots_by_pxe(site: Site, uefi: tuple[Vm, Vm]) -> None:
    vm, _ = uefi
    site.boots(vm, "x86_64")
    assert any("tftp" in line.lower() for line in site.completed(vm, ".efi"))


def test_uefi_machine_boots_by_http(site: Site, uefi: tuple[Vm, Vm]) -> None:
    _, vm = uefi
    site.boots(vm, "x86_64")
    loads = site.completed(vm, ".efi")
    assert loads
    assert not any("tftp" in line.lower() for line in loads)
