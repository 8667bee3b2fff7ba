"""What the servers serve: files of random bytes, and one boot script."""

from __future__ import annotations

import hashlib
import itertools
import os
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

MEGABYTE: Final = 1_000_000
GIGABYTE: Final = 1e9
BLOCK: Final = 1_000_000

HOST: Final = "127.0.0.1"
ROOT: Final = "BENCH_ROOT"
"""The environment variable that names the root to servers which take no arguments."""

SCRIPT: Final = "script.ipxe"
MAC: Final = "52:54:00:12:34:56"
MISSING: Final = "nothing-here"


@dataclass(frozen=True)
class Sizes:
    """In bytes."""

    middle: int = 256 * MEGABYTE
    large: int = 1000 * MEGABYTE
    slow: int = 3 * MEGABYTE
    many: int = 400_000


@dataclass(frozen=True)
class Site:
    """A directory, as nginx's root; what lies in its `boot` is at /boot/... on every server."""

    root: Path
    sizes: Sizes

    @property
    def files(self) -> Path:
        return self.root / "boot"

    @property
    def script(self) -> Path:
        return self.root / SCRIPT

    def make(self, *names: str) -> None:
        """Write the files; `names` are those of Sizes."""
        kernel = self.files / "x86_64"
        kernel.mkdir(parents=True)
        (kernel / "vmlinuz").write_bytes(b"kernel")
        (kernel / "initramfs").write_bytes(b"initramfs")
        self.script.write_text("#!ipxe\n")
        for name in names:
            write_file(self.files / name, getattr(self.sizes, name))

    @cached_property
    def sample(self) -> str:
        """The SHA-256 of the file `middle`."""
        with (self.files / "middle").open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def write_file(path: Path, size: int) -> None:
    """Random bytes, of which no two blocks are equal, on the disk and in the page cache."""
    noise = os.urandom(BLOCK)
    with path.open("wb") as file:
        for number in itertools.count():
            # No two blocks are equal: one that comes from a wrong place is seen.
            block = number.to_bytes(8) + noise[8:]
            left = size - file.tell()
            if left <= 0:
                break
            file.write(block[:left])
        # Written now, not by the kernel's flusher in the middle of a measurement.
        file.flush()
        os.fsync(file.fileno())
