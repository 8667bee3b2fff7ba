"""The life of the process: open the sockets, start the doors, say ready, drain, leave."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import resource
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.abc
import uvicorn
from starlette.types import ASGIApp

from bootserve.catalog.assets import Source
from bootserve.catalog.catalog import Catalog
from bootserve.endpoint import Endpoint
from bootserve.http.app import create_app
from bootserve.http.listener import open_listener
from bootserve.http.protocol import BootProtocol
from bootserve.settings import Settings
from bootserve.sockets import ListenError, OpenSocket, open_endpoint
from bootserve.tftp.server import TftpRequestInfo, TftpServer, open_socket
from bootserve.watch.ledger import Ledger
from bootserve.watch.quiet import QuietLog

logger = logging.getLogger("bootserve.service")


@dataclass
class Doors:
    """The sockets of a process that is about to serve. Whoever opened them closes them."""

    http: list[socket.socket] = field(default_factory=list)
    tftp: list[socket.socket] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """A sentence for each optional address that was not to be had."""

    def close(self) -> None:
        for sock in (*self.http, *self.tftp):
            sock.close()

    def http_endpoints(self) -> list[Endpoint]:
        return [_endpoint(sock) for sock in self.http]

    def tftp_endpoints(self) -> list[Endpoint]:
        return [_endpoint(sock) for sock in self.tftp]

    @property
    def http_port(self) -> int:
        return int(self.http[0].getsockname()[1])

    @property
    def tftp_port(self) -> int | None:
        """The port of the TFTP door, 69 if that is one of them; ``None`` if it is closed."""
        ports = [int(sock.getsockname()[1]) for sock in self.tftp]
        return None if not ports else 69 if 69 in ports else ports[0]


def _endpoint(sock: socket.socket) -> Endpoint:
    host, port = sock.getsockname()[:2]
    return Endpoint(host, port)


def open_doors(settings: Settings) -> Doors:
    """Bind every address of the settings.

    Raises:
        ListenError: one that is not optional is not to be had, or none is.
    """
    doors = Doors()
    try:
        for endpoint in dict.fromkeys(settings.http.listen):
            doors.http += _open(endpoint, open_listener, "HTTP", "--http", doors.notes)
        for endpoint in dict.fromkeys(settings.tftp.listen):
            doors.tftp += _open(endpoint, open_socket, "TFTP", "--tftp", doors.notes)
        if not doors.http:
            raise ListenError("; ".join(doors.notes))
    except ListenError:
        doors.close()
        raise
    return doors


def _open(
    endpoint: Endpoint, open_socket: OpenSocket, door: str, flag: str, notes: list[str]
) -> list[socket.socket]:
    try:
        return open_endpoint(endpoint, open_socket, door=door, flag=flag)
    except ListenError as error:
        if not endpoint.is_optional:
            raise
        notes.append(str(error))
        return []


_ACCEPTS_PER_TURN = 16
_loop_errors = QuietLog(logger, most=5)


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what went wrong in a callback; at the descriptor limit that is thousands a second."""
    error = context.get("exception")
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        _loop_errors.log(
            logging.WARNING,
            "out of descriptors (%s): new connections wait; raise LimitNOFILE or `ulimit -n`",
            error.strerror,
        )
    else:
        loop.default_exception_handler(context)


