"""A client's name becomes a descriptor of a regular file below an asset root, or an error.

Rules of this module:

* A name is a relative path with ``/`` between its parts, taken from an untrusted client. Empty
  parts and ``.`` are dropped (firmware builds ``dir//file``); ``..``, NUL and absolute escapes
  name nothing.
* Whether a file may be served is decided on the descriptor that was opened, never on its name:
  it is opened with ``O_PATH`` (which reads nothing, wakes no FIFO, touches no device), must be a
  regular file, and must lie below its root as the kernel names it in ``/proc/self/fd``. So links
  inside a root work, also absolute ones and a root that is itself a link, and links that lead out
  do not, whatever is renamed meanwhile.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from bootserve.linux import Facts, facts_of, open_cached


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


def split_name(name: str) -> list[str] | None:
    """Return the parts of a client's name for a file, or ``None`` if it can name nothing."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if not parts or ".." in parts or "\0" in name:
        return None
    return parts


_MISSING = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL)


def find_below(root: Path, name: str, *, cached_only: bool = False) -> tuple[int, Facts] | None:
    """Return an ``O_PATH`` descriptor of the regular file ``root/name`` and its facts, or ``None``.

    Args:
        cached_only: do not wait for a disk; ``BlockingIOError`` if it would take one.
    """
    root_fd = _open_path(name, root, os.O_DIRECTORY, cached_only=cached_only)
    if root_fd is None:
        return None
    try:
        path_fd = _open_path(name, name, dir_fd=root_fd, cached_only=cached_only)
        if path_fd is None:
            return None
        try:
            facts = facts_of(path_fd, cached_only=cached_only)
            if facts.is_regular:
                if not _is_below(_kernel_name(root_fd), _kernel_name(path_fd)):
                    raise AssetForbidden(name, "is a link that leads out of its asset root")
                path_fd, found = -1, path_fd
                return found, facts
        finally:
            if path_fd >= 0:
                os.close(path_fd)
    finally:
        os.close(root_fd)
    return None


def find_extra(name: str, path: Path, *, cached_only: bool = False) -> tuple[int, Facts]:
    """The same for a file that the operator has named, wherever it is."""
    path_fd = _open_path(name, path, cached_only=cached_only)
    if path_fd is None:
        raise AssetNotFound(name, f"{path} is gone")
    try:
        facts = facts_of(path_fd, cached_only=cached_only)
    except OSError:
        os.close(path_fd)
        raise
    if not facts.is_regular:
        os.close(path_fd)
        raise AssetNotFound(name, f"{path} is not a regular file")
    return path_fd, facts


def _open_path(
    name: str, path: Path | str, flags: int = 0, dir_fd: int | None = None, *, cached_only: bool
) -> int | None:
    """Return an ``O_PATH`` descriptor, or ``None`` if there is nothing of that name."""
    flags |= os.O_PATH | os.O_CLOEXEC
    try:
        if cached_only:
            return open_cached(os.fspath(path), flags, dir_fd)
        return os.open(path, flags, dir_fd=dir_fd)
    except BlockingIOError:
        raise
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


def reopen(name: str, path_fd: int) -> int:
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
