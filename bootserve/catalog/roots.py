"""Asset roots as directories: whether they can be one, and what lies in them."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from bootserve.text import printable

logger = logging.getLogger("bootserve.catalog")

TEMPORARY = (errno.EMFILE, errno.ENFILE, errno.EIO, errno.ENOMEM, errno.ESTALE)
"""Errors that say nothing about a directory, only that it cannot be listed now."""


_HIDDEN = {
    "/home": "ProtectHome",
    "/root": "ProtectHome",
    "/tmp": "PrivateTmp",  # noqa: S108 (compared, not written to)
    "/var/tmp": "PrivateTmp",  # noqa: S108
}


def root_problem(root: Path) -> str | None:
    """Return what keeps ``root`` from being an asset root, with a remedy, or ``None``."""
    try:
        os.close(os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except FileNotFoundError:
        return f"does not exist; create it or correct the name{_perhaps_hidden(root)}"
    except NotADirectoryError:
        return "is not a directory; correct the name"
    except PermissionError:
        return (
            "may not be read by this user; check its permissions and those above"
            f" it{_perhaps_hidden(root)}"
        )
    except OSError as error:
        return f"cannot be opened: {error.strerror}"
    if not os.access(root, os.X_OK):
        return "may not be searched by this user; give it the x permission"
    return None


def _perhaps_hidden(root: Path) -> str:
    """A hint, where a service may be shown another folder than a person is, see systemd.exec(5)."""
    if "INVOCATION_ID" not in os.environ:
        return ""
    for folder, setting in _HIDDEN.items():
        if root.is_relative_to(folder):
            return f", or take one outside {folder}, which the unit's {setting}= hides"
    return ""


def files_below(root: Path, directory: str, depth: int) -> Iterator[str]:
    """Yield the names, from ``root`` on, of the regular files below ``root/directory``, sorted.

    Looks ``depth`` directories deep at most. Links are followed inside the root, not in circles.
    """
    yield from _walk(root, root / directory, directory and f"{directory}/", depth, frozenset())


def _walk(
    root: Path, folder: Path, prefix: str, depth: int, above: frozenset[tuple[int, int]]
) -> Iterator[str]:
    try:
        facts = folder.stat()
        entries = sorted(folder.iterdir())
        is_inside = folder.resolve().is_relative_to(root.resolve())
    except PermissionError:
        logger.warning("%s may not be read; check its permissions", printable(str(folder)))
        return
    except OSError as error:
        if error.errno in TEMPORARY:
            raise
        return
    here = (facts.st_dev, facts.st_ino)
    if here in above or not is_inside:
        return
    for entry in entries:
        try:
            # No URL and no script can hold a name that is not UTF-8.
            entry.name.encode()
            if entry.is_dir():
                if depth > 0:
                    inner = f"{prefix}{entry.name}/"
                    yield from _walk(root, entry, inner, depth - 1, above | {here})
            elif entry.is_file() and entry.resolve().is_relative_to(root.resolve()):
                yield prefix + entry.name
        except (OSError, UnicodeEncodeError):
            continue
