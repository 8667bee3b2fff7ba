"""A name becomes an open file under an asset root.

What was opened is what is sent: size and validators come from the same descriptor as the bytes.
What may be opened is decided in `opening`.
"""

from __future__ import annotations

import contextlib
import io
import os
import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from anyio import CapacityLimiter
from anyio.lowlevel import RunVar

from bootserve.catalog.opening import (
    AssetError,
    AssetForbidden,
    AssetNotFound,
    AssetUnavailable,
    find_below,
    find_extra,
    reopen,
    split_name,
)
from bootserve.catalog.reading import READ_SIZE, read, read_into_now, read_now
from bootserve.catalog.roots import files_below
from bootserve.catalog.waiting import wait_in_thread
from bootserve.linux import Facts, facts_of

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

REPLACE_BY_RENAMING = "replace files by renaming a new one over the old"
"""The remedy for a file that `Source.has_changed`."""

_OPENERS = RunVar[CapacityLimiter]("bootserve_openers")
_MOST_OPENERS = 128


def _openers(most: int) -> CapacityLimiter:
    """The threads that may open files at the same time, apart from all others."""
    try:
        return _OPENERS.get()
    except LookupError:
        limiter = CapacityLimiter(most)
        _OPENERS.set(limiter)
        return limiter


class Source(Protocol):
    """Bytes of a known length that a door sends: a file, or a text made for this one client."""

    @property
    def name(self) -> str: ...

    @property
    def size(self) -> int: ...

    @property
    def identity(self) -> Hashable | None:
        """Equal for sources of the same bytes; ``None`` if that is not known."""

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

    @property
    def identity(self) -> None:
        return None

    def read_now(self, offset: int, size: int) -> bytes | None:
        return self.body[offset : offset + size]

    async def read(self, offset: int, size: int) -> bytes:
        return self.body[offset : offset + size]

    def has_changed(self) -> bool:
        return False

    def close(self) -> None:
        """Nothing to release."""


class _OpenFile:
    """A descriptor that all who send the same file at the same time have in common."""

    __slots__ = ("file", "key", "users")

    def __init__(self, key: tuple[int, ...], file: io.FileIO) -> None:
        self.key = key
        self.file = file
        self.users = 1


class _OpenFiles:
    """The files that are being sent. Used by the event loop and by threads that open files."""

    def __init__(self) -> None:
        self._files: dict[tuple[int, ...], _OpenFile] = {}
        self._lock = threading.Lock()
        self._dropped: deque[_OpenFile] = deque()

    @property
    def count(self) -> int:
        return len(self._files)

    def take(self, key: tuple[int, ...]) -> _OpenFile | None:
        with self._lock:
            found = self._files.get(key)
            if found is not None:
                found.users += 1
        self._pick_up()
        return found

    def add(self, key: tuple[int, ...], fd: int) -> _OpenFile:
        # FileIO closes the descriptor if its owner is cancelled before it could.
        new = _OpenFile(key, io.FileIO(fd, "rb", closefd=True))
        with self._lock:
            found = self._files.setdefault(key, new)
            if found is not new:
                # Somebody else has just opened the same one.
                found.users += 1
        if found is not new:
            new.file.close()
        self._pick_up()
        return found

    def drop(self, used: _OpenFile) -> None:
        """Give back what a user has left without a word, from wherever its end is noticed.

        The garbage collector may notice it in the middle of any line above, with the lock held.
        """
        self._dropped.append(used)
        if not self._lock.locked():
            self._pick_up()

    def _pick_up(self) -> None:
        while self._dropped:
            with contextlib.suppress(IndexError):
                self._release(self._dropped.popleft())

    def give_back(self, used: _OpenFile) -> None:
        self._release(used)
        self._pick_up()

    def _release(self, used: _OpenFile) -> None:
        with self._lock:
            used.users -= 1
            if used.users:
                return
            if self._files.get(used.key) is used:
                del self._files[used.key]
        used.file.close()


