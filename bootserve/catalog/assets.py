"""A name becomes an open file under an asset root.

What was opened is what is sent: size and validators come from the same descriptor as the bytes.
What may be opened is decided in `opening`.
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import aiofiles.os
import anyio.to_thread
from anyio import CapacityLimiter
from anyio.lowlevel import RunVar

from bootserve.catalog.opening import (
    AssetError,
    AssetForbidden,
    AssetNotFound,
    AssetUnavailable,
    open_below,
    open_extra,
    split_name,
)
from bootserve.catalog.roots import files_below

__all__ = [
    "READ_SIZE",
    "REPLACE_BY_RENAMING",
    "Asset",
    "AssetError",
    "AssetForbidden",
    "AssetNotFound",
    "AssetUnavailable",
    "Assets",
    "Source",
    "Text",
]

READ_SIZE = 256 * 1024
"""Bytes per read in the doors' copying paths: large enough that a thread hop for a cold page costs
little, small enough that thousands of slow clients cost megabytes, not gigabytes."""

REPLACE_BY_RENAMING = "replace files by renaming a new one over the old"
"""The remedy for a file that `Source.has_changed`."""

_pread = aiofiles.os.wrap(os.pread)

_readers = ThreadPoolExecutor(64, "bootserve-read")
"""Threads that wait for disks, apart from those that open files."""

_OPENERS = RunVar[CapacityLimiter]("bootserve_openers")


def _openers() -> CapacityLimiter:
    """The threads that may open files at the same time, apart from all others."""
    try:
        return _OPENERS.get()
    except LookupError:
        limiter = CapacityLimiter(128)
        _OPENERS.set(limiter)
        return limiter


class Source(Protocol):
    """Bytes of a known length that a door sends: a file, or a text made for this one client."""

    @property
    def name(self) -> str: ...

    @property
    def size(self) -> int: ...

    def read_now(self, offset: int, size: int) -> bytes | None:
        """Return the bytes if they can be had without waiting for a disk, else ``None``."""

    async def read(self, offset: int, size: int) -> bytes:
        """Return ``size`` bytes from ``offset``, fewer only where the source ends."""

    def has_changed(self) -> bool:
        """Whether somebody has written to it since it was opened."""

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Text:
    """A source made of bytes in memory: a script, a converted file."""

    name: str
    body: bytes

    @property
    def size(self) -> int:
        return len(self.body)

    def read_now(self, offset: int, size: int) -> bytes | None:
        return self.body[offset : offset + size]

    async def read(self, offset: int, size: int) -> bytes:
        return self.body[offset : offset + size]

    def has_changed(self) -> bool:
        return False

    def close(self) -> None:
        """Nothing to release."""


class Asset:
    """An open regular file. Whoever opened it closes it (``close`` or ``with``)."""

    __slots__ = ("_can_read_now", "_file", "mtime_ns", "name", "size", "tag")

    def __init__(self, name: str, fd: int) -> None:
        # FileIO closes the descriptor if its owner is cancelled before it could.
        self._file = io.FileIO(fd, "rb", closefd=True)
        facts = os.fstat(fd)
        self.name = name
        self.size = facts.st_size
        self.mtime_ns = facts.st_mtime_ns
        # The inode is part of the tag: two generations of an image often share size and a
        # normalised mtime, and differ only in being different files.
        self.tag = f"{facts.st_dev:x}-{facts.st_ino:x}-{facts.st_mtime_ns:x}-{facts.st_size:x}"
        self._can_read_now = True

    def fileno(self) -> int:
        return self._file.fileno()

    def read_now(self, offset: int, size: int) -> bytes | None:
        """Return the bytes if all of them are in the page cache now, else ``None``.

        Fewer than ``size`` come back only where the file ends. Uses ``preadv2(RWF_NOWAIT)``
        (preadv2(2)); on file systems without it the answer is always ``None``.
        """
        if not self._can_read_now:
            return None
        buffer = bytearray(size)
        try:
            count = os.preadv(self.fileno(), [buffer], offset, os.RWF_NOWAIT)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
                self._can_read_now = False
                return None
            raise
        if count < size and offset + count < self.size:
            return None
        del buffer[count:]
        return bytes(buffer)

    async def read(self, offset: int, size: int) -> bytes:
        """Return ``size`` bytes from ``offset``, fewer only at the end of the file.

        Pages in the cache are read at once, others in a worker thread, so that a slow disk never
        holds the event loop up.

        Raises:
            OSError: the medium failed.
        """
        found = self.read_now(offset, size)
        if found is not None:
            return found
        found = b""
        while len(found) < size:
            more = await _pread(
                self.fileno(), size - len(found), offset + len(found), executor=_readers
            )
            if not more:
                break
            found += more
        return found

    def has_changed(self) -> bool:
        """Whether somebody has written to the file since it was opened."""
        facts = os.fstat(self.fileno())
        return (facts.st_mtime_ns, facts.st_size) != (self.mtime_ns, self.size)

    def read_blocking(self, size: int) -> bytes:
        """Return the first ``size`` bytes, waiting for the disk; not for the event loop."""
        return os.pread(self.fileno(), size, 0)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Asset:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Assets:
    """The files that may be served: everything regular below the roots, plus named extras.

    Args:
        roots: directories, searched in this order.
        extras: names that are served from outside the roots if no root has them; the operator's
            own choice (iPXE binaries from the distribution), so their links are followed.
    """

    def __init__(self, roots: Sequence[Path], extras: Mapping[str, Path] | None = None) -> None:
        self.roots = tuple(roots)
        self.extras = dict(extras or {})

    async def open(self, name: str) -> Asset:
        """Open ``name`` off the event loop; see `open_now`."""
        return await anyio.to_thread.run_sync(
            self.open_now, name, limiter=_openers(), abandon_on_cancel=True
        )

    def open_now(self, name: str) -> Asset:
        """Open the file that a client calls ``name``; ``boot/`` in front of it is optional.

        Raises:
            AssetNotFound: no root has a regular file of that name.
            AssetForbidden: the name leads out of its root, or may not be read.
            AssetUnavailable: no file can be opened now.
        """
        parts = split_name(name)
        if parts is None:
            raise AssetNotFound(name, "is not a name of a file below an asset root")
        try:
            return self._open_exactly("/".join(parts))
        except AssetNotFound:
            if parts[0] != "boot" or len(parts) == 1:
                raise
            return self._open_exactly("/".join(parts[1:]))

    def _open_exactly(self, name: str) -> Asset:
        refusal: AssetForbidden | None = None
        for root in self.roots:
            try:
                found = open_below(root, name)
            except AssetForbidden as error:
                refusal = refusal or error
                continue
            if found is not None:
                return Asset(name, found)
        extra = self.extras.get(name)
        if extra is not None:
            return Asset(name, open_extra(name, extra))
        raise refusal or AssetNotFound(name, "no such file below the asset roots")

    def exists(self, name: str) -> bool:
        try:
            self.open_now(name).close()
        except AssetError:
            return False
        return True

    def walk(self, directory: str, depth: int) -> Iterator[str]:
        """Yield the names of regular files below ``directory``, root by root, sorted in each.

        ``depth`` bounds how many directories deep it looks. Links are followed inside the root, as
        in `open_now`, and not in circles.
        """
        seen: set[str] = set()
        try:
            for root in self.roots:
                for name in files_below(root, directory, depth):
                    if name not in seen:
                        seen.add(name)
                        yield name
        except OSError as error:
            raise AssetUnavailable(directory, error.strerror or "cannot be listed") from error
