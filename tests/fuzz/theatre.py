"""The stateful target: plays a conversation with a server, and holds the server to its promises.

* Nothing is logged at ERROR, nothing escapes into the event loop, and every line is printable.
* What a client gets is TFTP. A client that has sent nothing to a transfer's port gets at most
  1 + 3 packets for each read request and one for anything else that it sends, of bounded size; a
  stranger at such a port never gets a file.
* Once everybody is silent, it all ends: no transfer, no descriptor and no open file is left.
* Whoever asks properly afterwards gets the file.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from unittest import mock

from bootserve.catalog.assets import AssetForbidden, AssetNotFound, AssetUnavailable
from tests.tftp import harness
from tests.tftp.harness import Body

from .conversation import CLIENTS, PATIENCE, Move, Step, moves
from .virtual import VirtualTime

if TYPE_CHECKING:
    from bootserve.tftp.server import TftpRequestInfo
    from tests.tftp.harness import Address, Running

REPEATS = 3
"""How often an unanswered first packet is sent again."""
_MOMENT = 0.001
"""Virtual seconds in which the server does all that it can do at once."""
_BLOCK = 4 + 512
_OPTIONS_ADDED = 64
"""Bytes by which an OACK may be longer than the request: values are longer than ``0``."""
_MOST_SESSIONS = 3  # fewer than the clients, so that some must make room
_CONTENT = random.Random(7).randbytes(200_000)
BODIES = {
    "empty": b"",
    "block": _CONTENT[:512],
    "proof": _CONTENT[:1300],
    "kernel": _CONTENT,
}


class Broken(AssertionError):
    """The server has broken a promise."""


class Library:
    """Opens anything: by its name an empty, a slow or a broken file, or none."""

    def __init__(self) -> None:
        self.opened: list[Body] = []

    async def __call__(self, info: TftpRequestInfo) -> Body:
        await asyncio.sleep(0)
        name = info.name.strip("/")
        for word, error in (
            ("missing", AssetNotFound),
            ("forbidden", AssetForbidden),
            ("busy", AssetUnavailable),
        ):
            if name == word:
                raise error(name, f"is {word}")
        content = BODIES.get(name, _CONTENT[: len(name) * 400])
        body = Body(
            name,
            content,
            is_cold=name == "slow",
            failure=OSError(5, "Input/output error") if name == "broken" else None,
            claims=len(content) + 700 if name == "liar" else None,
        )
        self.opened.append(body)
        return body


class _Listener(logging.Handler):
    """Collects what should not be in the log."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.problems: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno >= logging.ERROR:
            trace = record.exc_info[1] if record.exc_info else None
            self.problems.append(f"logged: {text} {trace!r}")
        if not text.isprintable():
            self.problems.append(f"a line that is not printable: {text!r}")


@dataclass
class Client:
    """A client's port, and what it is owed and has got."""

    server: Address
    sock: socket.socket = field(init=False)
    transfer: Address | None = None
    blksize: int = 512
    in_order: int = 0
    request: bytes = b""
    allowed: int = 0
    largest: int = _BLOCK
    got: int = 0
    has_answered: bool = False
    """Whether it has sent anything to a transfer: from then on nobody can have forged it."""

    def __post_init__(self) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.setblocking(False)
        self.sock.bind((self.server[0], 0))

    def ask(self, datagram: bytes) -> None:
        is_read = datagram[:2] == b"\0\1"
        if not is_read and self.transfer == self.server:
            self.has_answered = True  # all transfers have the one port
        self.allowed += 1 + REPEATS if is_read else 1
        self.largest = max(self.largest, len(datagram) + _OPTIONS_ADDED)
        if is_read:
            self.request = datagram
        self._send(datagram, self.server)

    def answer(self, datagram: bytes) -> None:
        if self.transfer is not None:
            self.has_answered = True
            self._send(datagram, self.transfer)

    def ack(self) -> None:
        self.answer(b"\0\4" + (self.in_order & 0xFFFF).to_bytes(2))

    def listen(self) -> int:
        """Take what has come; how many packets that were."""
        count = 0
        while True:
            try:
                datagram, sender = self.sock.recvfrom(65536)
            except BlockingIOError:
                return count
            except ConnectionRefusedError:
                continue
            count += 1
            self._take(datagram, sender)

    def _take(self, datagram: bytes, sender: Address) -> None:
        opcode = int.from_bytes(datagram[:2])
        if opcode not in (3, 5, 6) or len(datagram) < 4:
            raise Broken(f"no packet of a server: {datagram[:40]!r}")
        self.got += 1
        if not self.has_answered:
            if self.got > self.allowed:
                raise Broken(f"{self.got} packets for requests that are worth {self.allowed}")
            if len(datagram) > self.largest:
                raise Broken(f"{len(datagram)} bytes to somebody who has acknowledged nothing")
        if opcode == 5:
            return
        if sender != self.transfer:
            self.transfer, self.in_order, self.blksize = sender, 0, 512
        if opcode == 6:
            words = datagram[2:].lower().split(b"\0")
            if b"blksize" in words[::2]:
                self.blksize = int(words[words.index(b"blksize") + 1])
        elif len(datagram) > self.blksize + 4:
            raise Broken(f"{len(datagram) - 4} bytes in a block of {self.blksize}")
        elif int.from_bytes(datagram[2:4]) == (self.in_order + 1) & 0xFFFF:
            self.in_order += 1

    def _send(self, datagram: bytes, address: Address) -> None:
        # Refused is what a transfer that has ended says.
        with contextlib.suppress(ConnectionRefusedError):
            self.sock.sendto(datagram, address)


