"""The listening side: requests in, deliveries started, or refused with TFTP's own errors.

Rules of this module:

* One client address and port has at most one transfer. The same request again belongs to the
  transfer it started, until some time after the first ACK (`session.COPIES`): what was duplicated
  or late must not end it (RFC 1350, section 4). Any other request replaces it.
* Refusals leave from the listening port: they need no descriptor. Transfers have a port of their
  own (the TID of RFC 1350), on the address that was asked; or all have the listening port
  (``single_port``), and are told apart by the client's address and port.
* ERROR, ACK, DATA and OACK that come to the listening port and belong to no transfer get no
  answer, although RFC 1350 has ERROR 5 for it: their sender's address may be forged, and an
  answer to an answer may go round for ever. A packet without a meaning gets ERROR 4; one that
  is not even a broken request does so only while few of them come.
* Nothing that comes from the network ends more than the transfer it belongs to.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence

import anyio
from anyio.abc import TaskGroup, TaskStatus

from bootserve.tftp import sockets
from bootserve.tftp.answer import Answers, Manners, Opener, Refusal, TftpRequestInfo
from bootserve.tftp.delivery import Delivery
from bootserve.tftp.neighbours import Neighbours
from bootserve.tftp.packet import (
    MAX_REQUEST,
    ErrorCode,
    MalformedPacket,
    Opcode,
    Request,
    encode_error,
    parse,
)
from bootserve.tftp.quirks import Quirk, Quirks
from bootserve.tftp.refusals import Refusals
from bootserve.tftp.relay import Relay, Stray
from bootserve.tftp.sockets import Peer, open_socket
from bootserve.tftp.talks import Talk, Talks, TooManyTalks
from bootserve.tftp.wire import ListeningPort
from bootserve.watch.ledger import End, Ledger
from bootserve.watch.quiet import QuietLog

__all__ = ["Manners", "Opener", "TftpRequestInfo", "TftpServer", "open_socket"]

logger = logging.getLogger("bootserve.tftp")

_DATAGRAMS_PER_TURN = 8
"""Of each listening socket. A request costs many times what an ACK does, and transfers that are
under way get a block or a window per turn: they go before whoever comes new."""
_FAILURES = 3
"""Errors of the listening sockets in a row after which the door counts as down."""
_WATCH_INTERVAL = 5.0
"""Seconds between two looks at what each client is doing."""


class TftpServer:
    """Answers read requests on listening UDP sockets.

    Args:
        sockets: from `open_socket` or the service manager; they stay the caller's.
        open_source: turns a name into what is sent.
        ledger: gets an entry for each transfer.
        machine: what a client's address is known as.
        manners: how transfers are conducted.
        has_room: whether the process has a descriptor for one more.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        *,
        open_source: Opener,
        ledger: Ledger,
        machine: Callable[[str], str | None],
        manners: Manners = Manners(),  # noqa: B008 (immutable)
        has_room: Callable[[], bool] = lambda: True,
    ) -> None:
        self._sockets = tuple(sockets)
        self._manners = manners
        self._has_room = has_room
        self._is_listening = False
        self._failures = 0
        self._talks = Talks(manners.max_sessions, manners.max_sessions_per_client)
        self._ports: list[ListeningPort] = []
        self._tasks: TaskGroup
        self._is_draining = False
        self._drained = anyio.Event()
        self._neighbours = Neighbours(self._take_stray)
        self.quirks = Quirks()
        """What clients did beside the RFCs, and how often."""
        self._refusals = Refusals()
        self._defects = QuietLog(logger)
        self._answers = Answers(
            open_source=open_source,
            ledger=ledger,
            machine=machine,
            manners=manners,
            quirks=self.quirks,
            quiet=self._defects,
        )

    @property
    def sessions(self) -> int:
        """Transfers in flight, those included whose file is being opened."""
        return len(self._talks)

    @property
    def descriptors(self) -> int:
        """What these take of them, beside their files."""
        return 0 if self._manners.single_port else len(self._talks)

    @property
    def refused(self) -> int:
        """Requests that were refused for want of something of ours, see `Refusal`."""
        return self._refusals.for_want

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

    @property
    def needs_sockets(self) -> bool:
        """Whether transfers that are under way use the listening sockets."""
        return self._manners.single_port and len(self._talks) > 0

    def drain(self) -> None:
        """Take no more requests; `serve` returns when the last transfer has ended."""
        self._is_draining = True
        if not self.needs_sockets:
            self._stop_listening()
        self._check_drained()

    def relay_to_successor(self) -> socket.socket | None:
        """Return the end of a relay for a process that will have the listening sockets, too.

        It is the caller's. ``None``: all transfers have ports of their own, or no descriptor is
        left, and then those of this process end with the upgrade.
        """
        return self._neighbours.invite_successor() if self._manners.single_port else None

    def relay_to_predecessor(self, sock: socket.socket) -> None:
        """Use the end of a relay that a predecessor has made; it is the server's from now on."""
        self._neighbours.join_predecessor(sock)

    async def serve(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Answer requests until drained or cancelled; cancelled, tell the clients so."""
        try:
            async with anyio.create_task_group() as self._tasks:
                if not self._is_draining:
                    for sock in self._sockets:
                        sockets.prepare(sock)
                        port = ListeningPort(sock)
                        self._ports.append(port)
                        asyncio.get_running_loop().add_reader(sock, self._receive, port)
                    self._is_listening = True
                task_status.started()
                watching = anyio.CancelScope()
                self._tasks.start_soon(self._watch, watching)
                await self._drained.wait()
                watching.cancel()
        finally:
            self._stop_listening()
            for talk in self._talks:
                if talk.delivery is not None:
                    talk.delivery.stop(End.SERVER_STOPPED, message="the server was stopped")
            self._neighbours.close()

    async def _watch(self, scope: anyio.CancelScope) -> None:
        loop = asyncio.get_running_loop()
        with scope:
            while True:
                await anyio.sleep(_WATCH_INTERVAL)
                for talk in self._talks:
                    if talk.delivery is not None:
                        self._look(talk.delivery, loop.time())

    def _look(self, delivery: Delivery, now: float) -> None:
        delivery.look(now)
        if self._is_draining and not delivery.is_proven and delivery.is_silent(now):
            # A forged request would keep a process that leaves for as long as a machine may.
            delivery.stop(End.CLIENT_SILENT, "it never answered, and the server is leaving")

    def _stop_listening(self) -> None:
        self._is_listening = False
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            if sock.fileno() != -1:  # their owner may have closed them once we are draining
                loop.remove_reader(sock)

    def _check_drained(self) -> None:
        if self._is_draining and not len(self._talks):
            self._drained.set()

    def _receive(self, port: ListeningPort) -> None:
        for _ in range(_DATAGRAMS_PER_TURN):
            try:
                datagram, peer = sockets.receive(port.sock, MAX_REQUEST + 1)
            except BlockingIOError:
                self._failures = 0
                return
            except OSError as error:
                self._failures += 1
                self._defects.log(logging.WARNING, "TFTP: cannot receive: %s", error)
                # It may be over, and nobody come for long to show it.
                continue
            self._failures = 0
            try:
                self._take(port, datagram, peer)
            except Exception as error:
                self._defects.log(logging.ERROR, "TFTP: a defect hit a request", error=error)
            if port.sock.fileno() == -1:
                return

    def _take(
        self, port: ListeningPort, datagram: bytes, peer: Peer, via: Relay | None = None
    ) -> None:
        """Take a datagram, ``via`` another process if that has received it."""
        if peer.client[1] == 0:
            return  # nobody can be answered there
        if peer.is_broadcast:
            # RFC 1123, section 4.2.3.5; and our "not found" would forestall who has the file.
            self._refusals.ignore(peer, "asked a broadcast address")
            return
        if datagram[:2] in _OF_A_TRANSFER and self._is_shared:
            talk = self._talks.at(peer.client) if self._manners.single_port else None
            if talk is None:
                self._neighbours.pass_on(port, datagram, peer, not_to=via)
            elif talk.delivery is not None:
                talk.delivery.take(datagram, len(datagram))
            return
        if via is not None and via is self._neighbours.successor:
            # That one answers it, and this client's transfer here is over.
            self._forget(peer)
            self._neighbours.pass_on(port, datagram, peer, not_to=via)
        elif self._is_draining:
            predecessor = self._neighbours.predecessor
            self._neighbours.pass_on(port, datagram, peer, not_to=predecessor)
        else:
            self._take_request(port, datagram, peer, via)

    @property
    def _is_shared(self) -> bool:
        """Whether packets of transfers come to the listening port."""
        return self._manners.single_port or self._neighbours.predecessor is not None

    def _take_request(
        self, port: ListeningPort, datagram: bytes, peer: Peer, via: Relay | None
    ) -> None:
        try:
            packet = parse(datagram)
        except MalformedPacket as error:
            self._refusals.explain(port, peer, error)
            return
        if not isinstance(packet, Request):
            return
        if via is None:
            # Whatever this client had there is over.
            successor = self._neighbours.successor
            self._neighbours.pass_on(port, datagram, peer, not_to=successor)
        try:
            talk = self._admit(packet, peer)
        except Refusal as refusal:
            self._refusals.refuse(port, packet, peer, refusal)
        else:
            if talk is not None:
                self._tasks.start_soon(self._answer, port, talk)

    def _take_stray(self, stray: Stray, via: Relay | None) -> None:
        port = self._port_at(stray.port)
        if port is not None:
            self._take(port, stray.datagram, stray.peer, via)

    def _forget(self, peer: Peer) -> None:
        talk = self._talks.at(peer.client)
        if talk is not None:
            talk.replace()
            self._talks.end(talk)
            self._check_drained()

    def _port_at(self, address: sockets.SocketAddress) -> ListeningPort | None:
        for port in self._ports:
            if port.sock.fileno() != -1 and port.sock.getsockname() == address:
                return port
        return None

    def _admit(self, request: Request, peer: Peer) -> Talk | None:
        """Begin a talk; ``None`` if the request belongs to one that there is."""
        if request.is_write:
            raise Refusal(ErrorCode.ACCESS_VIOLATION, "this server is read-only", "an upload")
        if request.mode not in ("octet", "netascii"):
            reason = f"mode {request.mode}"
            raise Refusal(ErrorCode.ILLEGAL_OPERATION, "use mode octet", reason)
        old = self._talks.at(peer.client)
        if old is not None:
            if old.is_repeated_by(request):
                self.quirks.met(Quirk.REQUEST_REPEATED)
                return None
            self.quirks.met(Quirk.RESTARTED)
            old.replace()
            self._talks.end(old)
        try:
            talk = self._talks.admit(request, peer, has_room=self._has_room())
        except TooManyTalks as error:
            message = f"server busy: {error}, try again"
            raise Refusal(ErrorCode.NOT_DEFINED, message, str(error), is_for_want=True) from error
        self.quirks.see(request)
        return talk

    async def _answer(self, port: ListeningPort, talk: Talk) -> None:
        try:
            await self._answers.begin(
                port,
                talk,
                talks=len(self._talks),
                spawn=lambda task: self._tasks.start_soon(task),
                on_end=self._ended,
            )
        except Refusal as refusal:
            if not talk.is_replaced:
                self._refusals.refuse(port, talk.request, talk.peer, refusal)
        except Exception as error:
            self._defects.log(logging.ERROR, "TFTP: a defect hit a request", error=error)
            message = encode_error(ErrorCode.NOT_DEFINED, "internal error")
            sockets.reply(port.sock, message, talk.peer)
        finally:
            self._talks.opened(talk)
            self._check_drained()

    def _ended(self, talk: Talk, end: End) -> None:
        self._talks.end(talk)
        if end is End.OPTIONS_REFUSED:
            self.quirks.met(Quirk.OACK_REFUSED)
        elif end is End.UNCONFIRMED:
            self.quirks.met(Quirk.LAST_ACK_LOST)
        if talk.delivery is not None and talk.delivery.loses_bursts:
            self.quirks.met(Quirk.BURST_LOST)
        self._check_drained()


_OF_A_TRANSFER = frozenset({Opcode.ACK.to_bytes(2), Opcode.ERROR.to_bytes(2)})
