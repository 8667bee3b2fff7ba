"""What the tests of the scripts need: quick machines with a person at the console.

The machines hang on QEMU's user network, whose DHCP server names our entry
script, so neither root nor a first iPXE over TFTP is needed. And they boot a
kernel that is nothing but proof: it says on the serial line what iPXE gave it,
and switches the machine off. Linux itself would only take longer to say it;
that Linux boots is shown in test_boot.py.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from typing import TYPE_CHECKING

from . import needs, server
from .process import Process, words_on_screen

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
        self._keyboard: socket.socket | None = None
        self._listener: threading.Thread | None = None
        self._socket = site.directory / f"{name}.keyboard"
        entry = f"http://{HOST_SEEN_FROM_INSIDE}:{site.port}/boot.ipxe"
        line = f"socket,id=line,path={self._socket},server=on,wait=off,logfile={console}"
        named = f",hostname={option(hostname)}" if hostname else ""
        command: list[str] = [
            needs.program(f"qemu-system-{cpu}", "qemu-system-x86"),
            *("-name", name, "-accel", "tcg", "-m", str(memory), "-nodefaults", "-no-reboot"),
            *("-nographic", "-monitor", "none", "-chardev", line, "-serial", "chardev:line"),
            *("-netdev", f"user,id=n0,bootfile={entry}{named}"),
            *("-device", f"virtio-net-pci,netdev=n0,mac={mac},bootindex=1"),
            *options,
        ]
        super().__init__(name, command, site.directory)
        self.watched = console
        self.evidence = [console, self.err]

    def text(self) -> str:
        return words_on_screen(super().text())

    def type(self, keys: str) -> None:
        """Press keys; when the console shows that somebody is waiting for them."""
        if self._keyboard is None:
            self._keyboard = socket.socket(socket.AF_UNIX)
            self._keyboard.connect(str(self._socket))
            self._listener = threading.Thread(target=_drain, args=(self._keyboard,))
            self._listener.start()
        self._keyboard.sendall(keys.encode())

    def stop(self, seconds: float = 5) -> int:
        try:
            return super().stop(seconds)
        finally:
            # Not before: QEMU forgets the keys of a keyboard that is pulled out.
            if self._keyboard is not None and self._listener is not None:
                self._listener.join()
                self._keyboard.close()
                self._keyboard = None


def _drain(line: socket.socket) -> None:
    """Take what the line says to the keyboard, until QEMU ends.

    QEMU writes a character to its log again if the line was full and it has to try again; a few
    hundred characters fill it.
    """
    with contextlib.suppress(OSError):
        while line.recv(65536):
            pass


def option(value: str) -> str:
    """A value in one of QEMU's lists of options, where a comma ends it."""
    return value.replace(",", ",,")


# --- a site with everything that can go wrong -------------------------------------------------

# Everything that means something to iPXE, to a shell, to a URL or to a template.
HOSTILE_TITLE = r"a||b || reboot && reboot ; reboot #x ${mac} {{x}} \ back\\"
HOSTILE_NAME = 'rack #1 || reboot ; "${mac}" \\'
HOSTILE_FOLDER = "x86_64/a b%20c #d?e&f+g;h=$i ${mac} || reboot"
UNICODE_KERNEL = "x86_64/größer/Ядро"
HOSTILE_WORDS = (
    r"a||b || c && d ; e #f #g=1 mac=${mac} \ h\\ i\j  double   blank % %20 $HOME $ {x} -- --name x"
    r""" quote="k l" 'm'"""
)
HOSTILE_TAIL = "#last \\"


def toml(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


PROFILES = f"""
[boot]
default = "plain"

[profiles.plain]
kernel = "x86_64/plain"

[profiles.evil]
kernel = "x86_64/evil"

[profiles.late]
kernel = "x86_64/plain"
initrds = ["x86_64/first", "x86_64/late"]

[profiles.quoted]
title = {toml(HOSTILE_TITLE)}
architectures = ["x86_64"]
kernel = {toml(HOSTILE_FOLDER + "/vm linuz")}
initrds = [{toml(HOSTILE_FOLDER + "/#1 || reboot")}, {toml(HOSTILE_FOLDER + "/2")}]
cmdline = {toml(f"console=ttyS0 ünï=ü {HOSTILE_WORDS}")}

[profiles.unicode]
kernel = {toml(UNICODE_KERNEL)}

[profiles.quoted-linux]
title = {toml(HOSTILE_TITLE)}
architectures = ["x86_64"]
kernel = {toml(HOSTILE_FOLDER + "/linux")}
initrds = [{toml(HOSTILE_FOLDER + "/initramfs")}, "x86_64/empty"]
cmdline = {toml(f"console=ttyS0 {HOSTILE_WORDS}")}

[profiles.narrow]
kernel = "i386/plain"

[profiles.both]
architectures = ["x86_64", "i386"]
kernel = "{{arch}}/plain"

[profiles.arm]
kernel = "arm64/plain"

[profiles.raw]
script = '''#!ipxe
echo raw: ${{bootserve-url}} && echo raw: as it is
exit
'''

[[machines]]
name = {toml(HOSTILE_NAME)}
mac = "52:54:00:00:05:01"
profile = "quoted"
cmdline = {toml(HOSTILE_TAIL)}

[[machines]]
mac = "52:54:00:00:05:02"
profile = "quoted-linux"
cmdline = {toml(HOSTILE_TAIL)}

[[machines]]
mac = "52:54:00:00:05:03"
profile = "unicode"

[[machines]]
mac = "52:54:00:00:03:01"
profile = "late"

[[machines]]
mac = "52:54:00:00:0e:11"
profile = "evil"

[[machines]]
uuid = "4c4c4544-0042-3510-8054-b4c04f4d3432"
profile = "plain"
cmdline = "by-uuid"

[[machines]]
serial = "CZ 34/01"
profile = "narrow"
cmdline = "by-serial"

[[machines]]
serial = "CZ+34&01=%41 #7"
profile = "both"
cmdline = "by-serial"

[[machines]]
hostname = "board-7"
profile = "arm"

[[machines]]
mac = "52:54:00:00:09:01"
profile = "raw"
"""


def profiles_site(directory: Path, more: str = "") -> Site:
    """The site with `PROFILES`, and what they boot."""
    site = Site(directory, PROFILES + more)
    for name in ("x86_64/plain", "x86_64/evil", "i386/plain", UNICODE_KERNEL):
        site.put_kernel(name)
    site.put("x86_64/first", bytes(5000))
    site.put_kernel(HOSTILE_FOLDER + "/vm linuz")
    site.put(HOSTILE_FOLDER + "/#1 || reboot", bytes(5000))
    site.put(HOSTILE_FOLDER + "/2", bytes(100))
    return site
