"""What the tests of the scripts need: quick machines with a person at the console.

The machines hang on QEMU's user network, whose DHCP server names our entry
script, so neither root nor a first iPXE over TFTP is needed. And they boot a
kernel that is nothing but proof: it says on the serial line what iPXE gave it,
and switches the machine off. Linux itself would only take longer to say it;
that Linux boots is shown in test_boot.py.
"""

from __future__ import annotations

import re
import socket
import struct
from typing import TYPE_CHECKING

from . import needs, server
from .process import Process

if TYPE_CHECKING:
    from pathlib import Path

# How QEMU's user network calls the host it runs on.
HOST_SEEN_FROM_INSIDE = "10.0.2.2"

MARKER = "STUB-KERNEL"
BOOTED = rf"^{MARKER} <(.*)> initrds=([0-9a-f]{{8}}) cmdline=<(.*)>\s*$"

CONFIG = """\
[http]
listen = ["127.0.0.1:{port}"]

[tftp]
listen = "off"

[assets]
roots = ["assets"]

{more}
"""

# 16-bit code (Documentation/arch/x86/boot.rst: DS is the segment of the image).
CODE = bytes.fromhex(
    "fc"  # cld
    "be0004 e84800"  # si = 0x400; call puts
    "66a11c02"  # eax = [0x21c], the initrd's size
    "b90800"  # cx = 8 digits
    "66c1c004 6650 240f 0430"  # next: rol eax,4; push eax; al = (al & 15) + '0'
    "3c39 7602 0427"  # if al > '9': al += 'a' - '9' - 1
    "e83800 6658 e2e9"  # call putc; pop eax; loop next
    "bef004 e82400"  # si = 0x4f0; call puts
    "66a12802"  # eax = [0x228], where the command line lies in memory
    "89c6 83e60f 66c1e804"  # si = ax & 15; eax >>= 4
    "1e 8ed8 e81100 1f"  # push ds; ds = ax; call puts; pop ds
    "befc04 e80a00"  # si = 0x4fc; call puts
    "ba0406 b80020 ef f4 ebfd"  # outw 0x2000 to ACPI's port: off; hlt for ever
    "ac 84c0 7412 e80200 ebf6"  # puts: al = [si++]; if al == 0: ret; call putc; again
    "50 bafd03 ec a820 74fb"  # putc: push ax; until the serial line takes a character:
    "58 b2f8 ee c3"  # pop ax; send it; ret
)


def stub_kernel(name: str) -> bytes:
    """A kernel in Linux's format that tells its name, its initrds' size and its command line."""
    image = bytearray(0x600)
    image[0x1F1] = 2  # sectors of 16-bit code after the first
    image[0x1FE:0x200] = b"\x55\xaa"
    # Entry: jump over the header to the code. Protocol 2.06, loaded high.
    image[0x200:0x208] = b"\xeb\x6e" + b"HdrS" + struct.pack("<H", 0x206)
    image[0x211] = 1
    struct.pack_into("<I", image, 0x22C, 0x7FFFFFFF)  # the highest address of an initrd
    struct.pack_into("<I", image, 0x238, 2047)  # the longest command line
    image[0x270 : 0x270 + len(CODE)] = CODE
    for offset, text in (
        (0x400, f"\r\n{MARKER} <{name}> initrds="),
        (0x4F0, " cmdline=<"),
        (0x4FC, ">\r\n"),
    ):
        image[offset : offset + len(text.encode())] = text.encode()
    # A kernel has a 32-bit part; this one never gets there.
    return bytes(image) + b"\xf4" * 16


class Site:
    """An asset root, a configuration, and bootserve for them, over HTTP alone."""

    def __init__(self, directory: Path, more: str) -> None:
        self.directory = directory
        self.root = directory / "assets"
        self.root.mkdir()
        self.port = server.free_port()
        self._config = directory / "bootserve.toml"
        self._config.write_text(CONFIG.format(port=self.port, more=more))

    def serve(self) -> Process:
        return server.start(self._config)

    def put(self, name: str, data: bytes) -> None:
        """Put a file in place as a careful person does: complete, or not there."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        new = self.directory / "new"
        new.write_bytes(data)
        new.rename(path)

    def put_kernel(self, name: str) -> None:
        self.put(name, stub_kernel(name))


class Machine(Process):
    """A machine on QEMU's user network; its console is watched, and `type` is its keyboard."""

    def __init__(
        self,
        site: Site,
        name: str,
        *options: str,
        cpu: str = "x86_64",
        memory: int = 64,
        mac: str = "52:54:00:12:34:56",
        hostname: str = "",
    ) -> None:
        console = site.directory / f"{name}.console"
        self._keyboard = site.directory / f"{name}.keyboard"
        entry = f"http://{HOST_SEEN_FROM_INSIDE}:{site.port}/boot.ipxe"
        line = f"socket,id=line,path={self._keyboard},server=on,wait=off,logfile={console}"
        named = f",hostname={option(hostname)}" if hostname else ""
        command: list[str] = [
            needs.program(f"qemu-system-{cpu}", "qemu-system-x86"),
            *("-name", name, "-accel", "tcg", "-m", str(memory), "-nodefaults", "-no-reboot"),
            *("-nographic", "-monitor", "none", "-chardev", line, "-serial", "chardev:line"),
            *("-netdev", f"user,id=n0,bootfile={entry}{named}"),
            *("-device", f"virtio-net-pci,netdev=n0,mac={mac},bootindex=0"),
            *options,
        ]
        super().__init__(name, command, site.directory)
        self.watched = console
        self.evidence = [console, self.err]

    def text(self) -> str:
        """The console as lines: what firmware places elsewhere on the screen begins a line."""
        placed = re.sub(r"\x1b\[[0-9;]*H", "\n", super().text())
        return re.sub(r"\x1b(\[[0-9;=?]*[A-Za-z]|.)|[\x00\x07]", "", placed)

    def type(self, keys: str) -> None:
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(str(self._keyboard))
            line.sendall(keys.encode())


def option(value: str) -> str:
    """A value in one of QEMU's lists of options, where a comma ends it."""
    return value.replace(",", ",,")
