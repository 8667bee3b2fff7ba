"""What a real peer needs from the host: the common needs, and Debian's kernels."""

from __future__ import annotations

import pytest

from tests.needs import file, program, root

from . import debian

__all__ = ["debian_parts", "file", "program", "root"]


def debian_parts(architecture: debian.Architecture) -> debian.Parts:
    """The kernel and busybox of an architecture, if they have been fetched."""
    found = debian.parts(architecture)
    if not found.present():
        pytest.skip(
            f"Debian's kernel and busybox for {architecture} are not in"
            f" {debian.CACHE}: fetch them with `.venv/bin/python -m tests.real.debian`"
        )
    return found