class Asset:
    """An open regular file. Whoever opened it closes it (``close`` or ``with``)."""

    __slots__ = ("_file", "_files", "_used", "mtime_ns", "name", "size", "tag")

    def __init__(self, name: str, facts: Facts, used: _OpenFile, files: _OpenFiles) -> None:
        self._used: _OpenFile | None = used
        self._file = used.file
        self._files = files
        self.name = name
        self.size = facts.size
        self.mtime_ns = facts.mtime_ns
        # The inode is part of the tag: two generations of an image often share size and a
        # normalised mtime, and differ only in being different files.
        self.tag = f"{facts.device:x}-{facts.inode:x}-{facts.mtime_ns:x}-{facts.size:x}"

    @property
    def identity(self) -> str:
        return self.tag

    def fileno(self) -> int:
        return self._file.fileno()

    def read_now(self, offset: int, size: int) -> bytes | None:
        """Return the bytes if all of them are in the page cache now, else ``None``.

        Fewer than ``size`` come back only where the file ends. Uses ``preadv2(RWF_NOWAIT)``
        (preadv2(2)); on file systems without it the answer is always ``None``.
        """
        found = read_now(self.fileno(), offset, size)
        if found is None or (len(found) < size and offset + len(found) < self.size):
            return None
        return found

    def read_into_now(self, buffers: list[memoryview], offset: int, size: int) -> bool:
        """Fill ``buffers``, ``size`` bytes in all, if the page cache has them; whether it had.

        Args:
            buffers: 1024 at most (readv(2)).

        Raises:
            OSError: the file ends earlier than it did, or its medium failed.
        """
        count = read_into_now(self.fileno(), buffers, offset)
        if count < size and offset + count >= facts_of(self.fileno()).size:
            raise OSError("the file became shorter")
        return count == size

    async def read(self, offset: int, size: int) -> bytes:
        """Return ``size`` bytes from ``offset``, fewer only at the end of the file.

        Pages in the cache are read at once, others in a worker thread, so that a slow disk never
        holds the event loop up.

        Raises:
            OSError: the medium failed.
        """
        return await read(self.fileno(), offset, size)

    def has_changed(self) -> bool:
        """Whether somebody has written to the file since it was opened."""
        facts = facts_of(self.fileno())
        return (facts.mtime_ns, facts.size) != (self.mtime_ns, self.size)

    def read_blocking(self, size: int) -> bytes:
        """Return the first ``size`` bytes, waiting for the disk; not for the event loop."""
        return os.pread(self.fileno(), size, 0)

    def close(self) -> None:
        if self._used is not None:
            used, self._used = self._used, None
            self._files.give_back(used)

    def __del__(self) -> None:
        # Its owner may have been cancelled before it could.
        if self._used is not None:
            self._files.drop(self._used)

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
        self._files = _OpenFiles()
        self._most_openers = _MOST_OPENERS

    @property
    def open_files(self) -> int:
        """Descriptors of files that are being sent."""
        return self._files.count

    def limit_openers(self, most: int) -> None:
        """Open at most ``most`` files at the same time; each may take two descriptors meanwhile.

        To be called before the first is opened.
        """
        self._most_openers = min(max(most, 1), _MOST_OPENERS)

    async def open(self, name: str) -> Asset:
        """Open ``name`` as `open_now` does, in a thread if it takes a disk to do so."""
        with contextlib.suppress(BlockingIOError):
            return self._open(name, cached_only=True)
        return await self.in_thread(self.open_now, name)

    async def in_thread(self, opener: Callable[[str], Asset], name: str) -> Asset:
        """Return what ``opener`` does, in one of the threads that may wait for a disk."""
        return await wait_in_thread(partial(opener, name), name, _openers(self._most_openers))

    def open_now(self, name: str) -> Asset:
        """Open the file that a client calls ``name``; ``boot/`` in front of it is optional.

        Raises:
            AssetNotFound: no root has a regular file of that name.
            AssetForbidden: the name leads out of its root, or may not be read.
            AssetUnavailable: no file can be opened now.
        """
        return self._open(name, cached_only=False)

    def _open(self, name: str, *, cached_only: bool) -> Asset:
        parts = split_name(name)
        if parts is None:
            raise AssetNotFound(name, "is not a name of a file below an asset root")
        try:
            return self._open_exactly("/".join(parts), cached_only)
        except AssetNotFound:
            if parts[0] != "boot" or len(parts) == 1:
                raise
            return self._open_exactly("/".join(parts[1:]), cached_only)

    def _open_exactly(self, name: str, cached_only: bool) -> Asset:
        refusal: AssetForbidden | None = None
        for root in self.roots:
            try:
                found = find_below(root, name, cached_only=cached_only)
            except AssetForbidden as error:
                refusal = refusal or error
                continue
            if found is not None:
                return self._reopen(name, *found, cached_only)
        extra = self.extras.get(name)
        if extra is not None:
            found = find_extra(name, extra, cached_only=cached_only)
            return self._reopen(name, *found, cached_only)
        raise refusal or AssetNotFound(name, "no such file below the asset roots")

    def _reopen(self, name: str, path_fd: int, facts: Facts, cached_only: bool) -> Asset:
        """Return the asset behind an ``O_PATH`` descriptor, which is closed.

        A file that is being sent already is shared: a rack that boots takes one descriptor, and
        none of its requests waits for a file server's opinion. A change of its permissions changes
        its ctime, and ends that.
        """
        try:
            used = self._files.take(facts.key)
            if used is None:
                if cached_only:
                    # Opening may ask a file server, even where walking there did not.
                    raise BlockingIOError
                fd = reopen(name, path_fd)
                # A file server may have more recent news of an open file.
                facts = facts_of(fd)
                used = self._files.add(facts.key, fd)
        finally:
            os.close(path_fd)
        return Asset(name, facts, used, self._files)

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
