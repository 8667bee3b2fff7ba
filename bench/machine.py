"""What the figures were measured on: without a name, a user or a path of it."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from bench.peers import REPOSITORY, program

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.peers import Peer


def describe(peers: Sequence[Peer]) -> dict[str, str]:
    """Lines about the machine and the versions."""
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "CPU": f"{_field('/proc/cpuinfo', 'model name')}, {os.cpu_count()} cores",
        "memory": f"{int(_field('/proc/meminfo', 'MemTotal').split()[0]) / 1e6:.0f} GB",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        **{peer.name: f"{_version(peer)} ({peer.what})" for peer in peers},
        "wrk": _package_version("wrk"),
    }


def _field(file: str, name: str) -> str:
    for line in Path(file).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return "unknown"


def _version(peer: Peer) -> str:
    if peer.is_program:
        return _package_version(peer.needs)
    version = metadata.version(peer.needs)
    return f"{version}{_revision()}" if peer.needs == "bootserve" else version


def _package_version(name: str) -> str:
    """What a program calls its own version."""
    option = "-v" if name in ("nginx", "wrk") else "version"
    done = subprocess.run([program(name, name), option], capture_output=True, text=True)
    found = re.search(r"\d+(\.\d+)+", done.stdout + done.stderr)
    return found[0] if found else "unknown"


def _revision() -> str:
    """The commit that is measured, where this is a git checkout."""

    def git(*words: str) -> str:
        # Without the option, git writes what it has learnt into the index.
        command = ["git", "-C", str(REPOSITORY), "--no-optional-locks", *words]
        try:
            return subprocess.run(command, capture_output=True, text=True).stdout.strip()
        except FileNotFoundError:
            return ""

    commit = git("rev-parse", "--short", "HEAD")
    if not commit:
        return ""
    changed = git("status", "--porcelain", "--", "bootserve")
    return f" at {commit}{' with uncommitted changes' if changed else ''}"
