"""A name becomes an open file under an asset root.

Rules of this module:

* A name is a relative path with ``/`` between its parts, taken from an untrusted client. Empty
  parts and ``.`` are dropped (firmware builds ``dir//file``); ``..``, NUL and absolute escapes
  name nothing.
* Whether a file may be served is decided on the descriptor that was opened, never on its name:
  it is opened with ``O_PATH`` (which reads nothing, wakes no FIFO, touches no device), must be a
  regular file, and must lie below its root as the kernel names it in ``/proc/self/fd``. So links
  inside a root work, also absolute ones and a root that is itself a link, and links that lead out
  do not, whatever is renamed meanwhile.
* What was opened is what is sent: size and validators come from the same descriptor as the bytes.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import aiofiles.os
import anyio.to_thread

from bootserve.catalog.roots import files_below

READ_SIZE = 256 * 1024
"""Bytes per read in the doors' copying paths: large enough that a thread hop for a cold page costs
little, small enough that thousands of slow clients cost megabytes, not gigabytes."""

_pread = aiofiles.os.wrap(os.pread)

_readers = ThreadPoolExecutor(64, "bootserve-read")
"""Threads that wait for disks, of their own: a medium that hangs holds up nobody who opens a file
or is read from another. They end with the process."""


class AssetError(Exception):
    """A name that cannot be served; ``str()`` is one sentence for an operator's log."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name!r}: {reason}")
        self.name = name
        self.reason = reason


class AssetNotFound(AssetError):
    """There is no such regular file below any root."""


class AssetForbidden(AssetError):
    """There is something of that name, but it leads out of its root or cannot be read."""


class AssetUnavailable(AssetError):
    """The server cannot open files now (no descriptors, a medium that fails); later it may."""


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


def split_name(name: str) -> list[str] | None:
    """Return the parts of a client's name for a file, or ``None`` if it can name nothing."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if not parts or ".." in parts or "\0" in name:
        return None
    return parts


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
        return await anyio.to_thread.run_sync(self.open_now, name)

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
                found = _open_below(root, name)
            except AssetForbidden as error:
                refusal = refusal or error
                continue
            if found is not None:
                return Asset(name, found)
        extra = self.extras.get(name)
        if extra is not None:
            return Asset(name, _open_extra(name, extra))
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


_MISSING = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL)


def _open_below(root: Path, name: str) -> int | None:
    """Open ``root/name`` for reading, or return ``None`` if this root has no such regular file."""
    root_fd = _open_path(name, root, os.O_DIRECTORY)
    if root_fd is None:
        return None
    try:
        path_fd = _open_path(name, name, dir_fd=root_fd)
        if path_fd is None:
            return None
        try:
            if not stat.S_ISREG(os.fstat(path_fd).st_mode):
                return None
            if not _is_below(_kernel_name(root_fd), _kernel_name(path_fd)):
                raise AssetForbidden(name, "is a link that leads out of its asset root")
            return _reopen(name, path_fd)
        finally:
            os.close(path_fd)
    finally:
        os.close(root_fd)


def _open_path(
    name: str, path: Path | str, flags: int = 0, dir_fd: int | None = None
) -> int | None:
    """Return an ``O_PATH`` descriptor, or ``None`` if there is nothing of that name."""
    try:
        return os.open(path, os.O_PATH | os.O_CLOEXEC | flags, dir_fd=dir_fd)
    except PermissionError as error:
        raise AssetForbidden(
            name, "cannot be reached; check the permissions of the folders it is in"
        ) from error
    except UnicodeEncodeError:
        return None
    except OSError as error:
        if error.errno in _MISSING:
            return None
        raise AssetUnavailable(name, error.strerror or "cannot be opened") from error


def _open_extra(name: str, path: Path) -> int:
    path_fd = _open_path(name, path)
    if path_fd is None:
        raise AssetNotFound(name, f"{path} is gone")
    try:
        if not stat.S_ISREG(os.fstat(path_fd).st_mode):
            raise AssetNotFound(name, f"{path} is not a regular file")
        return _reopen(name, path_fd)
    finally:
        os.close(path_fd)


def _reopen(name: str, path_fd: int) -> int:
    """Turn an ``O_PATH`` descriptor into a readable one for the very same inode (proc(5))."""
    try:
        return os.open(f"/proc/self/fd/{path_fd}", os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError as error:
        raise AssetForbidden(
            name, "may not be read by the server; check its permissions"
        ) from error
    except OSError as error:
        raise AssetUnavailable(name, error.strerror or "cannot be opened") from error


def _kernel_name(fd: int) -> str:
    return os.readlink(f"/proc/self/fd/{fd}")


def _is_below(root: str, path: str) -> bool:
    return path.startswith(root.rstrip("/") + "/")
