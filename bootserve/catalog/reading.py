"""Bytes of open files: at once where the page cache has them, else by a thread that waits."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import aiofiles.os

READ_SIZE: Final = 256 * 1024
"""Bytes per read in the doors' copying paths: large enough that a thread hop for a cold page costs
little, small enough that thousands of slow clients cost megabytes, not gigabytes."""

readers: Final = ThreadPoolExecutor(64, "bootserve-read")
"""Threads that wait for disks, apart from those that open files."""

_pread = aiofiles.os.wrap(os.pread)

_CANNOT_TELL: Final = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


def read_now(file: int, offset: int, size: int) -> bytes | None:
    """Return ``size`` bytes from ``offset``, fewer if only so many are there without waiting.

    Uses ``preadv2(RWF_NOWAIT)`` (preadv2(2)). ``None``: none are, or the file system cannot tell.

    Raises:
        OSError: the medium failed.
    """
    buffer = bytearray(size)
    count = read_into_now(file, [buffer], offset)
    if count < 0:
        return None
    del buffer[count:]
    return bytes(buffer)


def read_into_now(file: int, buffers: Sequence[bytearray | memoryview], offset: int) -> int:
    """Fill ``buffers`` as far as that takes no waiting; return the bytes, -1 for ``None`` above.

    Raises:
        OSError: the medium failed.
    """
    try:
        return os.preadv(file, buffers, offset, os.RWF_NOWAIT)
    except BlockingIOError:
        return -1
    except OSError as error:
        if error.errno in _CANNOT_TELL:
            return -1
        raise


async def read(file: int, offset: int, size: int) -> bytes:
    """Return ``size`` bytes from ``offset``, fewer only at the end of the file.

    A slow disk never holds the event loop up: what is not in the page cache is read in a thread.

    Raises:
        OSError: the medium failed.
    """
    found = read_now(file, offset, size) or b""
    while len(found) < size:
        more = await _pread(file, size - len(found), offset + len(found), executor=readers)
        if not more:
            break
        found += more
    return found
