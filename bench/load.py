"""The clients: a few that are as fast as can be, and thousands that are slow.

Both read with MSG_TRUNC: TCP drops the bytes without copying them anywhere. What a client costs
would otherwise be the larger part of what is measured.
"""

from __future__ import annotations

import errno
import mmap
import os
import select
import socket
import time
from dataclasses import dataclass, field
from typing import Final

from bench.process import BenchError
from bench.site import HOST

SLICES: Final = 32
"""The slow clients read in turn, a slice of them at a time, not all in one burst."""
BEHIND: Final = 4
"""The most ticks that a slow client makes up for when it was visited late; a link does not catch
up with what its server has not sent in time."""

SEGMENT: Final = 1460
"""What every client announces as its largest segment (TCP_MAXSEG): Ethernet's. A server would
otherwise see the loopback's 64 KiB, and its kernel give each connection megabytes to send into."""
WINDOW: Final = 512 << 10
"""SO_RCVBUF of the fast clients, in bytes. Left to grow by itself, it grows differently each time,
and the figures with it."""

_READ: Final = 1 << 20
_nowhere = mmap.mmap(-1, _READ)  # never written to, hence never really allocated


def request(path: str, *fields: str) -> bytes:
    """A GET on a connection that stays open."""
    return "\r\n".join([f"GET {path} HTTP/1.1", f"Host: {HOST}", *fields, "", ""]).encode()


def new_socket(buffer: int | None = None) -> socket.socket:
    """A client's socket; `buffer` is its SO_RCVBUF."""
    peer = socket.socket()
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT)
    if buffer is not None:
        # Before connect(): the window that is offered to the server follows from it.
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    return peer


def fetch(port: int, path: str, *fields: str) -> tuple[int, bytes]:
    """One plain download on a connection of its own; the status and the body."""
    with socket.create_connection((HOST, port), timeout=60) as peer:
        peer.sendall(request(path, *fields))
        with peer.makefile("rb") as stream:
            status = int(stream.readline().split()[1])
            length = 0
            while (line := stream.readline().strip().lower()) != b"":
                if line.startswith(b"content-length:"):
                    length = int(line.partition(b":")[2])
            return status, stream.read(length)


@dataclass(slots=True)
class _Client:
    """One connection and the answer that comes on it."""

    socket: socket.socket
    began: float
    left: int = -1
    """Bytes of the body that have not come yet; below 0: its header has not come."""
    asked: bool = False
    read_at: float = 0.0


def _skim(client: _Client, limit: int) -> int:
    """Read at most `limit` bytes of a body, and the header before it; how many of the body.

    Raises:
        BlockingIOError: there is nothing now.
        ConnectionError: nor will there be: the connection is cut, or the answer is not the file.
    """
    if client.left < 0:
        head = client.socket.recv(4096, socket.MSG_PEEK)
        if not head:
            raise ConnectionResetError("no answer")
        end = head.find(b"\r\n\r\n")
        if end < 0:
            raise BlockingIOError
        client.left = _content_length(head[:end])
        client.socket.recv(end + 4)
    count = client.socket.recv_into(
        _nowhere, min(limit, client.left, _READ), socket.MSG_TRUNC | socket.MSG_DONTWAIT
    )
    if count == 0:
        raise ConnectionResetError(f"{client.left} bytes were missing")
    client.left -= count
    return count


def _content_length(head: bytes) -> int:
    status, *lines = head.split(b"\r\n")
    if status.split()[1] != b"200":
        raise ConnectionRefusedError(status.decode(errors="replace"))
    for line in lines:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise ConnectionRefusedError("no Content-Length")


def download(port: int, path: str, connections: int, seconds: float) -> int:
    """Download one file over and over on connections that stay open; how many bytes have come.

    No download begins after `seconds`; those that have begun come to their end.
    """
    asked = request(path)
    deadline = time.monotonic() + seconds
    total = 0
    clients: dict[int, _Client] = {}
    with select.epoll() as poll:
        try:
            for _ in range(connections):
                peer = new_socket(WINDOW)
                peer.connect((HOST, port))
                peer.setblocking(False)
                clients[peer.fileno()] = _Client(peer, time.monotonic())
                poll.register(peer, select.EPOLLIN)
                peer.sendall(asked)
            while clients:
                ready = poll.poll(60)
                if not ready:
                    raise BenchError("the server sent nothing for a minute")
                for number, _ in ready:
                    client = clients[number]
                    try:
                        total += _skim(client, _READ)
                    except BlockingIOError:
                        continue
                    except ConnectionError as error:
                        raise BenchError(f"the server cut a download of {path}: {error}") from None
                    if client.left == 0:
                        client.left = -1
                        if time.monotonic() < deadline:
                            client.socket.sendall(asked)
                        else:
                            poll.unregister(client.socket)
                            clients.pop(number).socket.close()
        finally:
            for client in clients.values():
                client.socket.close()
    return total


