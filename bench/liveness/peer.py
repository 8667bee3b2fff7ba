"""One TCP client that is told step by step what to do: `python -m bench.liveness.peer`.

It says what happened in lines of JSON on its standard output. Its steps:

    get NAME                ask for /boot/NAME
    begin                   send half of a request's head
    fin                     send FIN, and go on reading
    read BYTES              read so much of the body, as fast as it comes
    read                    read the body to its end
    trickle RATE SECONDS    read RATE bytes a second, for so long
    trickle RATE            read RATE bytes a second, to the end of the body
    pause SECONDS           do nothing: its kernel goes on acknowledging and answering probes
    shrink                  close the window, also over what is under way, and say so to the server
    grow                    open it again
    mark                    say so, and wait for a line on the standard input
    tell                    say so, and go on
    hold                    wait to be ended
"""

from __future__ import annotations

import argparse
import hashlib
import json
import socket
import sys
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_CHUNK: Final = 65536
_TICKS: Final = 4
"""Reads a second of a client that trickles, if its rate allows for as many."""


class _Peer:
    def __init__(self, address: str, port: int, buffer: int) -> None:
        self._socket = socket.socket()
        if buffer:
            # Before connect(): the window that is offered to the server follows from it.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self._socket.connect((address, port))
        self._digest = hashlib.sha256()
        self._host = address
        self.length = 0
        self.count = 0

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def perform(self, step: str) -> None:
        """Do one step.

        Raises:
            OSError: the connection failed, or ended too early.
        """
        match step.split():
            case ["get", name]:
                self._socket.sendall(
                    f"GET /boot/{name} HTTP/1.1\r\nHost: {self._host}\r\n\r\n".encode()
                )
                self._read_head()
            case ["begin"]:
                self._socket.sendall(b"GET /boot/x HTTP/1.1\r\nHo")
            case ["fin"]:
                self._socket.shutdown(socket.SHUT_WR)
            case ["read"]:
                self._read(self.length - self.count)
            case ["read", count]:
                self._read(int(count))
            case ["trickle", rate]:
                self._trickle(float(rate), float("inf"))
            case ["trickle", rate, seconds]:
                self._trickle(float(rate), float(seconds))
            case ["pause", seconds]:
                time.sleep(float(seconds))
            case ["shrink"]:
                self._shrink()
            case ["grow"]:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _CHUNK)
            case ["mark" | "tell" as word]:
                say(event=word, bytes=self.count)
                if word == "mark":
                    sys.stdin.readline()
            case ["hold"]:
                sys.stdin.read()
            case _:
                raise ValueError(f"no such step: {step}")

    def _shrink(self) -> None:
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
        for _ in range(3):
            time.sleep(0.1)
            # Data carries the window along; an empty line before a request is ignored (RFC 9112).
            self._socket.sendall(b"\r\n")

    def _read_head(self) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = self._socket.recv(1)
            if not byte:
                raise ConnectionError(f"it ended in the head of the answer: {head!r}")
            head += byte
        status, *fields = head.decode("latin-1").split("\r\n")
        if " 200 " not in status:
            raise ConnectionError(status)
        headers = dict(field.lower().split(": ", 1) for field in fields if field)
        self._digest = hashlib.sha256()
        self.length, self.count = int(headers["content-length"]), 0

    def _read(self, count: int) -> None:
        count = min(count, self.length - self.count)
        while count > 0:
            data = self._socket.recv(min(count, _CHUNK))
            if not data:
                raise ConnectionError("the server closed the connection")
            self._digest.update(data)
            self.count += len(data)
            count -= len(data)

    def _trickle(self, rate: float, seconds: float) -> None:
        piece = max(1, int(rate / _TICKS))
        began = time.monotonic()
        read = 0
        while self.count < self.length:
            due = read / rate
            if due > seconds:
                return
            time.sleep(max(0.0, began + due - time.monotonic()))
            self._read(piece)
            read += piece


def say(**words: object) -> None:
    """One line for whoever has started us."""
    print(json.dumps(words), flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.liveness.peer", description=__doc__)
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("steps", nargs="+", metavar="STEP")
    parser.add_argument(
        "--buffer", type=int, default=0, metavar="BYTES", help="SO_RCVBUF; default: the kernel's"
    )
    given = parser.parse_args(arguments)
    began = time.monotonic()
    error = None
    try:
        peer = _Peer(given.address, given.port, given.buffer)
    except OSError as problem:
        sys.exit(f"cannot connect: {problem}")
    try:
        for step in given.steps:
            peer.perform(step)
    except OSError as problem:
        error = str(problem)
    say(
        event="end",
        bytes=peer.count,
        length=peer.length,
        sha256=peer.sha256,
        seconds=round(time.monotonic() - began, 1),
        error=error,
    )


if __name__ == "__main__":
    main()
