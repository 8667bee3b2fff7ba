"""What a cap on the bytes in flight costs: `python -m bench.window`.

One client downloads from bootserve over a line of 10 Gbit/s, with different values of
`http.window`, in turn. The figures are ratios to no cap at all, in the same round; what the cap may
not do is cost anything on a fast local network, whose round trips take 50 to 200 us.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final, NamedTuple

from bench.distance import SERVER, Distance
from bench.process import PATIENCE, Tree, wait_until

PORT: Final = 8080
SIZE: Final = 1 << 30
DOWNLOADS: Final = 2
RATE: Final = 10e9 / 8
WINDOWS: Final = ("off", "4MiB", "2MiB", "1MiB", "512KiB", "256KiB")
DELAYS: Final = (25e-6, 50e-6, 100e-6, 250e-6)
"""Seconds one way."""

CONFIG: Final = """
[http]
listen = ["{server}:{port}"]
window = "{window}"
[tftp]
listen = "off"
[assets]
roots = ["root"]
"""

FETCH: Final = f"""
import socket, sys, time
peer = socket.create_connection(("{SERVER}", {PORT}))
peer.sendall(b"GET /boot/file HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
began = time.monotonic()
buffer = bytearray(1 << 20)
count = 0
while more := peer.recv_into(buffer, 0, socket.MSG_TRUNC):
    count += more
print(count / (time.monotonic() - began))
"""


class Figures(NamedTuple):
    """Bytes per second, and CPU seconds of the server per byte."""

    rate: float
    cpu: float


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.window", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, help="write the table there, too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bootserve-bench-") as name:
        home = Path(name)
        (home / "root").mkdir()
        with (home / "root" / "file").open("wb") as file:
            for _ in range(SIZE >> 20):
                file.write(bytes(1 << 20))
        lines = [
            "| round trip, us | ratio of | " + " | ".join(f"`{one}`" for one in WINDOWS) + " |",
            "|---:|---|" + "---:|" * len(WINDOWS),
        ]
        for delay in DELAYS:
            lines += _rows(home, delay, options.rounds)
            print(*lines[-2:], sep="\n", file=sys.stderr, flush=True)
    text = "\n".join(lines) + "\n"
    print(text)
    if options.output:
        options.output.write_text(text)


def _rows(home: Path, delay: float, rounds: int) -> list[str]:
    found: dict[str, list[Figures]] = {window: [] for window in WINDOWS}
    with Distance(delay, RATE, core=1) as distance:
        for number in range(rounds):
            for window in WINDOWS[number % len(WINDOWS) :] + WINDOWS[: number % len(WINDOWS)]:
                found[window].append(_measure(home, distance, window))
    begin = f"| {delay * 2e6:.0f} |"
    free = found["off"]
    rate, cpu = (statistics.median(figures) for figures in zip(*free, strict=True))
    rates, cpus = [f"{rate * 8 / 1e9:.1f} Gbit/s"], [f"{cpu * 1e9:.3f} s/GB"]
    for window in WINDOWS[1:]:
        pairs = list(zip(found[window], free, strict=True))
        rates.append(_ratios([one.rate / other.rate for one, other in pairs]))
        cpus.append(_ratios([one.cpu / other.cpu for one, other in pairs]))
    return [
        f"{begin} throughput | {' | '.join(rates)} |",
        f"{begin} CPU per GB | {' | '.join(cpus)} |",
    ]


def _ratios(found: list[float]) -> str:
    return f"{statistics.median(found):.2f} ({min(found):.2f}..{max(found):.2f})"


def _measure(home: Path, distance: Distance, window: str) -> Figures:
    """Measure downloads of a server that has been started afresh, after one that warms it."""
    (home / "bootserve.toml").write_text(CONFIG.format(server=SERVER, port=PORT, window=window))
    command = [*distance.server, sys.executable, "-m", "bootserve", "serve"]
    command += ["--config", str(home / "bootserve.toml")]
    with Tree(command, log=home / "log", core=0, environment=_environment()) as server:

        def is_up() -> bool:
            server.must_run()
            return "is ready" in (home / "log").read_text(errors="replace")

        wait_until(is_up, PATIENCE, "bootserve is ready")
        _fetch(distance)
        before = server.cpu_seconds()
        rates = [_fetch(distance) for _ in range(DOWNLOADS)]
        cpu = (server.cpu_seconds() - before) / (DOWNLOADS * SIZE)
    return Figures(statistics.median(rates), cpu)


def _fetch(distance: Distance) -> float:
    command = [*distance.client, "taskset", "-c", "1", sys.executable, "-c", FETCH]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def _environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("BOOTSERVE_")}


if __name__ == "__main__":
    main()
