"""A slow disk: a file system on a loop device whose reads the kernel throttles.

Only processes that `SlowDisk.enter` has been called for are slowed; others read at full speed.
It takes root, mkfs.ext4 (e2fsprogs), and the controller "blkio" of cgroup v1 or "io" of v2.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import shutil
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

_libc = ctypes.CDLL(None, use_errno=True)

_CGROUP: Final = Path("/sys/fs/cgroup")
_V1: Final = _CGROUP / "blkio"
_MISSING: Final = {
    errno.EPERM: "not permitted",
    errno.EACCES: "not permitted",
    errno.EROFS: "the cgroup file system is read-only",
}


class DiskUnavailable(Exception):
    """This host gives us no throttled disk; the text says why."""


class SlowDisk:
    """An empty ext4 file system, mounted in a directory of its own for the `with` block.

    Args:
        size: of the file system in bytes; its image is sparse.
        rate: bytes per second that processes in its group read, together.
    """

    def __init__(self, size: int, rate: int) -> None:
        self._size = size
        self._rate = rate
        self._stack = contextlib.ExitStack()
        self._group = Path()
        self.root = Path()

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            raise DiskUnavailable("a throttled disk needs root")
        with contextlib.ExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slow-disk-")))
            directory.chmod(0o755)  # servers drop their rights and still have to pass
            self.root = directory / "disk"
            self.root.mkdir()
            self._mount(directory / "image", stack)
            self._throttle(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def enter(self, pid: int) -> None:
        """Slow this process down, with its threads and all that it starts from now on."""
        (self._group / "cgroup.procs").write_text(str(pid))

    def _mount(self, image: Path, stack: contextlib.ExitStack) -> None:
        with image.open("wb") as file:
            file.truncate(self._size)
        # Without a journal nothing but what is asked for moves on the disk.
        _run("mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal", str(image))
        # The loop device frees itself with the mount, whoever ends that.
        _run("mount", "-o", "loop,noatime", str(image), str(self.root))
        stack.callback(_unmount, self.root)

    def _throttle(self, stack: contextlib.ExitStack) -> None:
        name = f"slow-disk-{uuid.uuid4().hex[:12]}"
        device = self.root.stat().st_dev
        number = f"{os.major(device)}:{os.minor(device)}"
        try:
            if (_V1 / "blkio.throttle.read_bps_device").exists():
                self._group = _make_group(_V1 / name, stack)
                limit = self._group / "blkio.throttle.read_bps_device"
                limit.write_text(f"{number} {self._rate}")
                return
            controllers = _CGROUP / "cgroup.controllers"
            if not controllers.exists() or "io" not in controllers.read_text().split():
                raise DiskUnavailable("this host has no cgroup controller that throttles reads")
            delegated = _CGROUP / "cgroup.subtree_control"
            if "io" not in delegated.read_text().split():
                delegated.write_text("+io")
                stack.callback(delegated.write_text, "-io")
            self._group = _make_group(_CGROUP / name, stack)
            (self._group / "io.max").write_text(f"{number} rbps={self._rate}")
        except OSError as error:
            reason = _MISSING.get(error.errno or 0, error.strerror)
            raise DiskUnavailable(f"reads cannot be throttled: {reason}") from error


def evict(path: Path) -> None:
    """Take a file out of the page cache; an error if more than a few pages of it stay there."""

    def drop() -> None:
        with path.open("rb") as file:
            # Only clean pages can be dropped.
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        share = cached_share(path)
        # Single pages are held in the kernel's own batches for as long as it likes.
        if share > 0.001:
            raise OSError(errno.EBUSY, f"{share:.1%} of the file stayed in the page cache")

    try:
        _retry(drop)
    except OSError as error:
        raise DiskUnavailable(error.strerror) from error


def cached_share(path: Path) -> float:
    """How much of a file is in the page cache, from 0 to 1."""
    with path.open("rb") as file:
        pages = resident_pages(file.fileno(), 0, path.stat().st_size)
    return sum(pages) / len(pages)


def resident_pages(file: int, offset: int, size: int) -> list[bool]:
    """Of each page of a range, whether it is in the page cache (mincore(2)).

    A probe by ``preadv2(RWF_NOWAIT)`` would not do: it makes the kernel read ahead, and what was
    not there a moment ago is there when the next one looks.
    """
    start = offset - offset % mmap.PAGESIZE
    length = offset + size - start
    pages = (ctypes.c_ubyte * -(-length // mmap.PAGESIZE))()
    # A private mapping, because ctypes tells the address of writable ones only.
    with mmap.mmap(file, length, access=mmap.ACCESS_COPY, offset=start) as view:
        first = ctypes.c_char.from_buffer(view)
        address = ctypes.c_void_p(ctypes.addressof(first))
        failed = _libc.mincore(address, ctypes.c_size_t(length), pages)
        del first
    if failed:
        raise OSError(ctypes.get_errno(), "mincore failed")
    return [bool(page & 1) for page in pages]


def _make_group(group: Path, stack: contextlib.ExitStack) -> Path:
    group.mkdir()
    stack.callback(_remove_group, group)
    return group


def _remove_group(group: Path) -> None:
    _retry(group.rmdir)


def _unmount(root: Path) -> None:
    def unmount() -> None:
        done = subprocess.run([_program("umount"), root], capture_output=True, text=True)
        if done.returncode != 0:
            raise OSError(errno.EBUSY, done.stderr.strip())

    _retry(unmount)


def _retry(action: Callable[[], object]) -> None:
    """What the last processes have held is let go of a moment after their end."""
    deadline = time.monotonic() + 5
    while True:
        try:
            action()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def _run(name: str, *words: str) -> None:
    done = subprocess.run([_program(name), *words], capture_output=True, text=True)
    if done.returncode != 0:
        raise DiskUnavailable(f"{name} failed: {done.stderr.strip()}")


def _program(name: str) -> str:
    path = shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
    if path is None:
        raise DiskUnavailable(f"the program {name} is missing")
    return path
