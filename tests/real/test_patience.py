"""A machine that is stopped in the middle of its download goes on when it may, and boots.

A hypervisor that migrates it stops a machine like this: it sends nothing, not even
an ACK, so that for as long it cannot be told from one that is gone.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from .process import wait_until
from .site import BOOT_SECONDS, PADDING, Site, boot_site
from .vm import Firmware, Vm

if TYPE_CHECKING:
    from collections.abc import Iterator

PAUSES = (120, 330)
BEFORE = ("x86_64/vmlinuz", "x86_64/initramfs")
"""What a machine loads before its padding, in whose middle it is stopped."""


@dataclass(frozen=True)
class Stopped:
    """A machine that stands still."""

    vm: Vm
    since: float
    received: int
    """Bytes that had gone to it by then."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with boot_site(tmp_path_factory.mktemp("site")) as running:
        yield running


@pytest.fixture(scope="module")
def stopped(site: Site) -> Iterator[dict[int, Stopped]]:
    """A machine for each pause, both in the middle of their last file, stopped at the same time."""
    # By the tap's count: bootserve is what is to be proven here.
    before = site.size(*BEFORE)
    found: dict[int, Stopped] = {}
    with (
        site.lab.machine("stopped-120", Firmware.BIOS, rate="20mbit") as short,
        site.lab.machine("stopped-330", Firmware.BIOS, rate="20mbit") as long,
    ):

        def stop_in_the_middle() -> bool:
            for pause, vm in zip(PAUSES, (short, long), strict=True):
                if pause not in found and site.lab.received(vm) > before + PADDING // 2:
                    vm.pause()
                    found[pause] = Stopped(vm, time.monotonic(), site.lab.received(vm))
            return len(found) == len(PAUSES)

        with site.server.shown_on_failure(), short.shown_on_failure(), long.shown_on_failure():
            wait_until(stop_in_the_middle, BOOT_SECONDS, "both in the middle of their last file")
        for one in found.values():
            assert one.received < before + PADDING, "stopped too late, the download was over"
        yield found


def test_others_boot_while_machines_stand_still(site: Site, stopped: dict[int, Stopped]) -> None:
    with (
        site.lab.machine("meanwhile-x86_64", Firmware.BIOS) as wide,
        site.lab.machine("meanwhile-i386", Firmware.BIOS_32BIT) as narrow,
    ):
        site.boots(wide, "x86_64")
        site.boots(narrow, "i386")


@pytest.mark.parametrize("pause", PAUSES)
def test_a_machine_stopped_in_its_download_goes_on(
    pause: int, site: Site, stopped: dict[int, Stopped]
) -> None:
    one = stopped[pause]
    wait_until(lambda: time.monotonic() - one.since > pause, pause + 1, "the pause")
    # QEMU takes a packet or two from the tap before it notices that it stands.
    assert site.lab.received(one.vm) < one.received + 64 * 1024
    assert not site.completed(one.vm, "padding.cpio")
    one.vm.resume()
    site.boots(one.vm, "x86_64")
    # It went on where it was: our script retries a cut download from its
    # start, which also boots, but half an initrd later.
    assert site.lab.received(one.vm) < site.size(*BEFORE) + PADDING + PADDING // 4
    wait_until(lambda: bool(site.completed(one.vm, "padding.cpio")), 10, "the end in the log")
    (line,) = site.completed(one.vm, "padding.cpio")
    assert re.search(rf"\b{site.size('x86_64/padding.cpio')}\b", line)