class Theatre:
    """Plays conversations one after the other, each with a server of its own.

    ``settings`` are the server's, beside those that are played with.
    """

    def __init__(self, *, is_direct: bool = False, **settings: Any) -> None:
        self._settings = settings
        self._time = VirtualTime(is_direct=is_direct)
        self._listener = _Listener()
        self._logger = logging.getLogger("bootserve")

    def __enter__(self) -> Theatre:
        self._before = (self._logger.level, self._logger.propagate)
        self._logger.setLevel(logging.INFO)
        self._logger.propagate = False
        self._logger.addHandler(self._listener)
        return self

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self._listener)
        self._logger.level, self._logger.propagate = self._before
        self._time.close()

    def play(self, data: bytes) -> None:
        """Play one conversation.

        Raises:
            Broken: the server has broken a promise.
        """
        self._listener.problems.clear()
        self._time.reported.clear()
        # Virtual seconds pass by the thousand.
        with mock.patch.object(harness, "DEADLINE", float("inf")):
            raised = self._run(data)
        problems = [*self._listener.problems, *self._time.reported, *raised]
        if problems:
            raise Broken("; ".join(problems))

    def _run(self, data: bytes) -> list[str]:
        try:
            self._time.run(_play(data, self._settings))
        except Broken as error:
            return [str(error)]
        except BaseExceptionGroup as group:
            # The harness runs the server in a task group.
            others = group
            while len(others.exceptions) == 1 and isinstance(
                others.exceptions[0], BaseExceptionGroup
            ):
                others = others.exceptions[0]
            if isinstance(others.exceptions[0], Broken):
                return [str(others.exceptions[0])]
            raise
        return []


async def _play(data: bytes, settings: dict[str, Any]) -> None:
    library = Library()
    before = _descriptors()
    async with harness.serving(library, patience=PATIENCE, max_sessions=_MOST_SESSIONS) as running:
        with contextlib.ExitStack() as stack:
            clients: dict[int, Client] = {}
            for move in moves(data):
                client = clients.get(move.client)
                if client is None:
                    client = clients[move.client] = Client(running.address)
                    stack.callback(client.sock.close)
                await _perform(move, client, clients)
                if not move.is_in_burst:
                    await _listen(clients)
            await _listen(clients)
            # Nobody says anything any more.
            await asyncio.sleep(2 * PATIENCE)
            await _listen(clients)
            if running.server.sessions or running.ledger.live:
                raise Broken("a transfer goes on without a client")
            await _still_serves(running)
            await running.drained()
    if [body.closed for body in library.opened] != [1] * len(library.opened):
        raise Broken("a file was not closed, or twice")
    if _descriptors() != before:
        raise Broken(f"{before} descriptors became {_descriptors()}")


async def _listen(clients: dict[int, Client]) -> None:
    await asyncio.sleep(_MOMENT)
    for client in clients.values():
        if client.sock.fileno() != -1:
            client.listen()


async def _perform(move: Move, client: Client, clients: dict[int, Client]) -> None:
    if client.sock.fileno() == -1:
        return  # it has left
    match move.step:
        case Step.RAW | Step.CAPTURED | Step.ASK:
            client.ask(move.datagram)
        case Step.AGAIN:
            client.ask(client.request)
        case Step.ACK:
            client.ack()
        case Step.ACK_NUMBER:
            client.answer(b"\0\4" + move.number.to_bytes(2))
        case Step.INTO:
            client.answer(move.datagram)
        case Step.ERROR:
            client.answer(b"\0\5\0" + bytes([move.number]) + b"enough\0")
        case Step.WAIT:
            await asyncio.sleep(move.seconds)
        case Step.STRANGE:
            await _intrude(client)
        case Step.LEAVE:
            client.sock.close()
        case Step.FETCH:
            for _ in range(move.number):
                client.ack()
                await asyncio.sleep(_MOMENT)
                if not client.listen():
                    break


async def _intrude(client: Client) -> None:
    """Somebody else acknowledges what the client has got."""
    if client.transfer is None:
        return
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.setblocking(False)
        stranger.sendto(b"\0\4" + (client.in_order & 0xFFFF).to_bytes(2), client.transfer)
        await asyncio.sleep(_MOMENT)
        with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
            datagram, _ = stranger.recvfrom(65536)
            if datagram[:2] != b"\0\5":
                raise Broken("a stranger gets a file")


async def _still_serves(running: Running) -> None:
    """Somebody else fetches a file, as patiently as firmware."""
    client = Client(running.address)
    with client.sock:
        found = bytearray()
        client.ask(b"\0\1proof\0octet\0")
        while True:
            datagram, sender = await _next(client)
            number = int.from_bytes(datagram[2:4])
            if datagram[:2] != b"\0\3":
                raise Broken(f"a proper request gets {datagram!r}")
            client.transfer = sender
            if number == client.in_order + 1:
                found += datagram[4:]
                client.in_order = number
            client.ack()
            if len(datagram) < _BLOCK:
                break
    if found != BODIES["proof"]:
        raise Broken("a file with other bytes")


async def _next(client: Client) -> tuple[bytes, Address]:
    for _ in range(20):
        await asyncio.sleep(_MOMENT)
        with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
            return client.sock.recvfrom(65536)
        await asyncio.sleep(1)
        if client.transfer is None:
            client.ask(b"\0\1proof\0octet\0")
        else:
            client.ack()
    raise Broken("a proper request gets no answer")


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


assert _MOST_SESSIONS < CLIENTS
