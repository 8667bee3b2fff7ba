"""A process that wants to end, and a client that has vanished or stands still, on a real network.

The server runs as it is, but for the silence that it takes for the end of a client, which is a
second here instead of a minute.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import needs
from tests.cable import Cable

DEADLINE = 60
PORT = 8080
SMALL = os.urandom(30_000)

SERVER = """
import bootserve.http.watched as watched
watched.TAIL_SILENCE = 1.0
from bootserve.cli import main
main()
"""

CLIENT = f"""
import socket, sys
client = socket.socket()
client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
client.connect(("10.77.0.1", {PORT}))
client.sendall(b"GET /boot/initramfs HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
data = client.recv(1)
print("begun", flush=True)
sys.stdin.readline()
while more := client.recv(65536):
    data += more
print(len(data), flush=True)
"""


@dataclass
class Scene:
    cable: Cable
    server: subprocess.Popen[str]
    client: subprocess.Popen[str]


def _line(process: subprocess.Popen[str], words: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if words in line:
            return
    pytest.fail(f"it ended without saying {words!r}")


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """A client that has begun to read a file which the server's kernel holds completely."""
    (tmp_path / "initramfs").write_bytes(SMALL)
    arguments = ["serve", "--root", str(tmp_path), "--http", f"*:{PORT}", "--tftp", "off"]
    with Cable() as cable:
        server = subprocess.Popen(
            cable.server.command(sys.executable, "-c", SERVER, *arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        client = None
        try:
            _line(server, "is ready")
            client = subprocess.Popen(
                cable.client.command(sys.executable, "-c", CLIENT),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            _line(client, "begun")
            yield Scene(cable, server, client)
        finally:
            for process in (client, server):
                if process is not None:
                    process.kill()
                    process.communicate()


def test_a_client_that_vanished_does_not_hold_the_process_up(scene: Scene) -> None:
    """An iPXE under UEFI starts its kernel before its last ACKs are out, and answers no more."""
    nft = needs.program("nft", "nftables")
    rules = (
        "add table inet t; add chain inet t c { type filter hook input priority 0; policy drop; }"
    )
    subprocess.run(scene.cable.client.command(nft, rules), check=True)
    scene.server.send_signal(signal.SIGTERM)
    _, log = scene.server.communicate(timeout=DEADLINE)
    assert scene.server.returncode == 0, log
    assert "sent in full, its end not acknowledged" in log


def test_a_client_that_stands_still_is_waited_for(scene: Scene) -> None:
    """Its kernel answers probes: it lives, and gets everything, though the process is to end."""
    scene.server.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        scene.server.wait(5)
    answer, _ = scene.client.communicate("go on\n", timeout=DEADLINE)
    assert int(answer) > len(SMALL)
    _, log = scene.server.communicate(timeout=DEADLINE)
    assert scene.server.returncode == 0, log
    assert f"{len(SMALL)} of {len(SMALL)} bytes" in log
    assert "complete" in log
