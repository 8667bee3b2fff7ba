"""System calls that the standard library does not wrap."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import Final

_libc = ctypes.CDLL(None, use_errno=True)

_SYS_OPENAT2: Final = 437
_RESOLVE_CACHED: Final = 0x20
_AT_FDCWD: Final = -100
_OPEN_HOW: Final = struct.Struct("=QQQ")

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


def is_in_memory(fd: int) -> bool:
    """Whether an open file's file system has no disk behind it (tmpfs(5), fstatfs(2))."""
    answer = ctypes.create_string_buffer(_STATFS_SIZE)
    if _libc.fstatfs(fd, answer) != 0:
        return False
    kind = struct.unpack_from("@I" if os.uname().machine == "s390x" else "@L", answer)[0]
    return kind & 0xFFFFFFFF in (_TMPFS_MAGIC, _RAMFS_MAGIC)
