"""From a request that has been admitted to a delivery on its way, or to a refusal."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from bootserve.catalog.assets import AssetForbidden, AssetNotFound, AssetUnavailable, Source
from bootserve.catalog.names import architecture_of
from bootserve.tftp import sockets
from bootserve.tftp.blocks import Layout, Pieces, per_piece
from bootserve.tftp.delivery import Delivery, Spawn
from bootserve.tftp.netascii import NetasciiRefused, NetasciiTexts
from bootserve.tftp.options import MAX_BLKSIZE, MAX_WINDOWSIZE, OVERHEAD, Terms, negotiate
from bootserve.tftp.packet import ErrorCode, Request
from bootserve.tftp.quirks import Quirk, Quirks
from bootserve.tftp.session import PATIENCE, ReadSession
from bootserve.tftp.sockets import Peer
from bootserve.tftp.talks import MAX_SESSIONS, MAX_SESSIONS_PER_CLIENT, Talk
from bootserve.tftp.wire import ListeningPort, OwnPort, SharedPort, Wire
from bootserve.watch.ledger import End, Ledger
from bootserve.watch.quiet import QuietLog, describe

_BUSY = "server busy, try again"


@dataclass(frozen=True, slots=True)
class TftpRequestInfo:
    """Who asks for what. ``name`` is as the client sent it, untrusted; addresses are literals."""

    name: str
    client: str
    client_port: int
    local: str


Opener = Callable[[TftpRequestInfo], Awaitable[Source]]
"""Gives what a request names. May raise `AssetNotFound` or `AssetForbidden`."""


@dataclass(frozen=True, slots=True)
class Manners:
    """How transfers are conducted.

    ``patience`` in seconds, see `ReadSession`; ``max_windowsize`` in blocks; ``rollover`` is the
    block number, 0 or 1, after 65535; ``fragment`` permits blocks that exceed the path's MTU.
    """

    patience: float = PATIENCE
    max_sessions: int = MAX_SESSIONS
    max_sessions_per_client: int = MAX_SESSIONS_PER_CLIENT
    max_windowsize: int = MAX_WINDOWSIZE
    single_port: bool = False
    fragment: bool = False
    rollover: int = 0


class Refusal(Exception):
    """``message`` is for the client, ``reason`` for the log.

    ``is_for_want`` of a place, a descriptor or a disk that answers: the request was a good one.
    """

    def __init__(
        self, code: ErrorCode, message: str, reason: str, *, is_for_want: bool = False
    ) -> None:
        super().__init__(reason)
        self.code = code
        self.message = message
        self.reason = reason
        self.is_for_want = is_for_want


class Answers:
    """Opens what is asked for, and agrees with the client on how it is sent.

    Args:
        open_source: turns a name into what is sent.
        ledger: gets an entry for each transfer.
        machine: what a client's address is known as.
        manners: how transfers are conducted.
        quirks: gets what clients show of them.
        quiet: takes defects of deliveries.
    """

    def __init__(
        self,
        *,
        open_source: Opener,
        ledger: Ledger,
        machine: Callable[[str], str | None],
        manners: Manners,
        quirks: Quirks,
        quiet: QuietLog,
    ) -> None:
        self._open_source = open_source
        self._ledger = ledger
        self._machine = machine
        self._manners = manners
        self._quirks = quirks
        self._quiet = quiet
        self._pieces = Pieces()
        self._netascii = NetasciiTexts()

    async def begin(
        self,
        port: ListeningPort,
        talk: Talk,
        *,
        talks: int,
        spawn: Spawn,
        on_end: Callable[[Talk, End], None],
    ) -> None:
        """Give ``talk`` a delivery and start it, unless it has been replaced meanwhile.

        Args:
            talks: how many there are.
            spawn: starts a task in the server's task group.
            on_end: told when it has ended, and how.

        Raises:
            Refusal: it cannot be.
        """
        asked = time.monotonic()
        request, peer = talk.request, talk.peer
        machine = self._machine(peer.client_host)
        with contextlib.ExitStack() as stack:
            source = await self._open(request, peer)
            stack.callback(source.close)
            if talk.is_replaced:
                return
            try:
                wire, fitting = self._wire(port, peer)
            except OSError as error:
                raise Refusal(
                    ErrorCode.NOT_DEFINED, _BUSY, describe(error), is_for_want=True
                ) from error
            stack.callback(wire.close)
            terms = self._terms(request, source, fitting)
            blocks = per_piece(terms.blksize, terms.windowsize, talks)
            now = asyncio.get_running_loop().time()
            talk.delivery = Delivery(
                wire=wire,
                source=source,
                layout=Layout(source.size, terms.blksize, blocks, terms.rollover),
                pieces=self._pieces,
                session=ReadSession(
                    size=source.size, terms=terms, patience=self._manners.patience, now=now
                ),
                entry=self._ledger.open(
                    protocol="TFTP",
                    client=peer.client_host,
                    machine=machine,
                    name=source.name,
                    total=source.size,
                    arch=architecture_of(source.name),
                    asked=asked,
                ),
                spawn=spawn,
                on_end=functools.partial(on_end, talk),
                quiet=self._quiet,
            )
            stack.pop_all()  # they are the delivery's now
        talk.delivery.start()

    def _wire(self, port: ListeningPort, peer: Peer) -> tuple[Wire, int]:
        """Return the way to a client, and the largest block that fits into a packet on it."""
        own = sockets.connect(port.sock.family, peer)
        with contextlib.ExitStack() as stack:
            stack.callback(own.close)
            fitting = sockets.path_mtu(own) - OVERHEAD[peer.version]
            if self._manners.single_port:
                return SharedPort(port, peer), fitting
            stack.pop_all()
        return OwnPort(own), fitting

    def _terms(self, request: Request, source: Source, fitting: int) -> Terms:
        terms = negotiate(
            request.options,
            tsize=source.size if request.mode == "octet" else None,
            max_blksize=MAX_BLKSIZE if self._manners.fragment else fitting,
            max_windowsize=self._manners.max_windowsize,
            rollover=self._manners.rollover,
        )
        if terms.is_lowered_to_fit:
            self._quirks.met(Quirk.LARGE_BLOCKS)
        return terms

    async def _open(self, request: Request, peer: Peer) -> Source:
        info = TftpRequestInfo(request.name, peer.client_host, peer.client[1], peer.local)
        try:
            source = await self._open_source(info)
            if request.mode == "netascii":
                return await self._netascii.convert(source)
        except AssetNotFound as error:
            raise Refusal(ErrorCode.FILE_NOT_FOUND, "file not found", error.reason) from error
        except AssetUnavailable as error:
            raise Refusal(ErrorCode.NOT_DEFINED, _BUSY, error.reason, is_for_want=True) from error
        except AssetForbidden as error:
            message = "file may not be read"
            raise Refusal(ErrorCode.ACCESS_VIOLATION, message, error.reason) from error
        except NetasciiRefused as error:
            raise Refusal(ErrorCode.NOT_DEFINED, str(error), str(error)) from error
        except OSError as error:
            reason = describe(error)
            raise Refusal(ErrorCode.NOT_DEFINED, "file could not be read", reason) from error
        return source
