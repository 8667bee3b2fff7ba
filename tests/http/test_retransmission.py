"""What TCP sends again is what the page cache holds then, and not what it held at first."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests import needs
from tests.cable import Cable
from tests.http.conftest import DEADLINE

PORT = 8080
SIZE = 150_000

CLIENT = f"""
import socket, sys
client = socket.create_connection(("10.77.0.1", {PORT}))
def ask(name):
    client.sendall(f"GET /boot/{{name}} HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n".encode())
def answer():
    data = b""
    while b"\\r\\n\\r\\n" not in data:
        data += client.recv(1)
    length = int(data.lower().split(b"content-length: ")[1].split(b"\\r\\n")[0])
    body = b""
    while len(body) < length and (more := client.recv(65536)):
        body += more
    return body
ask("warm")
answer()
print("warm", flush=True)
sys.stdin.readline()
ask("file")
try:
    print("".join(sorted(set(answer().decode()))), flush=True)
except ConnectionResetError:
    print("reset", flush=True)
"""

DROP = """
add table ip t
add chain ip t c { type filter hook input priority 0; policy accept; }
add rule ip t c tcp sport 8080 counter drop
"""


def test_a_file_that_is_rewritten_before_it_is_sent_again_is_not_delivered(tmp_path: Path) -> None:
    nft = needs.program("nft", "nftables")
    (tmp_path / "warm").write_bytes(bytes(4_000_000))
    (tmp_path / "file").write_bytes(b"A" * SIZE)
    arguments = ["serve", "--root", str(tmp_path), "--http", f"*:{PORT}", "--tftp", "off"]
    with Cable() as cable:
        server = subprocess.Popen(
            cable.server.command(sys.executable, "-m", "bootserve", *arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        client = None
        try:
            assert server.stdout is not None
            assert any("is ready" in line for line in server.stdout)
            client = subprocess.Popen(
                cable.client.command(sys.executable, "-c", CLIENT),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            assert client.stdout is not None
            assert client.stdin is not None
            assert client.stdout.readline() == "warm\n"

            def rules(*words: str, text: str | None = None) -> str:
                command = cable.client.command(nft, *words)
                return subprocess.run(
                    command, input=text, capture_output=True, check=True, text=True
                ).stdout

            rules("-f", "-", text=DROP)
            client.stdin.write("go on\n")
            client.stdin.flush()
            # All but the last few kilobytes have been sent, and lost.
            dropped = 0
            while dropped < SIZE - 8192:
                found = re.search(r"bytes (\d+) drop", rules("list", "chain", "ip", "t", "c"))
                assert found
                dropped = int(found[1])
            with (tmp_path / "file").open("r+b") as file:
                file.write(b"B" * SIZE)
            rules("delete", "table", "ip", "t")
            answer, _ = client.communicate(timeout=DEADLINE)
            assert answer.strip() in ("reset", "A", "B")
        finally:
            for process in (client, server):
                if process is not None:
                    process.kill()
                    process.communicate()