def _is_no_cancellation(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


class HttpServer(uvicorn.Server):
    """uvicorn's server without its signal handlers: signals are the service's."""

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for sock in sockets or []:
            # The kernel's queue is not what asyncio has just made of it.
            sock.listen(socket.SOMAXCONN)
        self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # uvicorn tells the connections that it knows of; those still to be made must know it too.
        self.server_state.is_draining = True  # type: ignore[attr-defined]
        await super().shutdown(sockets)

    def cut(self) -> None:
        """End every request now."""
        # uvicorn logs an application that was cancelled as one that crashed.
        logging.getLogger("uvicorn.error").addFilter(_is_no_cancellation)
        self.force_exit = True
        for task in self.server_state.tasks:
            task.cancel()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def http_config(settings: Settings, app: ASGIApp) -> uvicorn.Config:
    """How uvicorn runs the HTTP door."""
    return uvicorn.Config(
        app,
        http=BootProtocol,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=int(settings.http.keep_alive),
        # For asyncio also the number of accept() calls per turn, and of log lines at EMFILE.
        backlog=_ACCEPTS_PER_TURN,
    )


class Service:
    """One serving process. Owns the doors' sockets from the moment it is made.

    Args:
        on_ready: called once, when every door is open.
    """

    def __init__(
        self, settings: Settings, doors: Doors, *, on_ready: Callable[[], None] = lambda: None
    ) -> None:
        self._settings = settings
        self._doors = doors
        self._catalog = Catalog(settings)
        self._ledger = Ledger()
        self._was_cut = False
        self._http = HttpServer(
            http_config(settings, create_app(settings, catalog=self._catalog, ledger=self._ledger)),
            on_ready,
        )
        self._tftp = TftpServer(
            doors.tftp,
            open_source=self._open_for_tftp,
            ledger=self._ledger,
            machine=self._catalog.sightings.label,
            patience=settings.tftp.patience,
            max_sessions=_affordable_sessions(settings.tftp.max_sessions),
        )

    async def run(self) -> bool:
        """Serve until SIGTERM or SIGINT, then finish what is in flight; a second signal cuts it.

        Returns whether every transfer came to its own end.
        """
        asyncio.get_running_loop().set_exception_handler(_report)
        _calm_collector()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._watch_signals, tasks.cancel_scope)
                async with anyio.create_task_group() as doors:
                    await doors.start(self._tftp.serve)
                    doors.start_soon(self._http.serve, self._doors.http)
                tasks.cancel_scope.cancel()
        finally:
            self._doors.close()
        return not self._was_cut

    async def _watch_signals(self, scope: anyio.CancelScope) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for number in _numbered(signals):
                if number == 0:
                    logger.info(
                        "stopping: no new requests; transfers that go on to their end: %d"
                        " (a second signal cuts them off)",
                        len(self._ledger.live),
                    )
                    self._http.should_exit = True
                    self._tftp.drain()
                    # Transfers have sockets of their own; a successor may have this port now.
                    for sock in self._doors.tftp:
                        sock.close()
                else:
                    logger.warning("stopped; transfers cut off: %d", len(self._ledger.live))
                    self._was_cut = True
                    self._http.cut()
                    scope.cancel()

    async def _open_for_tftp(self, request: TftpRequestInfo) -> Source:
        return await self._catalog.open(request.name, self._url_at(request.local))

    def _url_at(self, local_host: str) -> str:
        """What a client that reached TFTP at ``local_host`` would call the HTTP door."""
        if self._settings.http.url:
            return self._settings.http.url
        host = local_host.partition("%")[0]
        return (
            f"http://[{host}]:{self._port_at(host)}"
            if ":" in host
            else (f"http://{host}:{self._port_at(host)}")
        )

    def _port_at(self, host: str) -> int:
        for endpoint in self._doors.http_endpoints():
            if endpoint.is_everywhere or endpoint.host == host:
                return endpoint.port
        return self._doors.http_port


_YOUNG_OBJECTS = 10_000


def _calm_collector() -> None:
    """Keep Python's garbage collector from being the longest wait of a new client.

    What lives since the start need not be looked at again. Beyond that, a transfer is some fifty
    objects that all go when it ends, without a collector: it finds little, so it may look seldom.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, 50, 10)


_DESCRIPTORS_PER_SESSION = 2


def _affordable_sessions(wanted: int) -> int:
    """Raise our limit of descriptors to what we may have, and leave TFTP not more than half of it.

    Anybody can start a TFTP transfer with one datagram; HTTP must live on.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    if soft == resource.RLIM_INFINITY:
        return wanted
    most = max(1, soft // 2 // _DESCRIPTORS_PER_SESSION)
    if most < wanted:
        logger.warning(
            "with %d descriptors TFTP serves %d transfers at once, not %d; raise LimitNOFILE",
            soft,
            most,
            wanted,
        )
    return min(wanted, most)


async def _numbered(signals: AsyncIterator[signal.Signals]) -> AsyncIterator[int]:
    count = 0
    async for _ in signals:
        yield count
        count += 1
