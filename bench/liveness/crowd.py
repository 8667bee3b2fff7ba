"""Many clients of one process, a few at a time: `python -m bench.liveness.crowd`.

They leave in the middle of a download (by RST, some after a FIN), or connect and never finish a
request. Prints a line of JSON at the end of what it does; those that are
half open stay until a line comes on the standard input.
"""

from __future__ import annotations

import argparse
import json
import socket
import struct
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER of a client whose close is a reset, even if it has read everything (socket(7))."""
_BUFFER: Final = 16 << 10
_AT_ONCE: Final = 20


def _connect(address: str, port: int) -> socket.socket:
    client = socket.socket()
    client.settimeout(60)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
    client.connect((address, port))
    return client


def abort(address: str, port: int, name: str, count: int) -> None:
    """Begin downloads and reset each after its first bytes, every second one after a FIN."""
    request = f"GET /boot/{name} HTTP/1.1\r\nHost: {address}\r\n\r\n".encode()
    for start in range(0, count, _AT_ONCE):
        clients = [_connect(address, port) for _ in range(min(_AT_ONCE, count - start))]
        for client in clients:
            client.sendall(request)
        for number, client in enumerate(clients):
            if not client.recv(4096).startswith(b"HTTP/1.1 200"):
                raise ConnectionError("the answer is none")
            if number % 2:
                client.shutdown(socket.SHUT_WR)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            client.close()


def half_open(address: str, port: int, count: int) -> list[socket.socket]:
    """Connect, and send nothing or half a head."""
    clients = []
    for number in range(count):
        client = _connect(address, port)
        if number % 2:
            client.sendall(b"GET /boot/big HTTP/1.1\r\nHo")
        clients.append(client)
    return clients


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.liveness.crowd", description=__doc__)
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("what", choices=("abort", "half-open"))
    parser.add_argument("count", type=int)
    given = parser.parse_args(arguments)
    clients: list[socket.socket] = []
    if given.what == "abort":
        abort(given.address, given.port, "big", given.count)
    else:
        clients = half_open(given.address, given.port, given.count)
    print(json.dumps({"event": "end", "clients": given.count}), flush=True)
    if clients:
        sys.stdin.readline()


if __name__ == "__main__":
    main()
