"""A file's answer: headers, the right bytes at the client's own pace, and a true verdict."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import PurePosixPath

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bootserve.catalog.assets import READ_SIZE, REPLACE_BY_RENAMING, Asset
from bootserve.catalog.catalog import Catalog
from bootserve.catalog.names import architecture_of
from bootserve.http.connection import EXTENSION, Connection, Delivery
from bootserve.http.extensions import ZERO_COPY
from bootserve.http.preconditions import CONDITIONS, Answer, Validators, evaluate
from bootserve.watch.budget import TRIFLE, Budget
from bootserve.watch.ledger import End, Ledger, Transfer

_CONTENT_TYPES = {".efi": "application/efi", ".ipxe": "text/plain; charset=utf-8"}
"""UEFI HTTP Boot judges an image by its name or by this type (UEFI 2.10, section 24.7.3.1)."""


_SMALL = 64 * 1024
"""Bytes up to which an answer is copied: that costs fewer system calls."""

_HOLD_BACK = 4096
"""Bytes at the end of an answer that are copied, after a last look at the file: a client can do
nothing with the rest alone."""

_VERDICTS = {
    Delivery.ACKNOWLEDGED: (End.COMPLETE, ""),
    Delivery.UNCONFIRMED: (End.UNCONFIRMED, "it may have booted before its last ACK"),
    Delivery.LOST: (End.CLIENT_LEFT, "before it acknowledged everything"),
}


def client_host(scope: Scope) -> str:
    """The client's address; a server of somebody else's may not know it."""
    client = scope.get("client")
    # An IPv4 client that came through a socket for both families.
    return str(client[0]).removeprefix("::ffff:") if client else "?"


def header(scope: Scope, name: bytes) -> str | None:
    """A header of the request, by its name in lower case; several are joined (RFC 9110, 5.2)."""
    values = [value for key, value in scope["headers"] if key == name]
    return b", ".join(values).decode("latin-1") if values else None


class FileAnswer:
    """An ASGI application that sends one open asset to one request, and closes it.

    There is no timer in here: more is sent when the client has made room for it.

    Args:
        budget: says whether a big file may be begun now.
        refusal: makes the answer if it may not.
        asked: when the request came, in monotonic seconds.
    """

    __slots__ = ("_asked", "_asset", "_budget", "_catalog", "_ledger", "_refusal")

    def __init__(
        self,
        asset: Asset,
        ledger: Ledger,
        catalog: Catalog,
        budget: Budget,
        refusal: Callable[[], ASGIApp],
        asked: float,
    ) -> None:
        self._asked = asked
        self._asset = asset
        self._ledger = ledger
        self._catalog = catalog
        self._budget = budget
        self._refusal = refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._asset:
            answer, validators = self._evaluate(scope)
            has_body = scope["method"] != "HEAD" and answer.status in (200, 206)
            if has_body and not self._budget.may_begin(answer.length):
                self._asset.close()
                await self._refusal()(scope, receive, send)
                return
            is_counted = has_body and answer.length > TRIFLE
            begun = self._budget.begin() if is_counted else None
            end = End.COMPLETE
            try:
                await send(self._head(answer, validators))
                if has_body:
                    end = End.SERVER_STOPPED
                    end = await self._body(answer, scope, receive, send)
                else:
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
            finally:
                if begun is not None:
                    self._budget.end(begun, is_whole=end.is_normal)

    def _evaluate(self, scope: Scope) -> tuple[Answer, Validators]:
        modified = min(self._asset.mtime_ns // 1_000_000_000, int(time.time()))
        validators = Validators(f'"{self._asset.tag}"', modified)
        asked = {name: value for name in CONDITIONS if (value := header(scope, name.encode()))}
        if scope["method"] != "GET":
            # RFC 9110, section 14.2: ranges are defined for GET alone.
            asked.pop("range", None)
        return evaluate(asked, validators, self._asset.size), validators

    def _head(self, answer: Answer, validators: Validators) -> Message:
        headers = {
            "etag": validators.etag,
            "last-modified": validators.last_modified,
            "accept-ranges": "bytes",
        }
        if answer.status in (200, 206):
            suffix = PurePosixPath(self._asset.name).suffix
            headers["content-type"] = _CONTENT_TYPES.get(suffix, "application/octet-stream")
            headers["content-length"] = str(answer.length)
        if answer.status in (412, 416):
            headers["content-length"] = "0"
        if answer.status == 206:
            last = answer.start + answer.length - 1
            headers["content-range"] = f"bytes {answer.start}-{last}/{self._asset.size}"
        if answer.status == 416:
            headers["content-range"] = f"bytes */{self._asset.size}"
        return {
            "type": "http.response.start",
            "status": answer.status,
            "headers": [(k.encode("latin-1"), v.encode("latin-1")) for k, v in headers.items()],
        }

    async def _body(self, answer: Answer, scope: Scope, receive: Receive, send: Send) -> End:
        client = client_host(scope)
        seen = self._catalog.sightings.at(client)
        lanes = self._catalog.lanes
        agent = header(scope, b"user-agent") if lanes.minds_agents else None
        transfer = self._ledger.open(
            protocol="HTTP",
            client=client,
            machine=seen.label if seen else None,
            name=_describe(self._asset.name, answer),
            total=answer.length,
            from_zero=answer.start == 0,
            agent=agent,
            arch=architecture_of(self._asset.name),
            asked=self._asked,
        )
        extensions = scope.get("extensions") or {}
        connection: Connection | None = extensions.get(EXTENSION, {}).get("connection")
        begin = connection.position() if connection else 0
        if connection:
            # Not before the ledger knows: this may be the request that changes the lane.
            connection.set_lane(lanes.choose(seen, client, agent))
            transfer.meter = _Meter(connection, begin, answer.length)
            connection.transfer = transfer
        end, reason = End.SERVER_STOPPED, ""
        try:
            if connection is None:
                end, reason = await self._stream(answer, transfer, receive, send)
                return end
            end, reason = await self._send_all(answer, transfer, send, connection, begin)
            if end in (End.FILE_ERROR, End.FILE_CHANGED):
                # At once: what is still under way would only look like more of a file.
                await connection.cut()
            if end is End.CLIENT_LEFT and connection.acked() >= begin + transfer.total:
                end = End.COMPLETE
            if end is End.COMPLETE:
                delivery = await connection.delivered(begin + transfer.total)
                end, reason = _VERDICTS[delivery]
            if connection.gone and end in (End.CLIENT_LEFT, End.UNCONFIRMED):
                reason = connection.gone
                end = End.CLIENT_SILENT if end is End.CLIENT_LEFT else end
            return end
        except Exception:
            end, reason = End.SERVER_ERROR, "see the traceback"
            raise
        finally:
            transfer.close(end, reason)
            if connection and connection.transfer is transfer:
                connection.transfer = None
                connection.settled_at = time.monotonic()

    async def _send_all(
        self, answer: Answer, transfer: Transfer, send: Send, connection: Connection, begin: int
    ) -> tuple[End, str]:
        start, count = answer.start, answer.length - _HOLD_BACK
        small = _SMALL if connection.window is None else min(_SMALL, connection.window // 2)
        if count > small:
            try:
                await send(
                    {
                        "type": ZERO_COPY,
                        "file": self._asset,
                        "offset": start,
                        "count": count,
                        "more_body": True,
                    }
                )
            except OSError as error:
                return End.FILE_ERROR, error.strerror or "read error"
            # Until it is acknowledged, all that is sent, and sent again, is the file as it is then,
            # not as it was: the socket refers to its pages.
            if await connection.delivered(begin + count) is Delivery.LOST or connection.is_lost:
                return End.CLIENT_LEFT, ""
            start += count
        return await self._send_copies(transfer, send, start, answer.start + answer.length)

    async def _stream(
        self, answer: Answer, transfer: Transfer, receive: Receive, send: Send
    ) -> tuple[End, str]:
        outcome = (End.CLIENT_LEFT, "")
        end = answer.start + answer.length
        async with anyio.create_task_group() as tasks:

            async def send_all() -> None:
                nonlocal outcome
                outcome = await self._send_copies(transfer, send, answer.start, end)
                tasks.cancel_scope.cancel()

            async def wait_for_disconnect() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                tasks.cancel_scope.cancel()

            tasks.start_soon(send_all)
            tasks.start_soon(wait_for_disconnect)
        return outcome

    async def _send_copies(
        self, transfer: Transfer, send: Send, offset: int, end: int
    ) -> tuple[End, str]:
        first = offset
        while offset < end:
            if offset > first:
                # An empty piece waits for room: what is read waits in memory as long as its client.
                await send({"type": "http.response.body", "body": b"", "more_body": True})
            try:
                body = await self._asset.read(offset, min(READ_SIZE, end - offset))
            except OSError as error:
                return End.FILE_ERROR, error.strerror or "read error"
            if not body:
                return End.FILE_ERROR, "it shrank while it was sent"
            if offset + len(body) == end and self._asset.has_changed():
                # Better no file than one of two halves: its last piece stays here.
                return End.FILE_CHANGED, REPLACE_BY_RENAMING
            offset += len(body)
            transfer.sends(time.monotonic())
            await send({"type": "http.response.body", "body": body, "more_body": True})
            transfer.sent += len(body)
            # A client as fast as the disk never makes send() wait: let others have their turn.
            await anyio.lowlevel.checkpoint()
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return End.COMPLETE, ""


class _Meter:
    """How much of one answer the client has acknowledged."""

    __slots__ = ("_begin", "_connection", "_total")

    def __init__(self, connection: Connection, begin: int, total: int) -> None:
        self._connection = connection
        self._begin = begin
        self._total = total

    def __call__(self) -> int:
        return min(max(self._connection.acked() - self._begin, 0), self._total)


def _describe(name: str, answer: Answer) -> str:
    if answer.status == 206:
        return f"{name}[{answer.start}-{answer.start + answer.length - 1}]"
    return name
