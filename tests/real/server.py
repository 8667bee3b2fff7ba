"""bootserve as a user starts it: a process with a configuration file."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .process import Process, environment

if TYPE_CHECKING:
    from collections.abc import Sequence

CHECKOUT = Path(__file__).resolve().parents[2]
BOOTSERVE = [sys.executable, "-m", "bootserve"]


def start(config: Path, *options: str, prefix: Sequence[str] = ()) -> Process:
    """Start `bootserve serve` and return when it says that it is ready."""
    server = Process(
        "bootserve",
        [*prefix, *BOOTSERVE, "serve", "--config", config, *options],
        config.parent,
        cwd=CHECKOUT,
    )
    try:
        server.wait_for(r"\bready\b", 30)
    except BaseException:
        server.stop()
        raise
    return server


def dhcp_config(dialect: str, config: Path, address: str) -> str:
    """What `bootserve dhcp-config` prints to be pasted into a DHCP server's configuration."""
    done = subprocess.run(
        [*BOOTSERVE, "dhcp-config", dialect, "--config", config, "--server", address],
        cwd=CHECKOUT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"bootserve dhcp-config {dialect} failed: {done.stderr.strip()}")
    return done.stdout


def completed(server: Process, client: str, name: str) -> list[str]:
    """The log lines that say that `client` got the file `name` to its end."""
    return [
        line
        for line in server.log().splitlines()
        if client in line and name in line and line.rstrip().endswith("complete")
    ]


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port of the loopback address that nobody uses now."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
