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

_FAIR_SHARE: Final = 30.0
"""Seconds that a place is its client's; then another one may have it, if there is none free. Four
clients that never read would else be all that there is room for."""

_NO_STORE: Final = {"cache-control": "no-store"}


class Transfers:
    """Answers with the status of this process."""

    def __init__(self, status: Status, *, is_public: bool) -> None:
        self._status = status
        self._is_public = is_public
        self._asking: dict[_Answer, float] = {}
        """Whose answers are being made or sent, and since when; the oldest first."""

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
        if not self._has_room():
            headers = {**_NO_STORE, "retry-after": "1"}
            return PlainTextResponse("others are asking just now, come back later\n", 503, headers)
        return _Answer(self, self._status, recent)

    def enter(self, answer: _Answer) -> None:
        self._asking[answer] = anyio.current_time()

    def leave(self, answer: _Answer) -> None:
        self._asking.pop(answer, None)

    def _has_room(self) -> bool:
        if len(self._asking) < _AT_ONCE:
            return True
        answer, since = next(iter(self._asking.items()))
        if anyio.current_time() - since < _FAIR_SHARE:
            return False
        self.leave(answer)
        answer.give_way.cancel()
        return True


class _Answer:
    def __init__(self, owner: Transfers, status: Status, recent: int) -> None:
        self._owner = owner
        self._status = status
        self._recent = recent
        self.give_way = anyio.CancelScope()

    async def __call__(self, scope: Scope, _: Receive, send: Send) -> None:
        self._owner.enter(self)
        try:
            with self.give_way:
                await _send([piece async for piece in self._status.pieces(self._recent)], send)
        finally:
            self._owner.leave(self)
        extensions = scope.get("extensions") or {}
        connection: Connection | None = extensions.get(EXTENSION, {}).get("connection")
        if self.give_way.cancelled_caught and connection is not None:
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
