"""Our uvicorn protocol class: uvicorn's own on httptools, with what boot clients need.

Everything that this project changes of uvicorn's internals is in this file. Names of uvicorn's
that it relies on: ``connection_made``, ``connection_lost``, ``data_received``, ``eof_received``,
``on_message_begin``, ``on_headers_complete``, ``_start_asgi_task``, ``send_400_response``,
``timeout_keep_alive_handler``, ``timeout_keep_alive_task``, ``shutdown``, ``server_state``,
``_unsupported_upgrade_warning``, ``on_response_complete``, ``flow``, ``pipeline``; and
of a request's cycle: ``response_started``, ``response_complete``, ``keep_alive``, ``disconnected``,
``message_event``, and, in `extensions`, ``flow``, ``scope``,
``expected_content_length`` and ``chunked_encoding``.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from bootserve.events import with_fields
from bootserve.http.connection import EXTENSION, Connection
from bootserve.http.door import state_of
from bootserve.http.extensions import PATH, ZERO_COPY, FileSends
from bootserve.http.flag import Flag, Flow
from bootserve.http.listener import missing_options
from bootserve.watch.fields import of_refusal
from bootserve.watch.liveness import Verdict
from bootserve.watch.quiet import QuietLog

logger = logging.getLogger("bootserve.http")

HEAD_LIMIT = 64 * 1024
"""Bytes that a request's head may go on for after its first segment."""

_DRAIN_HEAD_TIMEOUT = 2.0

_HEAD_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-length: 0\r\nconnection: close\r\n\r\n"
)

_CHECKED_REQUESTS = 100
"""Requests after which the options of accepted connections are no longer read back."""

_NO_OPTIONS: dict[str, Any] = {}

_reported: set[str] = set()
_malformed = QuietLog(logger)
_defects = QuietLog(logger, most=5)


def _is_wanted(record: logging.LogRecord) -> bool:
    """Whether a line of uvicorn's is written as it is; it has two that strangers can cause."""
    if record.msg == "Exception in ASGI application\n" and record.exc_info:
        error = record.exc_info[1]
        if isinstance(error, Exception):
            # A traceback has dozens of lines, and whoever has met a defect asks again.
            _defects.log(logging.ERROR, "HTTP: a defect hit a request", error=error)
            return False
    # That line does not say who has sent it; ours does.
    return record.msg != "Invalid HTTP request received."


logging.getLogger("uvicorn.error").addFilter(_is_wanted)


class _Pipeline(list[Any]):
    """What uvicorn uses of a deque, without the 600 bytes that an empty one takes."""

    __slots__ = ()

    def appendleft(self, item: Any) -> None:
        self.insert(0, item)


