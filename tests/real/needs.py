"""What a real peer needs from the host, and what to say when it is not there.

On a developer's machine a missing program is a reason to skip; in CI it is a
failure, because a proof that is silently skipped proves nothing.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

from . import debian


def missing(reason: str) -> NoReturn:
    """Skip the test for `reason`, or fail it where BOOTSERVE_NO_SKIP forbids skipping."""
    if os.environ.get("BOOTSERVE_NO_SKIP", "") not in ("", "0"):
        pytest.fail(f"{reason} (and BOOTSERVE_NO_SKIP is set)", pytrace=False)
    pytest.skip(reason)


def program(name: str, package: str) -> str:
    """The path of a program, or a skip that names the Debian package with it."""
    # Debian keeps /usr/sbin out of a normal user's PATH.
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if path is None:
        missing(f"the program {name} is missing: install Debian's package {package}")
    return path


def file(path: str, package: str) -> Path:
    """A file of a distribution package, or a skip that names the package."""
    found = Path(path)
    if not found.is_file():
        missing(f"the file {path} is missing: install Debian's package {package}")
    return found


def root() -> None:
    """Network namespaces and taps are made by root only."""
    if os.geteuid() != 0:
        missing("network namespaces and taps need root: run the tests as root")


def debian_parts(architecture: debian.Architecture) -> debian.Parts:
    """The kernel and busybox of an architecture, if they have been fetched."""
    found = debian.parts(architecture)
    if not found.present():
        missing(
            f"Debian's kernel and busybox for {architecture} are not in"
            f" {debian.CACHE}: fetch them with `python -m tests.real.debian`"
        )
    return found
