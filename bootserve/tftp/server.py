"""The listening side: requests in, deliveries started, or refused with TFTP's own errors.

Rules of this module:

* One client address and port has at most one transfer. The same request again belongs to the
  transfer it started, as long as that has not got an ACK; any other request replaces it.
* Refusals leave from the listening port: they need no descriptor. Transfers have a port of their
  own (the TID of RFC 1350), on the address that was asked.
* ERROR, ACK, DATA and OACK that come to the listening port belong to no transfer and get no
  answer, although RFC 1350 has ERROR 5 for it: their sender's address may be forged, and an
  answer to an answer may go round for ever. A packet without a meaning gets ERROR 4.
* Nothing that comes from the network ends more than the transfer it belongs to.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import anyio
from anyio.abc import TaskGroup, TaskStatus

from bootserve.catalog.assets import AssetForbidden, AssetNotFound, AssetUnavailable, Source
from bootserve.text import as_word, printable
from bootserve.tftp import sockets
from bootserve.tftp.delivery import Delivery
from bootserve.tftp.netascii import NetasciiRefused, NetasciiTexts
from bootserve.tftp.options import negotiate
from bootserve.tftp.packet import (
    MAX_REQUEST,
    ErrorCode,
    MalformedPacket,
    Opcode,
    Request,
    encode_error,
    parse,
)
from bootserve.tftp.session import PATIENCE, ReadSession
from bootserve.tftp.sockets import Peer, SocketAddress, open_socket
from bootserve.watch.ledger import End, Ledger
from bootserve.watch.quiet import QuietLog, describe

__all__ = ["Opener", "TftpRequestInfo", "TftpServer", "open_socket"]

logger = logging.getLogger("bootserve.tftp")

MAX_SESSIONS = 4096
"""Transfers at once. Each takes a descriptor, a few KiB and, while its file comes from a slow
medium, 256 KiB."""

_DATAGRAMS_PER_TURN = 64
_FAILURES = 3
"""Errors of the listening sockets in a row after which the door counts as down."""
_WATCH_INTERVAL = 5.0
"""Seconds between two looks at what each client is doing."""
_LOOKED_AT = 64
"""Transfers that one request may look at to find a place for itself."""


@dataclass(frozen=True, slots=True)
class TftpRequestInfo:
    """Who asks for what. ``name`` is as the client sent it, untrusted; addresses are literals."""

    name: str
    client: str
    client_port: int
    local: str


Opener = Callable[[TftpRequestInfo], Awaitable[Source]]
"""Gives what a request names. May raise `AssetNotFound` or `AssetForbidden`."""


@dataclass(slots=True, eq=False)
class _Talk:
    """What a client's port is being told: first its file is opened, then there is a delivery."""

    request: Request
    delivery: Delivery | None = None
    is_replaced: bool = False

    def is_repeated_by(self, request: Request) -> bool:
        if request != self.request:
            return False
        return self.delivery is None or self.delivery.take_repeat()

    def replace(self) -> None:
        self.is_replaced = True
        if self.delivery is not None:
            self.delivery.stop(End.REPLACED)