class BootProtocol(HttpToolsProtocol):
    """One connection. A client that half-closes still gets its answer; none loses its tail."""

    # In slots, because one attribute more would double the size of uvicorn's dictionary.
    __slots__ = (
        "_head_bytes",
        "_head_timer",
        "_is_deaf",
        "_is_in_head",
        "_kept_until",
        "_running",
        "_state",
        "connection",
    )

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.connection = Connection(transport, self.loop)
        self._state = state_of(self.server_state)
        self.connection.promise = self._state.promise
        self._state.budget.connections += 1
        self._running: RequestResponseCycle | None = None
        self._head_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._kept_until = 0.0
        self._is_in_head = True
        self._is_deaf = False
        self._check_options(transport)
        super().connection_made(self.connection)
        self.flow = Flow(self.connection)
        if self.connection.can_sendfile:
            # flow.drain() then waits until all is with the kernel, and sendfile may follow.
            transport.set_write_buffer_limits(high=0)
        self.pipeline = _Pipeline()  # type: ignore[assignment]
        if self._state.is_draining:
            # Accepted before the listening sockets were closed, told of it too late.
            self.connection.leave()
        self._await_head()
        self._state.rest(self, self.loop.time())

    def connection_lost(self, exc: Exception | None) -> None:
        self.connection.connection_lost(exc)
        # uvicorn tells only the request that was read last; with pipelining others wait before it.
        for cycle in (self._running, *(cycle for cycle, _ in self.pipeline)):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self._head_is_over()
        self._state.wake(self)
        self._state.budget.connections -= 1
        # The descriptor is closed at the end of this turn of the loop.
        self.loop.call_soon(self._state.budget.freed)

    def data_received(self, data: bytes) -> None:
        # What comes after our last answer is read, so that its arrival resets nothing, and dropped.
        if self._is_deaf or self.connection.is_closing():
            return
        was_in_head = self._head_timer is not None
        super().data_received(data)
        self._mind_idleness()
        if not self._is_in_head:
            return
        self._await_head()
        if was_in_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_LIMIT:
                self._refuse(_HEAD_TOO_LARGE, "endless request head")

    def send_400_response(self, msg: str) -> None:
        """Refuse a malformed request, but not in the middle of the answer to one before it."""
        if self.cycle is None or self.cycle.response_complete:
            self._log_malformed("malformed request")
            super().send_400_response(msg)
        else:
            self._refuse(b"", "malformed request")

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client has sent its FIN: close, but not before it has all that we owe it."""
        if self.is_answering:
            self.cycle.keep_alive = False
            return True
        if self.connection.waiting():
            self.connection.close()
            return True
        return False

    def shutdown(self) -> None:
        self.connection.leave()
        if not self._state.has_successor:
            super().shutdown()
        elif self.is_answering and not self.cycle.response_started:
            self.cycle.keep_alive = False
        # Else it goes on to its promised end: a request may be on its way.

    @property
    def is_newcomer(self) -> bool:
        """Whether no request has come so far."""
        return self.cycle is None

    @property
    def is_asking(self) -> bool:
        """Whether a part of a further request's head has come."""
        return self._is_in_head and self.cycle is not None

    @property
    def is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def look(self, now: float) -> Verdict:
        """Take a look at the client, see `Connection.look`."""
        return self.connection.look(now, self._state.limits, is_owed=self.is_answering)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_in_head = True
        extensions: dict[str, dict[str, Any]] = {ZERO_COPY: _NO_OPTIONS, PATH: _NO_OPTIONS}
        if self.scheme != "https":
            # Under TLS the kernel counts other bytes than those of the answer.
            extensions[EXTENSION] = {"connection": self.connection}
        self.scope["extensions"] = extensions  # type: ignore[typeddict-item]

    def on_headers_complete(self) -> None:
        self._head_is_over()
        self._state.wake(self)
        super().on_headers_complete()
        if self._state.is_draining or self.expect_100_continue:
            # Whoever asks before it sends a body is answered without it, and may then send the
            # body or the next request: nobody can tell.
            self.cycle.keep_alive = False

    def on_response_complete(self) -> None:
        # The answer to a HEAD has no body that would take its head along.
        self.connection.uncork()
        super().on_response_complete()
        now = self.loop.time()
        self._kept_until = now + self.timeout_keep_alive
        if not (self.is_answering or self.pipeline or self.connection.is_closing()):
            self._state.rest(self, now)

    def timeout_keep_alive_handler(self) -> None:
        """Idleness begins when the client has everything, not when the kernel took it all."""
        now = self.loop.time()
        is_settled = self.connection.transfer is None and not self.connection.waiting()
        if not (is_settled or self.connection.is_closing()):
            self._kept_until = now + self.timeout_keep_alive
        else:
            settled = self.connection.settled_at + self.timeout_keep_alive
            self._kept_until = max(self._kept_until, settled)
        if now < self._kept_until:
            self._arm_keep_alive()
            return
        self._state.wake(self)
        self.connection.close_idle()

    def _mind_idleness(self) -> None:
        """Any data ends uvicorn's keep-alive timer, even data that begins no request.

        They do not lengthen the time: a client could keep us for ever with blank lines.
        """
        if (
            self.timeout_keep_alive_task is None
            and not self._is_in_head
            and self.cycle is not None
            and self.cycle.response_complete
            and not self.connection.is_closing()
        ):
            self._arm_keep_alive()

    def _arm_keep_alive(self) -> None:
        self.timeout_keep_alive_task = self.loop.call_at(
            self._kept_until, self.timeout_keep_alive_handler
        )

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        cycle.message_event = Flag(cycle.message_event.is_set())  # type: ignore[assignment]
        super()._start_asgi_task(cycle, FileSends(app, cycle, self.connection).run)

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: an upgrade that is not taken up is an ordinary request (RFC 9110, 7.8)."""

    # --- request heads -----------------------------------------------------------------------

    def _await_head(self) -> None:
        if self._head_timer is None:
            seconds = self._state.manners.head_timeout
            if self._state.is_draining and not self._state.has_successor:
                seconds = min(seconds, _DRAIN_HEAD_TIMEOUT)
            self._head_timer = self.loop.call_later(seconds, self._head_is_late)

    def _head_is_over(self) -> None:
        self._is_in_head = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        self._head_bytes = 0

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self.flow.read_paused:
            # It is we who do not listen: an answer that is owed comes first.
            self._await_head()
            return
        if self.cycle is None or self.cycle.response_complete:
            self.connection.close()
        else:
            self._refuse(b"", "request head took too long")

    def _refuse(self, answer: bytes, why: str) -> None:
        """Hear no more of this client, and close when it has what it is owed."""
        self._log_malformed(why)
        self._is_deaf = True
        self._head_is_over()
        if self.cycle is None or self.cycle.response_complete:
            self.connection.write(answer)
            self.connection.close()
        else:
            self.cycle.keep_alive = False

    def _log_malformed(self, why: str) -> None:
        # An IPv4 client that came through a socket for both families.
        client = str(self.client[0]).removeprefix("::ffff:") if self.client else "?"
        _malformed.log(
            logging.INFO,
            "HTTP %s: refused, %s",
            client,
            why,
            extra=with_fields(of_refusal, "HTTP", client, "", why),
        )

    def _check_options(self, transport: asyncio.Transport) -> None:
        """What the kernel hands on once it hands on always: some connections tell for all."""
        if self.server_state.total_requests >= _CHECKED_REQUESTS:
            return
        sock = transport.get_extra_info("socket")
        try:
            if self._state.options and missing_options(sock, self._state.options):
                # It came before we had the listening socket, by a service manager's.
                self._state.prepare(sock)
            names = missing_options(sock, self._state.options)
        except OSError:
            return
        for name in set(names) - _reported:
            _reported.add(name)
            logger.warning("the kernel did not set %s on an accepted connection", name)
