"""The demonstration for newcomers shows what it promises."""

from __future__ import annotations

import os
import subprocess
import sys

from . import debian, needs
from .demo import GREETING
from .server import CHECKOUT


def test_demo_boots_greets_and_ends() -> None:
    needs.program("qemu-system-x86_64", "qemu-system-x86")
    needs.debian_parts("amd64")
    done = subprocess.run(
        [sys.executable, "-m", "tests.real.demo", "--once"],
        cwd=CHECKOUT,
        env={**os.environ, debian.CACHE_VARIABLE: str(debian.CACHE)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=120,
        check=False,
    )
    shown = done.stdout.decode(errors="replace")
    assert done.returncode == 0, shown + done.stderr.decode(errors="replace")
    console, log = shown.split("the machine is off", 1)
    assert GREETING in console
    assert "vmlinuz" in log
    assert "initramfs" in log
