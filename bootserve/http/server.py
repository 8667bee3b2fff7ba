"""uvicorn's server with an accept loop, a sweep and a drain of our own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import socket
from collections.abc import Callable, Iterator

import anyio
import uvicorn
from starlette.types import ASGIApp

from bootserve.http.accept import Acceptor
from bootserve.http.door import DoorState, Manners
from bootserve.http.listener import prepare
from bootserve.http.protocol import BootProtocol
from bootserve.http.sweep import Sweep
from bootserve.settings import Settings
from bootserve.tcp import KERNEL_RTO_MAX_MS, probe_retries
from bootserve.watch.budget import Budget

logger = logging.getLogger("bootserve.http")

_POOL_MARGIN = 2.0
"""Seconds for which a kept connection is honoured beyond what is promised: a request that was sent
in the promised time may have been on its way, or in our queue, for a while."""


def http_config(settings: Settings, app: ASGIApp) -> uvicorn.Config:
    """How uvicorn runs the HTTP door."""
    config = uvicorn.Config(
        app,
        http=BootProtocol,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
    )
    # uvicorn says that it must be whole seconds, and hands it to call_later() as it is.
    config.timeout_keep_alive = settings.http.keep_alive  # type: ignore[assignment]
    return config


class HttpServer(uvicorn.Server):
    """uvicorn's server without its signal handlers: signals are the service's.

    Args:
        on_started: called once, when connections are accepted.
        budget: the process's descriptors, if others share them.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        on_started: Callable[[], None],
        *,
        budget: Budget | None = None,
        manners: Manners | None = None,
    ) -> None:
        super().__init__(config)
        self._on_started = on_started
        promised = int(config.timeout_keep_alive)
        config.timeout_keep_alive = config.timeout_keep_alive + _POOL_MARGIN  # type: ignore[assignment]
        self.state = DoorState(budget, manners)
        self.state.keep_for(promised)
        self.server_state = self.state
        self.servers = []
        self._acceptors: list[Acceptor] = []
        self._sweep = Sweep(self.state)

    @property
    def problem(self) -> str | None:
        """What keeps connections from being accepted, in a sentence, or ``None``."""
        return next((found for acceptor in self._acceptors if (found := acceptor.problem)), None)

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._sweep.run)
            await super().serve(sockets)
            tasks.cancel_scope.cancel()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self.lifespan.startup()
        for sock in sockets or []:
            prepare(sock)
            self.state.prepare(sock)
        self._check_probes()
        for sock in sockets or []:
            acceptor = Acceptor(sock, self._make_protocol, self.state, self.config.ssl)
            acceptor.start()
            self._acceptors.append(acceptor)
        self.started = True
        self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # uvicorn tells the connections that it knows of; those still to be made must know it too.
        self.state.is_draining = True
        for acceptor in self._acceptors:
            acceptor.stop()
        for acceptor in self._acceptors:
            await acceptor.settled()
        await super().shutdown(sockets)

    def _check_probes(self) -> None:
        limits = self.state.limits
        needed = limits.enough_probes + math.ceil(limits.silence * 1000 / KERNEL_RTO_MAX_MS)
        if probe_retries() < needed:
            logger.warning(
                "http.silence_limit: before %g s are over this kernel gives clients up that do not"
                " read; `sysctl -w net.ipv4.tcp_retries2=%d` as root lets it wait as long",
                limits.silence,
                needed,
            )

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

    def _make_protocol(self) -> BootProtocol:
        return BootProtocol(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )


def _is_no_cancellation(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))
