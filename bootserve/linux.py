"""System calls that the standard library does not wrap."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from typing import Final, NamedTuple

_libc = ctypes.CDLL(None, use_errno=True)

_SYS_OPENAT2: Final = 437
_RESOLVE_CACHED: Final = 0x20
_AT_FDCWD: Final = -100
_OPEN_HOW: Final = struct.Struct("=QQQ")

_AT_EMPTY_PATH: Final = 0x1000
_AT_STATX_DONT_SYNC: Final = 0x4000
_STATX_BASIC_STATS: Final = 0x7FF
_STATX: Final = struct.Struct("=28x H 2x QQ 48x qI4x qI4x 8x II 112x")
"""Of ``struct statx``: mode, inode, size, ctime, mtime, and the device's numbers."""

_PR_SET_CHILD_SUBREAPER: Final = 36

_TMPFS_MAGIC: Final = 0x01021994
_RAMFS_MAGIC: Final = 0x858458F6
_STATFS_SIZE: Final = 256


def open_cached(path: str, flags: int, dir_fd: int | None = None) -> int:
    """Open as os.open() does, but only if no disk has to be asked (openat2(2), RESOLVE_CACHED).

    Raises:
        BlockingIOError: a directory on the way is not in the kernel's cache, or this kernel cannot
            tell (before Linux 5.12, or forbidden by a system-call filter).
        OSError, ValueError: as os.open() does.
    """
    how = _OPEN_HOW.pack(flags, 0, _RESOLVE_CACHED)
    name = os.fsencode(path)
    if b"\0" in name:
        raise ValueError("embedded null byte")
    start = _AT_FDCWD if dir_fd is None else dir_fd
    found = _libc.syscall(_SYS_OPENAT2, start, name, how, len(how))
    if found >= 0:
        return int(found)
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.EPERM):
        number = errno.EAGAIN
    raise OSError(number, os.strerror(number), path)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends, instead of PID 1.

    See PR_SET_CHILD_SUBREAPER in prctl(2); raises OSError.
    """
    if _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class Facts(NamedTuple):
    """What identifies a file and tells whether it has changed; see inode(7)."""

    mode: int
    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @property
    def is_regular(self) -> bool:
        return stat.S_ISREG(self.mode)

    @property
    def key(self) -> tuple[int, int, int]:
        """The same for the same file until its content, its owner or its permissions change."""
        return (self.device, self.inode, self.ctime_ns)


def facts_of(fd: int, *, cached_only: bool = False) -> Facts:
    """Return what is known of an open file.

    Args:
        cached_only: ask no file server, even if what is known is not fresh (statx(2),
            AT_STATX_DONT_SYNC).

    Raises:
        BlockingIOError: this system cannot tell without.
    """
    if cached_only:
        return _known_facts(fd)
    found = os.fstat(fd)
    return Facts(
        found.st_mode,
        found.st_dev,
        found.st_ino,
        found.st_size,
        found.st_mtime_ns,
        found.st_ctime_ns,
    )


def _known_facts(fd: int) -> Facts:
    answer = ctypes.create_string_buffer(_STATX.size)
    flags = _AT_EMPTY_PATH | _AT_STATX_DONT_SYNC
    if not hasattr(_libc, "statx") or _libc.statx(fd, b"", flags, _STATX_BASIC_STATS, answer):
        raise BlockingIOError
    mode, inode, size, c_sec, c_nsec, m_sec, m_nsec, major, minor = _STATX.unpack(answer.raw)
    return Facts(
        mode,
        os.makedev(major, minor),
        inode,
        size,
        m_sec * 1_000_000_000 + m_nsec,
        c_sec * 1_000_000_000 + c_nsec,
    )


def is_in_memory(fd: int) -> bool:
    """Whether an open file's file system has no disk behind it (tmpfs(5), fstatfs(2))."""
    answer = ctypes.create_string_buffer(_STATFS_SIZE)
    if _libc.fstatfs(fd, answer) != 0:
        return False
    kind = struct.unpack_from("@I" if os.uname().machine == "s390x" else "@L", answer)[0]
    return kind & 0xFFFFFFFF in (_TMPFS_MAGIC, _RAMFS_MAGIC)
