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
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.abc

from bootserve.catalog.assets import Source
from bootserve.catalog.catalog import Catalog
from bootserve.catalog.roots import root_problem
from bootserve.endpoint import Endpoint
from bootserve.http.app import create_app
from bootserve.http.door import Manners
from bootserve.http.listener import open_listener
from bootserve.http.server import HttpServer, http_config
from bootserve.http.zerocopy import own_files
from bootserve.settings import Settings
from bootserve.sockets import ListenError, OpenSocket, open_endpoint
from bootserve.tftp.server import TftpRequestInfo, TftpServer, open_socket
from bootserve.watch.budget import Budget
from bootserve.watch.health import Health
from bootserve.watch.ledger import Ledger, Transfer
from bootserve.watch.quiet import QuietLog
from bootserve.watch.restarts import Restarts

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


_loop_errors = QuietLog(logger, most=5)


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what went wrong in a callback; at the descriptor limit that is thousands a second."""
    error = context.get("exception")
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        _loop_errors.log(
            logging.WARNING,
            "out of descriptors (%s); raise LimitNOFILE or `ulimit -n`",
            error.strerror,
        )
    else:
        loop.default_exception_handler(context)


def watched_ledger(settings: Settings, catalog: Catalog) -> Ledger:
    """A ledger that reports restart loops and, as the settings have it, moves those in them."""

    def remedy(transfer: Transfer, name: str) -> str:
        if transfer.protocol != "HTTP":
            return ""  # lanes are for HTTP
        if not settings.lanes.auto_lane:
            return "; set `pace` and `window` for this machine, or lanes.auto_lane = true"
        is_news = catalog.lanes.slow_down(name)
        return f" ({'moved to' if is_news else 'already in'} the slow lane: {catalog.lanes.slow})"

    return Ledger(observer=Restarts(remedy))


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
        self._ledger = watched_ledger(settings, self._catalog)
        self._was_cut = False
        limit = _raised_descriptor_limit()
        self._budget = Budget(limit, _open_descriptors() + _OWN_DESCRIPTORS)
        self._catalog.assets.limit_openers(self._budget.spare // 2)
        self._health = Health(
            self._budget,
            self._ledger,
            quick={"tftp": self._tftp_problem},
            slow={
                f"asset root {root}": partial(_root_trouble, root) for root in settings.assets.roots
            },
            extra=self._figures,
        )
        app = create_app(
            settings,
            catalog=self._catalog,
            ledger=self._ledger,
            budget=self._budget,
            health=self._health,
        )
        self._http = HttpServer(
            http_config(settings, app),
            on_ready,
            budget=self._budget,
            manners=Manners(settings.http.head_timeout, settings.http.silence_limit),
        )
        self._tftp = TftpServer(
            doors.tftp,
            open_source=self._open_for_tftp,
            ledger=self._ledger,
            machine=self._catalog.sightings.label,
            patience=settings.tftp.patience,
            max_sessions=_affordable_sessions(settings.tftp.max_sessions, limit),
            has_room=lambda: self._budget.may_accept,
        )
        self._budget.count(lambda: self._tftp.sessions)
        self._budget.count(lambda: self._catalog.assets.open_files)
        self._budget.count(own_files)

    async def run(self) -> bool:
        """Serve until SIGTERM or SIGINT, then finish what is in flight; a second signal cuts it.

        Returns whether every transfer came to its own end.
        """
        asyncio.get_running_loop().set_exception_handler(_report)
        _calm_collector()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._watch_signals, tasks.cancel_scope)
                tasks.start_soon(self._health.run)
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
                    self._health.is_serving = False
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

    def _tftp_problem(self) -> str | None:
        if not self._doors.tftp or not self._health.is_serving:
            return None
        return self._tftp.problem

    def _figures(self) -> dict[str, Any]:
        state = self._http.state
        return {
            "connections": {
                "open": self._budget.connections,
                "idle": state.idle,
                "silent": state.silent,
            },
            "tftp": {"sessions": self._tftp.sessions},
        }

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


_OWN_DESCRIPTORS = 4
"""What the event loop and its helpers open when there is something to do."""


def _open_descriptors() -> int:
    """How many are open now; only for the start, as it takes one itself."""
    return len(list(Path("/proc/self/fd").iterdir())) - 1


def _raised_descriptor_limit() -> int | None:
    """Raise our limit of descriptors to what we may have, and return it; ``None``: no limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    return None if soft == resource.RLIM_INFINITY else soft


def _affordable_sessions(wanted: int, limit: int | None) -> int:
    """Leave TFTP not more than half of the descriptors.

    Anybody can start a TFTP transfer with one datagram; HTTP must live on.
    """
    if limit is None:
        return wanted
    most = max(1, limit // 2 // _DESCRIPTORS_PER_SESSION)
    if most < wanted:
        logger.warning(
            "with %d descriptors TFTP serves %d transfers at once, not %d; raise LimitNOFILE",
            limit,
            most,
            wanted,
        )
    return min(wanted, most)


def _root_trouble(root: Path) -> str | None:
    problem = root_problem(root)
    return None if problem is None else f"asset root {root} {problem}"


async def _numbered(signals: AsyncIterator[signal.Signals]) -> AsyncIterator[int]:
    count = 0
    async for _ in signals:
        yield count
        count += 1
