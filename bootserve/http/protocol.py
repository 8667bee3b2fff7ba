"""Our uvicorn protocol class: uvicorn's own on httptools, with what boot clients need.

Everything that this project changes of uvicorn's internals is in this file. Names of uvicorn's
that it relies on: ``connection_made``, ``connection_lost``, ``data_received``, ``eof_received``,
``on_message_begin``, ``timeout_keep_alive_handler``, ``cycle.response_complete``,
``cycle.keep_alive``, ``send_400_response``, ``timeout_keep_alive_task``, ``shutdown``.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from bootserve.http.connection import Connection
from bootserve.http.listener import missing_options
from bootserve.watch.quiet import QuietLog

logger = logging.getLogger("bootserve.http")

EXTENSION = "bootserve.connection"
"""ASGI extension: ``scope["extensions"][EXTENSION]["connection"]`` is the `Connection`."""

_reported: set[str] = set()
_malformed = QuietLog(logger)
# uvicorn writes an unbounded line of its own for each, without saying who sent it.
logging.getLogger("uvicorn.error").addFilter(
    lambda record: record.msg != "Invalid HTTP request received."
)


class BootProtocol(HttpToolsProtocol):
    """One connection. A client that half-closes still gets its answer; none loses its tail."""

    connection: Connection
    _is_deaf = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.connection = Connection(transport, self.loop)
        self._check_options(transport)
        super().connection_made(self.connection)

    def connection_lost(self, exc: Exception | None) -> None:
        self.connection.connection_lost(exc)
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        # What comes after our last answer is read, so that its arrival resets nothing, and dropped.
        if not self._is_deaf and not self.connection.is_closing():
            super().data_received(data)

    def send_400_response(self, msg: str) -> None:
        """Refuse a malformed request, but not in the middle of the answer to one before it."""
        client = self.client[0] if self.client else "?"
        _malformed.log(logging.INFO, "HTTP %s: malformed request refused", client)
        if self.cycle is None or self.cycle.response_complete:
            super().send_400_response(msg)
            return
        self._is_deaf = True
        self.cycle.keep_alive = False

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client has sent its FIN: close, but not before it has all that we owe it."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False
            return True
        if self.connection.waiting():
            self.connection.close()
            return True
        return False

    def shutdown(self) -> None:
        self.connection.leave()
        super().shutdown()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        extensions: dict[str, dict[str, Any]] = {EXTENSION: {"connection": self.connection}}
        self.scope["extensions"] = extensions  # type: ignore[typeddict-item]

    def timeout_keep_alive_handler(self) -> None:
        """Idleness begins when the client has everything, not when the kernel took it all."""
        if self.connection.waiting() and not self.connection.is_closing():
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
            return
        super().timeout_keep_alive_handler()

    def _check_options(self, transport: asyncio.Transport) -> None:
        sock = transport.get_extra_info("socket")
        try:
            names = missing_options(sock)
        except OSError:
            return
        for name in set(names) - _reported:
            _reported.add(name)
            logger.warning("the kernel did not set %s on an accepted connection", name)
