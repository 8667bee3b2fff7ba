"""Initramfs images for the virtual machines, written byte by byte.

The format is the "newc" cpio archive of the kernel's
Documentation/driver-api/early-userspace/buffer-format.rst: a header of
hexadecimal fields, the name and the data, each padded to four bytes. Writing it
here needs neither the cpio program nor root (device nodes are only data).

The images stay uncompressed: an emulated CPU copies faster than it inflates.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

MARKER = "BOOTSERVE-BOOTED"

PREPARE = """\
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox --install -s /bin
export PATH=/bin
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
# The kernel's own messages must not land in the middle of our lines.
echo 1 > /proc/sys/kernel/printk
"""

PROOF_INIT = f"""{PREPARE}
set -- $(sha256sum /padding)
sum=$1
echo
echo "{MARKER} arch=$(uname -m) sha256=$sum cmdline=<$(cat /proc/cmdline)>"
poweroff -f
"""


class Archive:
    """A cpio archive in the making."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._inode = 0

    def directory(self, name: str) -> None:
        self._entry(name, stat.S_IFDIR | 0o755)

    def file(self, name: str, data: bytes, mode: int = 0o644) -> None:
        self._entry(name, stat.S_IFREG | mode, data)

    def character_device(self, name: str, major: int, minor: int) -> None:
        self._entry(name, stat.S_IFCHR | 0o600, device=(major, minor))

    def finish(self) -> bytes:
        self._inode = -1
        self._entry("TRAILER!!!", 0)
        # Whole blocks, as cpio writes them: whoever concatenates archives
        # without padding of his own (the kernel's EFI stub) keeps them aligned.
        self._data += bytes(-len(self._data) % 512)
        return bytes(self._data)

    def _entry(
        self, name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)
    ) -> None:
        self._inode += 1
        encoded = name.encode() + b"\0"
        owner, links, time, checksum = (0, 0), 1, 0, 0
        on_device = (0, 0)
        numbers = [self._inode, mode, *owner, links, time, len(data)]
        numbers += [*on_device, *device, len(encoded), checksum]
        self._data += b"070701" + b"".join(b"%08X" % number for number in numbers) + encoded
        self._data += bytes(-len(self._data) % 4)
        self._data += data
        self._data += bytes(-len(self._data) % 4)


def system(busybox: Path, init: str) -> bytes:
    """A root file system of busybox and an /init script."""
    archive = Archive()
    for name in ("bin", "dev", "proc", "sys", "tmp"):
        archive.directory(name)
    # Until devtmpfs is mounted, /init's own output needs a console.
    archive.character_device("dev/console", 5, 1)
    archive.file("bin/busybox", busybox.read_bytes(), 0o755)
    archive.file("init", init.encode(), 0o755)
    return archive.finish()


def padding(data: bytes) -> bytes:
    """A second archive with nothing but the file /padding."""
    archive = Archive()
    archive.file("padding", data)
    return archive.finish()
