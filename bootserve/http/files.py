"""A file's answer: headers, the right bytes at the client's own pace, and a true verdict."""

from __future__ import annotations

import time
from pathlib import PurePosixPath

import anyio
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from bootserve.catalog.assets import READ_SIZE, REPLACE_BY_RENAMING, Asset
from bootserve.http.connection import EXTENSION, Connection, Delivery
from bootserve.http.preconditions import Answer, Validators, evaluate
from bootserve.watch.ledger import End, Ledger, Transfer

_CONTENT_TYPES = {".efi": "application/efi", ".ipxe": "text/plain; charset=utf-8"}
"""UEFI HTTP Boot judges an image by its name or by this type (UEFI 2.10, section 24.7.3.1)."""


_VERDICTS = {
    Delivery.ACKNOWLEDGED: (End.COMPLETE, ""),
    Delivery.UNCONFIRMED: (End.UNCONFIRMED, "it may have booted before its last ACK"),
    Delivery.LOST: (End.CLIENT_LEFT, "before it acknowledged everything"),
}


def client_host(request: Request) -> str:
    """The client's address; a server of somebody else's may not know it."""
    return request.client.host if request.client else "?"


class FileAnswer:
    """An ASGI application that sends one open asset to one request, and closes it.

    There is no timer in here: the next read happens when the client has made room for it.
    """

    def __init__(self, asset: Asset, request: Request, ledger: Ledger, machine: str | None) -> None:
        self._asset = asset
        self._ledger = ledger
        self._machine = machine
        self._client = client_host(request)
        modified = min(asset.mtime_ns // 1_000_000_000, int(time.time()))
        self._validators = Validators(f'"{asset.tag}"', modified)
        headers = {
            name: ", ".join(request.headers.getlist(name)) for name in set(request.headers.keys())
        }
        if request.method != "GET":
            # RFC 9110, section 14.2: ranges are defined for GET alone.
            headers.pop("range", None)
        self._answer = evaluate(headers, self._validators, asset.size)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._asset:
            await send(self._head())
            if scope["method"] == "HEAD" or self._answer.status not in (200, 206):
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                return
            await self._body(scope, receive, send)

    def _head(self) -> Message:
        answer, size = self._answer, self._asset.size
        headers = {
            "etag": self._validators.etag,
            "last-modified": self._validators.last_modified,
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
            headers["content-range"] = f"bytes {answer.start}-{last}/{size}"
        if answer.status == 416:
            headers["content-range"] = f"bytes */{size}"
        return {
            "type": "http.response.start",
            "status": answer.status,
            "headers": [(k.encode("latin-1"), v.encode("latin-1")) for k, v in headers.items()],
        }

    async def _body(self, scope: Scope, receive: Receive, send: Send) -> None:
        transfer = self._ledger.open(
            protocol="HTTP",
            client=self._client,
            machine=self._machine,
            name=_describe(self._asset.name, self._answer),
            total=self._answer.length,
        )
        extensions = scope.get("extensions") or {}
        connection: Connection | None = extensions.get(EXTENSION, {}).get("connection")
        begin = connection.position() if connection else 0
        end, reason = End.SERVER_STOPPED, ""
        try:
            end, reason = await self._stream(transfer, receive, send)
            if connection is None:
                return
            if end in (End.FILE_ERROR, End.FILE_CHANGED):
                # At once: what is still under way would only look like more of a file.
                await connection.cut()
            if end is End.CLIENT_LEFT and connection.acked() >= begin + transfer.total:
                end = End.COMPLETE
            if end is End.COMPLETE:
                delivery = await connection.delivered(begin + transfer.total)
                end, reason = _VERDICTS[delivery]
        except Exception:
            end, reason = End.SERVER_ERROR, "see the traceback"
            raise
        finally:
            if connection is not None:
                transfer.sent = min(max(connection.acked() - begin, 0), transfer.total)
            transfer.close(end, reason)

    async def _stream(self, transfer: Transfer, receive: Receive, send: Send) -> tuple[End, str]:
        outcome = (End.CLIENT_LEFT, "")
        async with anyio.create_task_group() as tasks:

            async def send_all() -> None:
                nonlocal outcome
                outcome = await self._send_all(transfer, send)
                tasks.cancel_scope.cancel()

            async def wait_for_disconnect() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                tasks.cancel_scope.cancel()

            tasks.start_soon(send_all)
            tasks.start_soon(wait_for_disconnect)
        return outcome

    async def _send_all(self, transfer: Transfer, send: Send) -> tuple[End, str]:
        offset = self._answer.start
        end = offset + self._answer.length
        while offset < end:
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
            await send({"type": "http.response.body", "body": body, "more_body": True})
            transfer.sent += len(body)
            # A client as fast as the disk never makes send() wait: let others have their turn.
            await anyio.lowlevel.checkpoint()
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return End.COMPLETE, ""


def _describe(name: str, answer: Answer) -> str:
    if answer.status == 206:
        return f"{name}[{answer.start}-{answer.start + answer.length - 1}]"
    return name
