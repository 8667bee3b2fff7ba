"""Virtual machines with real firmware, run by QEMU without hardware help.

TCG on purpose: it runs everywhere, as any user and inside other virtual
machines, where nested KVM fails in the real mode that BIOS firmware lives in.
"""

from __future__ import annotations

import enum
import json
import shutil
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import needs
from .process import Process, wait_until, words_on_screen

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

OVMF_CODE = "/usr/share/OVMF/OVMF_CODE_4M.fd"
OVMF_VARS = "/usr/share/OVMF/OVMF_VARS_4M.fd"


class Firmware(enum.Enum):
    """What is in the machine before anything comes over the network."""

    BIOS = "BIOS, 64-bit CPU"
    BIOS_32BIT = "BIOS, 32-bit CPU"
    UEFI_PXE = "UEFI, PXE"
    UEFI_HTTP = "UEFI, HTTP Boot"

    @property
    def uefi(self) -> bool:
        return self in (Firmware.UEFI_PXE, Firmware.UEFI_HTTP)

    def emulator(self) -> str:
        cpu = "i386" if self is Firmware.BIOS_32BIT else "x86_64"
        return needs.program(f"qemu-system-{cpu}", "qemu-system-x86")


@dataclass(frozen=True)
class Card:
    """A machine's network card: its address on the wire and the tap behind it."""

    mac: str
    address: str
    tap: str


class Vm(Process):
    """A running machine; its serial console is what is watched."""

    def __init__(
        self,
        name: str,
        firmware: Firmware,
        card: Card,
        directory: Path,
        prefix: Sequence[str] = (),
    ) -> None:
        self.card = card
        self._console = directory / f"{name}.console"
        self._control = directory / f"{name}.qmp"
        command: list[str] = [
            *prefix,
            firmware.emulator(),
            *("-name", name, "-accel", "tcg", "-m", "512", "-nodefaults", "-no-reboot"),
            # -nographic makes SeaBIOS speak on the serial line, and so the iPXE
            # in the network card's ROM.
            *("-nographic", "-monitor", "none"),
            *("-serial", f"file:{self._console}"),
            *("-qmp", f"unix:{self._control},server=on,wait=off"),
            *("-netdev", f"tap,id=n0,ifname={card.tap},script=no,downscript=no"),
        ]
        if firmware.uefi:
            variables = directory / f"{name}.vars"
            shutil.copyfile(needs.file(OVMF_VARS, "ovmf"), variables)
            code = needs.file(OVMF_CODE, "ovmf")
            command += [
                *("-machine", "q35"),
                *("-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={code}"),
                *("-drive", f"if=pflash,unit=1,format=raw,file={variables}"),
                # OVMF's network stack wants random numbers and stays silent without.
                *("-device", "virtio-rng-pci"),
                # No ROM in the card: the ROM is iPXE, and OVMF's own PXE and
                # HTTP clients are what is to be met here.
                *("-device", f"virtio-net-pci,netdev=n0,mac={card.mac},romfile=,bootindex=0"),
            ]
            if firmware is Firmware.UEFI_HTTP:
                # OVMF tries PXE first and falls through to HTTP Boot only when that
                # fails; so it is switched off, as one does in a firmware setup.
                for family in ("IPv4", "IPv6"):
                    option = f"name=opt/org.tianocore/{family}PXESupport,string=n"
                    command += ["-fw_cfg", option]
        else:
            command += [
                *("-machine", "pc"),
                *("-device", f"e1000,netdev=n0,mac={card.mac},bootindex=0"),
            ]
        super().__init__(name, command, directory)
        self.watched = self._console
        self.evidence = [self._console, self.err]

    def text(self) -> str:
        return words_on_screen(super().text())

    def pause(self) -> None:
        """Stop the machine between two instructions, as a hypervisor does to migrate it."""
        self._execute("stop")

    def resume(self) -> None:
        self._execute("cont")

    def _execute(self, command: str) -> None:
        """One QMP command (QEMU's control protocol: a JSON object per line)."""
        wait_until(self._control.exists, 10, f"the control socket of {self.name}")
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            connection.connect(str(self._control))
            with connection.makefile("rw") as lines:
                lines.readline()
                for request in ("qmp_capabilities", command):
                    lines.write(json.dumps({"execute": request}) + "\n")
                    lines.flush()
                    # Events come between the answers whenever they like.
                    answer: dict[str, object] = {}
                    while "return" not in answer:
                        answer = json.loads(lines.readline())
                        if "error" in answer:
                            raise RuntimeError(f"QEMU refused {request}: {answer['error']}")
