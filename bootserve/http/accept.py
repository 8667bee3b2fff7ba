"""Accepting connections: as many as there are descriptors for, and none in vain.

asyncio's own accept loop goes on at the limit of descriptors, with a log line for each attempt, and
what it has accepted it must serve. Here a listening socket is left alone while no descriptor is to
be had: clients wait in the kernel's queue (listen(2)), which costs us nothing, and are let in one
after the other as others go.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Final

from bootserve.http.door import DoorState
from bootserve.watch.quiet import QuietLog, describe

logger = logging.getLogger("bootserve.http")

PER_TURN: Final = 16
"""Connections that one listening socket accepts before others get their turn."""

_RETRY: Final = 1.0
"""Seconds after which a socket that was left alone is looked at again, if nothing was given back
meanwhile: descriptors run short outside this process, too, and newcomers become idle."""

_FAILURES: Final = 5
"""Attempts in a row that fail for no known reason before the socket counts as broken."""

_SHORTAGES: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

_GONE_ALREADY: Final = (errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.EINTR)
"""Of accept(2): the connection has ended, or a filter forbids it; the next one is another."""

_shortages = QuietLog(logger, most=1)
_handshakes = QuietLog(logger)


class Acceptor:
    """Accepts on one listening socket from `start` to `stop`. The socket stays its owner's.

    Args:
        listener: non-blocking.
        make_protocol: as asyncio's.
        tls: a server's context, if the door speaks TLS.
    """

    def __init__(
        self,
        listener: socket.socket,
        make_protocol: Callable[[], asyncio.Protocol],
        state: DoorState,
        tls: ssl.SSLContext | None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._make_protocol = make_protocol
        self._state = state
        self._tls = tls
        self._arriving: set[asyncio.Task[None]] = set()
        self._is_listening = False
        self._is_stopped = False
        self._failures = 0
        self._retry: asyncio.TimerHandle | None = None
        state.budget.count(lambda: len(self._arriving))

    @property
    def problem(self) -> str | None:
        """What keeps connections from being accepted, or ``None``; too few descriptors do not."""
        if self._is_stopped:
            return None
        if self._listener.fileno() == -1:
            return "HTTP: a listening socket was closed"
        return "HTTP: cannot accept, see the log" if self._failures >= _FAILURES else None

    def start(self) -> None:
        self._listen()

    def stop(self) -> None:
        """Accept no more, after those who are in the queue now.

        They would be reset with the socket, if nobody else accepts on it.
        """
        if not self._is_stopped:
            for _ in range(socket.SOMAXCONN):
                if not self._accept_one():
                    break
        self._is_stopped = True
        self._leave_alone(None)

    async def settled(self) -> None:
        """Wait until those who were accepted are known as connections."""
        while self._arriving:
            await asyncio.wait(list(self._arriving))

    def _listen(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if not self._is_stopped and not self._is_listening:
            self._is_listening = True
            self._loop.add_reader(self._listener, self._accept)

    def _leave_alone(self, seconds: float | None) -> None:
        if self._is_listening:
            self._is_listening = False
            self._loop.remove_reader(self._listener)
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if seconds is not None:
            self._retry = self._loop.call_later(seconds, self._try_again)

    def _try_again(self) -> None:
        self._listen()
        if self._failures:
            # Nobody may come for long, and what was wrong may be over.
            self._accept()

    def _accept(self) -> None:
        for _ in range(PER_TURN):
            if not self._accept_one():
                return

    def _accept_one(self) -> bool:
        """Accept one connection; return whether there may be another."""
        budget = self._state.budget
        self._state.relieve(self._loop.time())
        if not budget.may_accept:
            self._wait_for_descriptors("all but a reserve are in use")
            return False
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:
            self._failures = 0
            return False
        except OSError as error:
            if error.errno in _GONE_ALREADY:
                return True
            if error.errno in _SHORTAGES:
                self._state.close_idle(self._loop.time())
                self._wait_for_descriptors(describe(error))
            else:
                self._failures += 1
                _shortages.log(logging.ERROR, "HTTP: cannot accept: %s", describe(error))
                self._leave_alone(_RETRY)
            return False
        self._failures = 0
        sock.setblocking(False)
        task = self._loop.create_task(self._welcome(sock))
        self._arriving.add(task)
        task.add_done_callback(self._arriving.discard)
        return True

    async def _welcome(self, sock: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._make_protocol, sock, ssl=self._tls)
        except (OSError, ssl.SSLError) as error:
            # asyncio has closed the socket.
            _handshakes.log(logging.INFO, "HTTP: a connection failed at once: %s", describe(error))

    def _wait_for_descriptors(self, why: str) -> None:
        budget = self._state.budget
        _shortages.log(
            logging.WARNING,
            "new connections wait for descriptors (%s: %d of %s); raise LimitNOFILE or `ulimit -n`",
            why,
            budget.in_use,
            "any number" if budget.limit is None else budget.limit,
        )
        self._leave_alone(_RETRY)
        budget.on_free(self._listen)
