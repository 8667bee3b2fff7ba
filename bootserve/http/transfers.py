"""``GET /transfers.json``: what is going on, for everybody, if the settings have it public."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from urllib.parse import parse_qs

import anyio
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from bootserve.http.connection import EXTENSION, Connection
from bootserve.watch.status import Status, checked_recent

_AT_ONCE: Final = 4
"""Answers that are made or sent at once. With ten thousand transfers each holds 5 MB, for as long
as its client takes to read it."""

_PATIENCE: Final = 30.0
"""Seconds for an answer to be taken. Four clients that never read would else be all that there is
room for; no machine's boot depends on this one."""

_NO_STORE: Final = {"cache-control": "no-store"}


class Transfers:
    """Answers with the status of this process."""

    def __init__(self, status: Status, *, is_public: bool) -> None:
        self._status = status
        self._is_public = is_public
        self._asking = 0

    def answer(self, scope: Scope) -> ASGIApp:
        """Return the answer to a request."""
        if not self._is_public:
            return PlainTextResponse(
                "what is in flight is not shown to the network; set `public = true` in the section"
                " [status] of the configuration for that, or ask on the server: bootserve status\n",
                404,
            )
        try:
            said = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
            recent = checked_recent(said.get("recent", [None])[0])
        except ValueError as error:
            return PlainTextResponse(f"{error}\n", 400, _NO_STORE)
        if self._asking >= _AT_ONCE:
            headers = {**_NO_STORE, "retry-after": "1"}
            return PlainTextResponse("others are asking just now, come back later\n", 503, headers)
        return _Answer(self, self._status, recent)

    def enter(self) -> None:
        self._asking += 1

    def leave(self) -> None:
        self._asking -= 1


class _Answer:
    def __init__(self, owner: Transfers, status: Status, recent: int) -> None:
        self._owner = owner
        self._status = status
        self._recent = recent

    async def __call__(self, scope: Scope, _: Receive, send: Send) -> None:
        self._owner.enter()
        try:
            pieces = [piece async for piece in self._status.pieces(self._recent)]
            with anyio.move_on_after(_PATIENCE) as patience:
                await _send(pieces, send)
        finally:
            self._owner.leave()
        extensions = scope.get("extensions") or {}
        connection: Connection | None = extensions.get(EXTENSION, {}).get("connection")
        if patience.cancelled_caught and connection is not None:
            await connection.cut()


async def _send(pieces: Sequence[bytes], send: Send) -> None:
    length = sum(map(len, pieces))
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % length),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    # Piece by piece, so that no more than one waits for a client that does not read.
    for piece in pieces:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
