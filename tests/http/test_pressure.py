"""Descriptors are short: clients that answer nothing go, those that live and do not read stay.

The server runs as it is, but for the silence that is enough under pressure, which is a second here
instead of a minute and a half.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

from tests import needs
from tests.cable import Cable
from tests.real.process import Process

DEADLINE = 90
PORT = 8080
LIMIT = 64
VANISHING = 20
PAUSED = 25
FIRST_PORT = 40000

SERVER = """
import bootserve.watch.liveness as liveness
liveness.PRESSURE_LIMIT = 1.0
from bootserve.cli import main
main()
"""

CLIENTS = f"""
import hashlib, socket, sys, time
def begin(port):
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.bind(("10.77.0.2", port))
    client.settimeout({DEADLINE})
    client.connect(("10.77.0.1", {PORT}))
    client.sendall(b"GET /boot/initramfs HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
    return client, client.recv(12)
clients = [begin({FIRST_PORT} + number) for number in range({VANISHING + PAUSED})]
print("begun", sum(status == b"HTTP/1.1 200" for _, status in clients), flush=True)
sys.stdin.readline()
while True:
    late, status = begin(0)
    if status == b"HTTP/1.1 200":
        break
    late.close()
    time.sleep(0.2)
print("late one is in", flush=True)
sums = set()
for client, status in [*clients[{VANISHING}:], (late, status)]:
    if status != b"HTTP/1.1 200":
        continue  # it was full already
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    data = status
    while more := client.recv(1 << 20):
        data += more
    sums.add(hashlib.sha256(data.partition(b"\\r\\n\\r\\n")[2]).hexdigest())
print("sums", *sums, flush=True)
"""

VANISH = (
    "add table inet t; add chain inet t c {{ type filter hook input priority 0; policy accept; }};"
    " add rule inet t c tcp dport {first}-{last} drop"
)


def test_the_silent_make_room_and_the_paused_stay(tmp_path: Path) -> None:
    nft = needs.program("nft", "nftables")
    prlimit = needs.program("prlimit", "util-linux")
    body = os.urandom(3 << 20)
    (tmp_path / "initramfs").write_bytes(body)
    arguments = ["serve", "--root", str(tmp_path), "--http", f"*:{PORT}", "--tftp", "off"]
    program = [prlimit, f"--nofile={LIMIT}:{LIMIT}", sys.executable, "-c", SERVER, *arguments]
    with Cable() as cable, Process("bootserve", cable.server.command(*program), tmp_path) as server:
        server.wait_for("is ready", DEADLINE)
        clients = subprocess.Popen(
            cable.client.command(sys.executable, "-c", CLIENTS),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert clients.stdout is not None
            begun = clients.stdout.readline().split()
            assert begun[0] == "begun"
            assert int(begun[1]) > PAUSED, "too few to be both"
            rules = VANISH.format(first=FIRST_PORT, last=FIRST_PORT + VANISHING - 1)
            subprocess.run(cable.client.command(nft, rules), check=True)
            answer, _ = clients.communicate("go on\n", timeout=DEADLINE)
        finally:
            clients.kill()
            clients.communicate()
        late, sums = answer.splitlines()
        assert late == "late one is in"
        assert sums == f"sums {hashlib.sha256(body).hexdigest()}"
        given_up = re.findall(
            r"client fell silent \(nothing acknowledged for (\d+) s", server.log()
        )
        assert given_up
        assert all(int(seconds) < 90 for seconds in given_up), "that was the ordinary limit"
