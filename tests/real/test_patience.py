"""A machine that is stopped in the middle of its download goes on when it may, and boots.

A hypervisor that migrates it stops a machine like this: it sends nothing, not even
an ACK, so that for as long it cannot be told from one that is gone.
"""

from __future__ import annotations

import functools
import re
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from .lab import TFTP_CARD
from .process import wait_until
from .site import BOOT_SECONDS, PADDING, Site, boot_site
from .vm import Card, Firmware, Vm

if TYPE_CHECKING:
    from collections.abc import Iterator

BEFORE = ("x86_64/vmlinuz", "x86_64/initramfs")
"""What a machine loads before its padding, in whose middle it is stopped."""
NBP = 170_000
"""Bytes of ``snponly.efi``, the program that UEFI's own TFTP client loads; it differs a little."""


@dataclass(frozen=True)
class Download:
    """Who loads what, and when that is stopped."""

    name: str
    pause: int
    firmware: Firmware = Firmware.BIOS
    rate: str = "20mbit"
    card: Card | None = None
    file: str = "padding.cpio"


BY_HTTP = (Download("http-120", 120), Download("http-330", 330))
BY_IPXE_TFTP = Download("ipxe-tftp-120", 120, card=TFTP_CARD)
# Slow enough that its few bytes have a middle.
BY_UEFI_TFTP = Download("uefi-tftp-120", 120, Firmware.UEFI_PXE, rate="256kbit", file="snponly.efi")
DOWNLOADS = (*BY_HTTP, BY_IPXE_TFTP, BY_UEFI_TFTP)
PADDING_BY = (BY_HTTP[0], BY_IPXE_TFTP, BY_HTTP[1])


@dataclass(frozen=True)
class Stopped:
    """A machine that stands still."""

    vm: Vm
    since: float
    received: int
    """Bytes that had gone to it by then."""


@dataclass
class Stage:
    """The machines that are switched on, and those that stand already."""

    site: Site
    stack: ExitStack
    stopped: dict[str, Stopped] = field(default_factory=dict)
    going_on: set[Download] = field(default_factory=set)

    def stop_in_the_middle(self, *downloads: Download) -> None:
        """Switch the machines on, and stop each in the middle of its file."""
        site = self.site
        vms: dict[Download, Vm] = {}
        with ExitStack() as failure:
            failure.enter_context(site.server.shown_on_failure())
            for one in downloads:
                vm = site.lab.machine(one.name, one.firmware, rate=one.rate, card=one.card)
                vms[one] = self.stack.enter_context(vm)
                failure.enter_context(vm.shown_on_failure())
            wait_until(
                lambda: sum(self._is_stopped(one, vm) for one, vm in vms.items()) == len(vms),
                BOOT_SECONDS,
                "all in the middle of their file",
            )
        for one in downloads:
            start, end = self.bounds(one)
            assert start < self.stopped[one.name].received < end, "stopped too late"

    def bounds(self, download: Download) -> tuple[int, int]:
        """How many bytes go to a machine before and until the end of its file, about."""
        # By the tap's count: bootserve is what is to be proven here.
        if download is BY_UEFI_TFTP:
            return 0, NBP
        before = self.site.size(*BEFORE)
        return before, before + PADDING

    def _is_stopped(self, download: Download, vm: Vm) -> bool:
        if download.name not in self.stopped:
            received = self.site.lab.received(vm)
            if received <= sum(self.bounds(download)) // 2:
                return False
            vm.pause()
            self.stopped[download.name] = Stopped(vm, time.monotonic(), self.site.lab.received(vm))
        return True

    def resumed(self, download: Download) -> Vm:
        """Wait until the machine has stood for its time; it and the others like it may go on."""
        until = max(
            self.stopped[one.name].since for one in DOWNLOADS if one.pause == download.pause
        )
        until += download.pause
        wait_until(lambda: time.monotonic() > until, 2 * download.pause, "the pause")
        # At the same time: TFTP's limit is not far from the time that the boots of all take.
        for one in DOWNLOADS:
            if one.pause == download.pause and one not in self.going_on:
                self.going_on.add(one)
                self._resume(one)
        return self.stopped[download.name].vm

    def _resume(self, download: Download) -> None:
        one = self.stopped[download.name]
        # QEMU takes a packet or two from the tap before it notices that it stands.
        assert self.site.lab.received(one.vm) < one.received + 64 * 1024
        assert not self.site.completed(one.vm, download.file)
        one.vm.resume()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with boot_site(tmp_path_factory.mktemp("site")) as running:
        yield running


@pytest.fixture(scope="module")
def stage(site: Site) -> Iterator[Stage]:
    """A machine for each download, all of which stand at the same time."""
    with ExitStack() as stack:
        found = Stage(site, stack)
        # Two at a time, as the host has processors for.
        found.stop_in_the_middle(*BY_HTTP)
        found.stop_in_the_middle(BY_IPXE_TFTP, BY_UEFI_TFTP)
        yield found


def test_others_boot_while_machines_stand_still(site: Site, stage: Stage) -> None:
    with (
        site.lab.machine("meanwhile-x86_64", Firmware.BIOS) as wide,
        site.lab.machine("meanwhile-i386", Firmware.BIOS_32BIT) as narrow,
    ):
        site.boots(wide, "x86_64")
        site.boots(narrow, "i386")


def test_uefi_stopped_in_its_own_download_goes_on(site: Site, stage: Stage) -> None:
    stopped = stage.stopped[BY_UEFI_TFTP.name]
    vm = stage.resumed(BY_UEFI_TFTP)
    with vm, site.server.shown_on_failure(), vm.shown_on_failure():
        is_complete = functools.partial(site.completed, vm, "snponly.efi")
        wait_until(lambda: bool(is_complete()), BOOT_SECONDS, "the end in the log")
        # Had it begun anew, all of the file would have come since.
        assert site.lab.received(vm) < stopped.received + NBP
        # The program that it has loaded runs, and asks for what is next.
        asks = f"HTTP {vm.card.address} gets the entry script"
        wait_until(lambda: asks in site.server.log(), BOOT_SECONDS, "its next request")
    (line,) = is_complete()
    (seconds,) = re.findall(r"TFTP .* in (\S+) s", line)
    assert float(seconds) > BY_UEFI_TFTP.pause


@pytest.mark.parametrize("download", PADDING_BY, ids=lambda one: one.name)
def test_a_machine_stopped_in_its_download_goes_on(
    download: Download, site: Site, stage: Stage
) -> None:
    vm = stage.resumed(download)
    site.boots(vm, "x86_64")
    # It went on where it was: our script retries a cut download from its
    # start, which also boots, but half an initrd later.
    assert site.lab.received(vm) < site.size(*BEFORE) + PADDING + PADDING // 4
    wait_until(lambda: bool(site.completed(vm, "padding.cpio")), 10, "the end in the log")
    (line,) = site.completed(vm, "padding.cpio")
    assert re.search(rf"\b{site.size('x86_64/padding.cpio')}\b", line)