class _Refusal(Exception):
    """``message`` is for the client, ``reason`` for the log."""

    def __init__(self, code: ErrorCode, message: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.message = message
        self.reason = reason


class TftpServer:
    """Answers read requests on listening UDP sockets.

    Args:
        sockets: from `open_socket` or the service manager; they stay the caller's.
        open_source: turns a name into what is sent.
        ledger: gets an entry for each transfer.
        machine: what a client's address is known as.
        patience: seconds that a silent client is waited for, see `ReadSession`.
        max_sessions: transfers at once; more are told that the server is busy.
        has_room: whether the process has a descriptor for one more.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        *,
        open_source: Opener,
        ledger: Ledger,
        machine: Callable[[str], str | None],
        patience: float = PATIENCE,
        max_sessions: int = MAX_SESSIONS,
        has_room: Callable[[], bool] = lambda: True,
    ) -> None:
        self._sockets = tuple(sockets)
        self._open_source = open_source
        self._ledger = ledger
        self._machine = machine
        self._patience = patience
        self._max_sessions = max_sessions
        self._has_room = has_room
        self._is_listening = False
        self._failures = 0
        self._talks: dict[SocketAddress, _Talk] = {}
        self._unproven: dict[_Talk, None] = {}  # the oldest first; some of them proven meanwhile
        self._opening = 0
        self._netascii = NetasciiTexts()
        self._tasks: TaskGroup
        self._is_draining = False
        self._drained = anyio.Event()
        # One each, so that a flood of one kind does not hide the others.
        self._refusals = QuietLog(logger)
        self._malformed = QuietLog(logger)
        self._defects = QuietLog(logger)

    @property
    def sessions(self) -> int:
        """Transfers in flight, those included whose file is being opened."""
        return len(self._talks)

    @property
    def problem(self) -> str | None:
        """What keeps requests from being heard, in a sentence, or ``None``."""
        if not self._is_listening:
            return "TFTP: the door is closed"
        if any(sock.fileno() == -1 for sock in self._sockets):
            return "TFTP: a listening socket was closed"
        if self._failures >= _FAILURES:
            return "TFTP: cannot receive, see the log"
        return None

    def drain(self) -> None:
        """Take no more requests; `serve` returns when the last transfer has ended."""
        self._is_draining = True
        self._stop_listening()
        self._check_drained()

    async def serve(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Answer requests until drained or cancelled; cancelled, tell the clients so."""
        try:
            async with anyio.create_task_group() as self._tasks:
                if not self._is_draining:
                    loop = asyncio.get_running_loop()
                    for sock in self._sockets:
                        sockets.prepare(sock)
                        loop.add_reader(sock, self._receive, sock)
                    self._is_listening = True
                task_status.started()
                watching = anyio.CancelScope()
                self._tasks.start_soon(self._watch, watching)
                await self._drained.wait()
                watching.cancel()
        finally:
            self._stop_listening()
            for talk in list(self._talks.values()):
                if talk.delivery is not None:
                    talk.delivery.stop(End.SERVER_STOPPED, message="the server was stopped")

    async def _watch(self, scope: anyio.CancelScope) -> None:
        loop = asyncio.get_running_loop()
        with scope:
            while True:
                await anyio.sleep(_WATCH_INTERVAL)
                for talk in list(self._talks.values()):
                    if talk.delivery is not None:
                        talk.delivery.look(loop.time())

    def _stop_listening(self) -> None:
        self._is_listening = False
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            if sock.fileno() != -1:  # their owner may have closed them once we are draining
                loop.remove_reader(sock)

    def _check_drained(self) -> None:
        if self._is_draining and not self._talks:
            self._drained.set()

    def _receive(self, sock: socket.socket) -> None:
        for _ in range(_DATAGRAMS_PER_TURN):
            try:
                datagram, peer = sockets.receive(sock, MAX_REQUEST + 1)
            except BlockingIOError:
                return
            except OSError as error:
                self._failures += 1
                self._defects.log(logging.WARNING, "TFTP: cannot receive: %s", error)
                return
            self._failures = 0
            try:
                self._take(sock, datagram, peer)
            except Exception as error:
                self._defects.log(logging.ERROR, "TFTP: a defect hit a request", error=error)

    def _take(self, sock: socket.socket, datagram: bytes, peer: Peer) -> None:
        if peer.client[1] == 0:
            return  # nobody can be answered there
        try:
            packet = parse(datagram)
        except MalformedPacket as error:
            self._malformed.log(
                logging.INFO, "TFTP %s malformed packet: %s", printable(peer.client_host), error
            )
            if error.opcode is not None and error.opcode not in _ANSWERS:
                message = encode_error(ErrorCode.ILLEGAL_OPERATION, "malformed packet")
                sockets.reply(sock, message, peer)
            return
        if not isinstance(packet, Request):
            return
        try:
            self._accept(sock, packet, peer)
        except _Refusal as refusal:
            self._refuse(sock, packet, peer, refusal)

    def _accept(self, sock: socket.socket, request: Request, peer: Peer) -> None:
        if request.is_write:
            raise _Refusal(ErrorCode.ACCESS_VIOLATION, "this server is read-only", "an upload")
        if request.mode not in ("octet", "netascii"):
            reason = f"mode {request.mode}"
            raise _Refusal(ErrorCode.ILLEGAL_OPERATION, "use mode octet", reason)
        old = self._talks.get(peer.client)
        if old is not None:
            if old.is_repeated_by(request):
                return
            old.replace()
            self._talks.pop(peer.client, None)
        # Requests that were replaced while their file was being opened still cost something.
        is_full = max(len(self._talks), self._opening) >= self._max_sessions
        if (is_full or not self._has_room()) and not self._make_room():
            raise _Refusal(ErrorCode.NOT_DEFINED, "server busy, try again", "too many transfers")
        talk = self._talks[peer.client] = _Talk(request)
        self._unproven[talk] = None
        self._opening += 1
        self._tasks.start_soon(self._answer, sock, talk, peer)

    async def _answer(self, sock: socket.socket, talk: _Talk, peer: Peer) -> None:
        try:
            await self._open_and_deliver(sock.family, talk, peer)
        except _Refusal as refusal:
            if not talk.is_replaced:
                self._refuse(sock, talk.request, peer, refusal)
        except Exception as error:
            self._defects.log(logging.ERROR, "TFTP: a defect hit a request", error=error)
            sockets.reply(sock, encode_error(ErrorCode.NOT_DEFINED, "internal error"), peer)
        finally:
            self._opening -= 1
            if talk.delivery is None:
                self._forget(peer.client, talk)

    async def _open_and_deliver(self, family: int, talk: _Talk, peer: Peer) -> None:
        machine = self._machine(peer.client_host)
        with contextlib.ExitStack() as stack:
            source = await self._open(talk.request, peer)
            stack.callback(source.close)
            if talk.is_replaced:
                return
            try:
                own = stack.enter_context(sockets.connect(family, peer))
            except OSError as error:
                reason = describe(error)
                raise _Refusal(ErrorCode.NOT_DEFINED, "server busy, try again", reason) from error
            tsize = source.size if talk.request.mode == "octet" else None
            terms = negotiate(talk.request.options, tsize=tsize)
            now = asyncio.get_running_loop().time()
            session = ReadSession(size=source.size, terms=terms, patience=self._patience, now=now)
            entry = self._ledger.open(
                protocol="TFTP",
                client=peer.client_host,
                machine=machine,
                name=source.name,
                total=source.size,
            )
            talk.delivery = Delivery(
                sock=own,
                source=source,
                blksize=terms.blksize,
                session=session,
                entry=entry,
                spawn=lambda task: self._tasks.start_soon(task),
                on_end=functools.partial(self._forget, peer.client, talk),
                quiet=self._defects,
            )
            stack.pop_all()  # they are the delivery's now
        talk.delivery.start()

    async def _open(self, request: Request, peer: Peer) -> Source:
        info = TftpRequestInfo(request.name, peer.client_host, peer.client[1], peer.local)
        try:
            source = await self._open_source(info)
            if request.mode == "netascii":
                return await self._netascii.convert(source)
        except AssetNotFound as error:
            raise _Refusal(ErrorCode.FILE_NOT_FOUND, "file not found", error.reason) from error
        except AssetUnavailable as error:
            message = "server busy, try again"
            raise _Refusal(ErrorCode.NOT_DEFINED, message, error.reason) from error
        except AssetForbidden as error:
            message = "file may not be read"
            raise _Refusal(ErrorCode.ACCESS_VIOLATION, message, error.reason) from error
        except NetasciiRefused as error:
            raise _Refusal(ErrorCode.NOT_DEFINED, str(error), str(error)) from error
        except OSError as error:
            reason = describe(error)
            raise _Refusal(ErrorCode.NOT_DEFINED, "file could not be read", reason) from error
        return source

    def _make_room(self) -> bool:
        """End the oldest transfer whose client has acknowledged nothing; it may never have been.

        So nobody can lock real clients out with requests from forged addresses.
        """
        for talk in list(itertools.islice(self._unproven, _LOOKED_AT)):
            if talk.delivery is None:
                continue
            del self._unproven[talk]
            if not talk.delivery.is_proven:
                talk.delivery.stop(End.MADE_ROOM)
                return True
        return False

    def _forget(self, client: SocketAddress, talk: _Talk) -> None:
        if self._talks.get(client) is talk:
            del self._talks[client]
        self._unproven.pop(talk, None)
        self._check_drained()

    def _refuse(self, sock: socket.socket, request: Request, peer: Peer, refusal: _Refusal) -> None:
        who, name = printable(peer.client_host), as_word(request.name)
        reason = printable(refusal.reason)
        self._refusals.log(logging.INFO, "TFTP %s %s refused: %s", who, name, reason)
        sockets.reply(sock, encode_error(refusal.code, refusal.message), peer)


_ANSWERS = frozenset({Opcode.DATA, Opcode.ACK, Opcode.ERROR, Opcode.OACK})
