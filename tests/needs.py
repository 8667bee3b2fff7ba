"""What a test needs from the host, and what to say when it is not there.

A missing program is a reason to skip; the rule in conftest.py makes a skip a failure where NO_SKIP
is set, because a proof that is silently skipped proves nothing.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest


def program(name: str, package: str) -> str:
    """The path of a program, or a skip that names the Debian package with it."""
    # Debian keeps /usr/sbin out of a normal user's PATH.
    path = shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
    if path is None:
        pytest.skip(f"the program {name} is missing: install Debian's package {package}")
    return path


def file(path: str, package: str) -> Path:
    """A file of a distribution package, or a skip that names the package."""
    found = Path(path)
    if not found.is_file():
        pytest.skip(f"the file {path} is missing: install Debian's package {package}")
    return found


def root() -> None:
    """Network namespaces and taps are made by root only."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces and taps need root: run the tests as root")
