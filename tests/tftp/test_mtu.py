"""Blocks that reach the client in one piece, over a real cable; fragments only where permitted."""

from __future__ import annotations

import contextlib
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cable import Cable, Host
from tests.real.process import Process

DEADLINE = 60
PORT = 6969
BODY = random.Random(6).randbytes(200_000)
BY_SYSTEMD = """
import os, socket, sys
udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
udp.bind(("::", int(sys.argv[1])))
os.dup2(udp.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""
"""Starts a command with a socket for both families, as the installed ListenDatagram= is one."""


@contextlib.contextmanager
def served(host: Host, folder: Path, *options: str, is_activated: bool = False) -> Iterator[None]:
    (folder / "boot").mkdir()
    (folder / "boot" / "file").write_bytes(BODY)
    config = folder / "bootserve.toml"
    config.write_text("\n".join(["[tftp]", f'listen = ["*:{PORT}"]', *options]))
    starter = ("-c", BY_SYSTEMD, str(PORT)) if is_activated else ()
    words = (*starter, "-m", "bootserve", "serve", "--config", str(config), "--http", "*:8080")
    command = host.command(sys.executable, *words, "--root", str(folder / "boot"))
    with Process("bootserve", command, folder) as server:
        server.wait_for("is ready", DEADLINE)
        yield


def fetch(client: socket.socket, address: str, blksize: int, windowsize: int) -> tuple[bytes, int]:
    """Return the file and the size of the blocks that it came in."""
    options = f"blksize\0{blksize}\0windowsize\0{windowsize}\0".encode()
    client.sendto(b"\0\1file\0octet\0" + options, (address, PORT))
    client.settimeout(DEADLINE)
    datagram, server = client.recvfrom(65536)
    words = datagram[2:].split(b"\0")
    agreed = int(words[words.index(b"blksize") + 1])
    client.connect(server)
    client.send(b"\0\4\0\0")
    found = bytearray()
    block = 0
    while True:
        datagram = client.recv(65536)
        assert datagram[:2] == b"\0\3"
        if int.from_bytes(datagram[2:4]) != block + 1:
            continue
        block += 1
        found += datagram[4:]
        is_last = len(datagram) < agreed + 4
        if is_last or block % windowsize == 0:
            client.send(b"\0\4" + block.to_bytes(2))
        if is_last:
            return bytes(found), agreed


def fragments(host: Host) -> int:
    """How many fragments the host has got (ReasmReqds in /proc/net/snmp)."""
    done = subprocess.run(
        host.command("cat", "/proc/net/snmp"), capture_output=True, text=True, check=True
    )
    names, values = [line.split() for line in done.stdout.splitlines() if line[:3] == "Ip:"]
    return int(values[names.index("ReasmReqds")])


@pytest.mark.parametrize("single_port", ["true", "false"])
@pytest.mark.parametrize(
    ("fragment", "expected", "has_fragments"), [("false", 1468, False), ("true", 8000, True)]
)
def test_blocks_fit_into_packets(
    tmp_path: Path, single_port: str, fragment: str, expected: int, has_fragments: bool
) -> None:
    options = [f"fragment = {fragment}", f"single_port = {single_port}"]
    with Cable() as cable, served(cable.server, tmp_path, *options):
        with cable.client.socket(socket.SOCK_DGRAM) as client:
            body, agreed = fetch(client, cable.server.address, 8000, 8)
        assert agreed == expected
        assert body == BODY
        assert (fragments(cable.client) > 0) == has_fragments


def test_ipv4_clients_of_systemds_socket_for_both_families(tmp_path: Path) -> None:
    with Cable() as cable, served(cable.server, tmp_path, is_activated=True):
        with cable.client.socket(socket.SOCK_DGRAM) as client:
            body, agreed = fetch(client, cable.server.address, 1468, 4)
        assert agreed == 1468
        assert body == BODY
        with cable.client.socket(socket.SOCK_DGRAM) as client:
            client.settimeout(DEADLINE)
            client.sendto(b"\0\1boot.ipxe\0octet\0blksize\0001468\0", (cable.server.address, PORT))
            _, server = client.recvfrom(65536)
            client.sendto(b"\0\4\0\0", server)
            script, _ = client.recvfrom(65536)
        assert b"\nset bootserve-url http://10.77.0.1:8080\n" in script
