"""Real firmware boots a real kernel through bootserve, unattended.

Each machine prints one line when it is up: what CPU its kernel runs on, the
checksum of a file that came in its second initramfs image, and its command
line. So a wrong kernel, a corrupt transfer and a lost option are all seen.
"""

from __future__ import annotations

import hashlib
import random
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from . import debian, initramfs, needs, server
from .lab import SERVER, Lab
from .process import Process, wait_until
from .vm import Firmware, Vm

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CMDLINE = "console=ttyS0,115200 bootserve.test=yes"
PADDING = 32 * 1024 * 1024
# From power on to the marker takes about 40 s with two emulated machines on
# two cores; the rest is for slower hosts.
BOOT_SECONDS = 150
PAUSE_SECONDS = 120

CONFIG = f"""\
[http]
listen = ["*:8080"]

[tftp]
listen = ["*:69"]

[assets]
roots = ["{{root}}"]

[ipxe]
rechain = true

[boot]
default = "debian"

[profiles.debian]
architectures = ["x86_64", "i386"]
kernel = "{{{{arch}}}}/vmlinuz"
initrds = ["{{{{arch}}}}/initramfs", "{{{{arch}}}}/padding.cpio"]
cmdline = "{CMDLINE}"
"""

MARKER = rf"^{initramfs.MARKER} arch=(\S+) sha256=(\S+) cmdline=<(.*)>\s*$"
UNAME = {"x86_64": "x86_64", "i386": "i686"}


@dataclass(frozen=True)
class Site:
    """A network with bootserve in it, and what it serves."""

    lab: Lab
    server: Process
    root: Path
    checksums: dict[str, str]

    def size(self, *names: str) -> int:
        return sum((self.root / name).stat().st_size for name in names)

    def boots(self, vm: Vm, architecture: str) -> None:
        """The machine comes up with this architecture's kernel, complete, and ends."""
        with vm, self.server.shown_on_failure():
            uname, checksum, cmdline = vm.wait_for(MARKER, BOOT_SECONDS).groups()
            assert uname == UNAME[architecture]
            assert checksum == self.checksums[architecture]
            # The script may add the names of the initrds, and UEFI the kernel's
            # own, but what was configured stands together.
            assert CMDLINE in cmdline
            assert vm.wait_end(30) == 0

    def completed(self, vm: Vm, name: str) -> list[str]:
        return server.completed(self.server, vm.card.address, name)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    needs.root()
    directory = tmp_path_factory.mktemp("site")
    root = directory / "assets"
    checksums = {}
    packaged: dict[str, debian.Architecture] = {"x86_64": "amd64", "i386": "i386"}
    for ours, debians in packaged.items():
        found = needs.debian_parts(debians)
        # Different for each, so that a mix-up cannot look right.
        data = random.Random(ours).randbytes(PADDING)
        checksums[ours] = hashlib.sha256(data).hexdigest()
        (root / ours).mkdir(parents=True)
        (root / ours / "vmlinuz").write_bytes(found.kernel.read_bytes())
        (root / ours / "initramfs").write_bytes(
            initramfs.system(found.busybox, initramfs.PROOF_INIT)
        )
        (root / ours / "padding.cpio").write_bytes(initramfs.padding(data))
    needs.file("/usr/lib/ipxe/undionly.kpxe", "ipxe")
    config = directory / "bootserve.toml"
    config.write_text(CONFIG.format(root=root))
    with Lab(directory) as lab:
        started = lab.bootserve(config)
        lab.dhcp(server.dhcp_config("dnsmasq", config, SERVER))
        yield Site(lab, started, root, checksums)


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


def test_machine_stopped_in_its_download_goes_on(site: Site) -> None:
    files = ("x86_64/vmlinuz", "x86_64/initramfs")
    with site.lab.machine("stopped", Firmware.BIOS, rate="20mbit") as vm:
        # By the tap's count: bootserve is what is to be proven here.
        before = site.size(*files)
        with site.server.shown_on_failure(), vm.shown_on_failure():
            wait_until(
                lambda: site.lab.received(vm) > before + PADDING // 2,
                BOOT_SECONDS,
                "half of the second initrd at the machine",
            )
        vm.pause()
        paused = time.monotonic()
        received = site.lab.received(vm)
        assert received < before + PADDING, "stopped too late, the download was over"

        with (
            site.lab.machine("meanwhile-x86_64", Firmware.BIOS) as wide,
            site.lab.machine("meanwhile-i386", Firmware.BIOS_32BIT) as narrow,
        ):
            site.boots(wide, "x86_64")
            site.boots(narrow, "i386")
        assert time.monotonic() - paused < PAUSE_SECONDS, "the others were held up"

        wait_until(
            lambda: time.monotonic() - paused > PAUSE_SECONDS, PAUSE_SECONDS + 1, "the pause"
        )
        # QEMU takes a packet or two from the tap before it notices that it stands.
        assert site.lab.received(vm) < received + 64 * 1024
        assert not site.completed(vm, "padding.cpio")
        vm.resume()
        site.boots(vm, "x86_64")
        # It went on where it was: our script retries a cut download from its
        # start, which also boots, but half an initrd later.
        assert site.lab.received(vm) < before + PADDING + PADDING // 4
        wait_until(lambda: bool(site.completed(vm, "padding.cpio")), 10, "the end in the log")
        (line,) = site.completed(vm, "padding.cpio")
        assert re.search(rf"\b{site.size('x86_64/padding.cpio')}\b", line)
