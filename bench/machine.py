"""What the figures were measured on: without a name, a user or a path of it."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path

from bench.peers import REPOSITORY, find_program


def describe() -> dict[str, str]:
    """Lines about the machine."""
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "CPU": f"{_field('/proc/cpuinfo', 'model name')}, {os.cpu_count()} cores",
        "memory": f"{int(_field('/proc/meminfo', 'MemTotal').split()[0]) / 1e6:.0f} GB",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
    }


def _field(file: str, name: str) -> str:
    for line in Path(file).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return "unknown"


def version_of(program: str, option: str) -> str:
    """What a program (a name or a path) calls its own version."""
    path = find_program(program)
    if path is None:
        return "unknown"
    done = subprocess.run([path, option], capture_output=True, text=True)
    found = re.search(r"\d+(\.\d+)+", done.stdout + done.stderr)
    return found[0] if found else "unknown"


def version_of_package(name: str) -> str:
    """The version of a Python package, for our own with its commit."""
    version = metadata.version(name)
    return f"{version}{_revision()}" if name == "bootserve" else version


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
