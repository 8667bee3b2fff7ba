"""ASGI extensions of our uvicorn protocol: ``http.response.zerocopysend`` and ``.pathsend``.

Any ASGI application may use them (asgi.readthedocs.io, "Extensions"). Bytes go from page cache to
socket; under TLS, on a loop that cannot do it, or in an answer without Content-Length they are
copied in pieces, with the same result. As with every ``send`` of uvicorn, one to a client that has
left returns and does nothing.
"""

from __future__ import annotations

import io
import os
from collections.abc import Awaitable
from typing import Any, Final, Protocol

import anyio.lowlevel
import anyio.to_thread
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from bootserve.catalog.reading import READ_SIZE, read
from bootserve.http.connection import Connection
from bootserve.http.zerocopy import FileEnded

ZERO_COPY: Final = "http.response.zerocopysend"
PATH: Final = "http.response.pathsend"
"""Names of the extensions in ``scope["extensions"]``, and of their messages."""


class HasFileno(Protocol):
    def fileno(self) -> int: ...


class FileSends:
    """One request's way through an application that is given a ``send`` which sends files."""

    __slots__ = ("_app", "_connection", "_cycle")

    def __init__(self, app: Any, cycle: RequestResponseCycle, connection: Connection) -> None:
        self._app = app
        self._cycle = cycle
        self._connection = connection

    def run(self, scope: Any, receive: Any, _: Any) -> Awaitable[None]:
        """The application, as uvicorn calls it."""
        call: Awaitable[None] = self._app(scope, receive, self.send)
        return call

    def send(self, message: Any) -> Awaitable[None]:
        """ASGI's ``send``.

        Raises:
            OSError: the file could not be opened, or not be read to the end of what was asked for.
            RuntimeError: the message is out of order, or longer than Content-Length.
        """
        kind = message["type"]
        if kind == "http.response.start":
            if not self._cycle.response_started:
                self._connection.cork(is_kept=self._cycle.keep_alive)
        elif kind == ZERO_COPY:
            return self._zero_copy(**{k: v for k, v in message.items() if k != "type"})
        elif kind == PATH:
            return self._path(message["path"])
        return self._cycle.send(message)

    async def _zero_copy(
        self,
        file: HasFileno,
        offset: int | None = None,
        count: int | None = None,
        more_body: bool = False,
    ) -> None:
        cycle = self._cycle
        if cycle.disconnected:
            return
        if not cycle.response_started or cycle.response_complete:
            raise RuntimeError("a file can be sent only between the head and the end of an answer")
        fd = file.fileno()
        start = os.lseek(fd, 0, os.SEEK_CUR) if offset is None else offset
        end = os.fstat(fd).st_size if count is None else start + count
        if offset is None:
            os.lseek(fd, end, os.SEEK_SET)
        if cycle.scope["method"] == "HEAD":
            start = end
        if start < end and not cycle.chunked_encoding and self._connection.can_sendfile:
            if end - start > cycle.expected_content_length:
                raise RuntimeError("Response content longer than Content-Length")
            # All of the head must be out: the next bytes do not go through the transport.
            self._connection.uncork()
            await cycle.flow.drain()
            sent = await self._connection.sendfile(fd, start, end - start)
            cycle.expected_content_length -= sent
            start += sent
        if start < end:
            await self._copy(fd, start, end)
        if not more_body:
            await cycle.send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _copy(self, fd: int, offset: int, end: int) -> None:
        cycle = self._cycle
        while offset < end and not cycle.disconnected:
            # An empty piece waits for room: what is read waits in memory as long as its client.
            await cycle.send({"type": "http.response.body", "body": b"", "more_body": True})
            piece = await read(fd, offset, min(end - offset, READ_SIZE))
            if not piece:
                raise FileEnded
            await cycle.send({"type": "http.response.body", "body": piece, "more_body": True})
            offset += len(piece)
            # A client as fast as the disk never makes send() wait: let others have their turn.
            await anyio.lowlevel.checkpoint()

    async def _path(self, path: str) -> None:
        file = await anyio.to_thread.run_sync(io.FileIO, path)
        with file:
            await self._zero_copy(file, 0)
