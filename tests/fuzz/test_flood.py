"""A flood of what is no TFTP, at the running program."""

from __future__ import annotations

import itertools
import os
import socket
from pathlib import Path

from tests.downloads import CONFIG
from tests.family import DEADLINE, Family, family

from .seeds import PACKETS

MALFORMED = (
    PACKETS["nothing"],
    PACKETS["a byte"],
    PACKETS["an opcode"],
    PACKETS["no such opcode"],
    b"\0\1no mode",
    b"\0\1kernel\0\xff\0",
    bytes(1400),
    b"\0\1" + b"x" * 1000,
)
COUNT = 50_000
AT_ONCE = 250
"""Datagrams between two requests whose answers prove that the server has read them all."""
A_HANDFUL = 120
"""Lines: 50 in ten seconds, how many were left out, and a margin of another ten seconds."""


def cpu(server: Family) -> float:
    """Seconds of processor time that the server has used."""
    fields = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def flood(port: int, count: int) -> None:
    """Send ``count`` malformed datagrams, all of which are read."""
    kinds = itertools.cycle(MALFORMED)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(DEADLINE)
        client.connect(("127.0.0.1", port))
        for _ in range(count // AT_ONCE):
            for datagram in itertools.islice(kinds, AT_ONCE):
                client.send(datagram)
            client.send(b"\0\2upload\0octet\0")
            while not client.recv(2048).startswith(b"\0\5\0\2"):
                pass


def test_a_flood_of_malformed_datagrams_fills_no_log(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "name").write_text("one")
    with family(tmp_path, CONFIG) as server:
        _, port = server.ports()
        before = cpu(server)
        flood(port, COUNT)
        print(f"{(cpu(server) - before) / COUNT * 1e6:.1f} us of the server's for each datagram")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(DEADLINE)
            client.sendto(b"\0\1name\0octet\0", ("127.0.0.1", port))
            assert client.recv(100) == b"\0\3\0\1one"
        lines = server.log().splitlines()
    assert len([line for line in lines if "malformed" in line]) > 0
    assert len(lines) < A_HANDFUL, lines[:A_HANDFUL]
