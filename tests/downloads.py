"""Files to download from a server that is replaced or stopped, and clients that do so."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from tests.family import DEADLINE, Family

BIG = os.urandom(1 << 20) * 16

CONFIG = """
[http]
listen = ["127.0.0.1:0"]
[tftp]
listen = ["127.0.0.1:0"]
[assets]
roots = ["one"]
[service]
runtime_dir = "run"
"""


def assets(folder: Path) -> None:
    for name in ("one", "two"):
        (folder / name).mkdir()
        (folder / name / "name").write_text(name)
        (folder / name / "big").write_bytes(BIG)


def request(port: int, name: str, *, buffer: int | None = None) -> socket.socket:
    client = socket.socket()
    client.settimeout(DEADLINE)
    if buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    client.connect(("127.0.0.1", port))
    request = f"GET /boot/{name} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    client.sendall(request.encode())
    return client


def rest(client: socket.socket) -> bytes:
    data = bytearray()
    while more := client.recv(1 << 20):
        data += more
    return bytes(data)


def get(port: int, name: str) -> bytes:
    with request(port, name) as client:
        head, _, body = rest(client).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), head
    return body


@contextlib.contextmanager
def slow_download(port: int) -> Iterator[socket.socket]:
    with request(port, "big", buffer=4096) as client:
        assert client.recv(12) == b"HTTP/1.1 200"
        yield client


def finishes(client: socket.socket) -> bool:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    return rest(client).partition(b"\r\n\r\n")[2] == BIG


def configure(server: Family, old: str, new: str) -> None:
    path = server.folder / "bootserve.toml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