@dataclass
class Fleet:
    """Many slow clients, each of which fetches the same file once."""

    port: int
    path: str
    rate: float
    """Bytes per second that each client takes."""
    tick: float
    """Seconds between two reads of one client."""
    buffer: int
    """Bytes that a client asks its kernel to receive ahead (SO_RCVBUF); firmware has little, and
    with the default a whole transfer would lie in buffers before its client reads any of it."""

    finished: int = 0
    cut: int = 0
    """Transfers that the server did not accept, or ended before the last byte."""
    durations: list[float] = field(default_factory=list)
    """Seconds that each finished transfer took."""
    worst_lateness: float = 0.0
    """Seconds by which the clients were visited too late at worst: by this program's fault."""

    _slices: list[list[_Client]] = field(default_factory=lambda: [[] for _ in range(SLICES)])
    _turn: int = 0
    _due: float = 0.0

    @property
    def in_flight(self) -> int:
        return sum(map(len, self._slices))

    def start(self, count: int, seconds: float) -> None:
        """Connect `count` clients, evenly over `seconds`, while those that are there read."""
        began = self._due = time.monotonic()
        started = 0
        while started < count:
            wanted = min(count, int((time.monotonic() - began) / seconds * count) + 1)
            for number in range(started, wanted):
                self._connect(number)
            started = wanted
            self._visit_next()

    def run(self, seconds: float) -> None:
        """Read for so long; clients whose transfer ends meanwhile leave."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._visit_next()

    def finish(self, seconds: float) -> int:
        """Read until all have ended, for at most so long; how many had not ended by then."""
        deadline = time.monotonic() + seconds
        while self.in_flight and time.monotonic() < deadline:
            self._visit_next()
        late = self.in_flight
        self.close()
        return late

    def close(self) -> None:
        for clients in self._slices:
            for client in clients:
                client.socket.close()
            clients.clear()

    def _connect(self, number: int) -> None:
        peer = new_socket(self.buffer)
        peer.setblocking(False)
        problem = peer.connect_ex((HOST, self.port))
        if problem not in (0, errno.EINPROGRESS):
            peer.close()
            raise BenchError(f"no client can connect: {os.strerror(problem)}")
        self._slices[number % SLICES].append(_Client(peer, time.monotonic()))

    def _visit_next(self) -> None:
        """Let the next slice read, at its time."""
        now = time.monotonic()
        if now < self._due:
            time.sleep(self._due - now)
            now = self._due
        self.worst_lateness = max(self.worst_lateness, now - self._due)
        # After a delay everybody reads more at once, and not more often.
        self._due = max(self._due + self.tick / SLICES, now)
        self._turn = (self._turn + 1) % SLICES
        clients = self._slices[self._turn]
        ended = [client for client in clients if self._visit(client)]
        if ended:
            gone = set(map(id, ended))
            self._slices[self._turn] = [one for one in clients if id(one) not in gone]

    def _visit(self, client: _Client) -> bool:
        """Read what this client's link brings since its last visit; whether it has ended."""
        now = time.monotonic()
        try:
            if not client.asked:
                client.socket.send(request(self.path))
                client.asked = True
            elif share := int(self.rate * min(now - client.read_at, BEHIND * self.tick)):
                _skim(client, share)
        except BlockingIOError:
            pass  # not connected yet, or the server has sent nothing
        except ConnectionError:
            return self._end(client, cut=True)
        client.read_at = now
        if client.left == 0:
            self.durations.append(now - client.began)
            return self._end(client, cut=False)
        return False

    def _end(self, client: _Client, *, cut: bool) -> bool:
        client.socket.close()
        self.cut += cut
        self.finished += not cut
        return True
