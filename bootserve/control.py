"""What a running server answers to on its control socket.

One JSON object on a line each way: ``{"command": "state"}`` gets the command's answer, or
``{"error": "..."}``. Only our own user and root are talked to.

Requests, and most answers, are lines of at most `LONGEST` bytes. A report is a longer one, written
while it is made, so that it holds up neither the event loop nor anybody else: whoever does not read
it in time loses the conversation.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any, Final

import anyio

from bootserve.text import as_word
from bootserve.watch.quiet import QuietLog

logger = logging.getLogger("bootserve.control")
_troubles = QuietLog(logger)

LONGEST: Final = 64 * 1024
"""Bytes of a line."""

LONGEST_REPORT: Final = 256 << 20
"""Bytes of a report that its reader takes; ten thousand transfers are 5 MB."""

_CLIENTS: Final = 8
"""Conversations at once; more wait in the kernel's queue."""

_PATIENCE: Final = 10.0
"""Seconds that a client may take to say something, or to take what it is told."""

_REPORT_PATIENCE: Final = 30.0
"""Seconds that a report may take from its first byte to its last one."""

_ACCEPT_PAUSE: Final = 1.0

_CREDENTIALS: Final = struct.Struct("=iII")  # struct ucred: pid, uid, gid; see unix(7)

Json = dict[str, Any]
Command = Callable[[], Awaitable[Json]]
Report = Callable[[Json], AsyncGenerator[bytes, None]]
"""Gets the whole request, for its arguments; raises ValueError, with a sentence, for what is wrong
with them. What it returns is a line without its end, in pieces."""

_NO_REPORTS: Final[Mapping[str, Report]] = {}


def peer_uid(connection: socket.socket) -> int:
    """Return the user at the other end of a Unix socket."""
    size = _CREDENTIALS.size
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    _, uid, _ = _CREDENTIALS.unpack(found)
    return int(uid)


def encode(message: Json) -> bytes:
    """Return a message as a line."""
    return json.dumps(message).encode() + b"\n"


def decode(line: bytes) -> Json:
    """Read a message; raises ValueError if the line is none."""
    try:
        message = json.loads(line)
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error
    if not isinstance(message, dict):
        raise ValueError("is no JSON object")
    return message


async def serve(
    listener: socket.socket,
    commands: Mapping[str, Command],
    reports: Mapping[str, Report] = _NO_REPORTS,
) -> None:
    """Answer until cancelled.

    Args:
        listener: a listening, non-blocking Unix socket; it stays the caller's.
    """
    free = anyio.Semaphore(_CLIENTS)
    async with anyio.create_task_group() as tasks:
        while True:
            async with free:
                pass
            try:
                client, _ = await asyncio.get_running_loop().sock_accept(listener)
            except OSError as error:
                _troubles.log(logging.WARNING, "the control socket cannot accept: %s", error)
                await anyio.sleep(_ACCEPT_PAUSE)
                continue
            free.acquire_nowait()
            tasks.start_soon(_talk, client, commands, reports, free)


async def _talk(
    client: socket.socket,
    commands: Mapping[str, Command],
    reports: Mapping[str, Report],
    free: anyio.Semaphore,
) -> None:
    try:
        with client, contextlib.suppress(OSError):
            if peer_uid(client) not in (0, os.geteuid()):
                return
            rest = b""
            while True:
                with anyio.move_on_after(_PATIENCE) as patience:
                    line, rest = await _read_line(client, rest)
                if patience.cancelled_caught or not line:
                    return
                answer = await _answer(line, commands, reports)
                if not isinstance(answer, dict):
                    await _stream(client, answer)
                    continue
                # Whoever asked for our end is still to hear of it.
                with anyio.move_on_after(_PATIENCE, shield=True) as patience:
                    await asyncio.get_running_loop().sock_sendall(client, encode(answer))
                if patience.cancelled_caught:
                    return  # a part of it may be out
    finally:
        free.release()


async def _read_line(client: socket.socket, data: bytes) -> tuple[bytes, bytes]:
    """Return a line and what came behind it; an empty one if the client says no more."""
    while b"\n" not in data:
        more = await asyncio.get_running_loop().sock_recv(client, 4096)
        if not more or len(data) + len(more) > LONGEST:
            return b"", b""
        data += more
    line, _, rest = data.partition(b"\n")
    return line or b" ", rest


async def _answer(
    line: bytes, commands: Mapping[str, Command], reports: Mapping[str, Report]
) -> Json | AsyncGenerator[bytes, None]:
    try:
        request = decode(line)
    except ValueError as error:
        return {"error": f"the request is no JSON object on one line: {error}"}
    name = request.get("command")
    if not isinstance(name, str) or not (name in commands or name in reports):
        known = ", ".join((*commands, *reports))
        return {"error": f"no such command: {as_word(str(name))}; there are {known}"}
    try:
        if name in commands:
            return await commands[name]()
        try:
            return reports[name](request)
        except ValueError as error:
            return {"error": f"the command {name}: {error}"}
    except Exception as error:
        # Whatever goes wrong here is not to cost a client its transfer.
        _troubles.log(logging.ERROR, "a defect hit the command %s", name, error=error)
        return {"error": f"the command {name} failed; the log says more"}


async def _stream(client: socket.socket, pieces: AsyncGenerator[bytes, None]) -> None:
    """Write a report; raises OSError if the client does not get to its end."""
    loop = asyncio.get_running_loop()
    with anyio.move_on_after(_REPORT_PATIENCE):
        try:
            async with contextlib.aclosing(pieces):
                async for piece in pieces:
                    await loop.sock_sendall(client, piece)
            await loop.sock_sendall(client, b"\n")
        except OSError:
            raise
        except Exception as error:
            _troubles.log(logging.ERROR, "a defect hit a report", error=error)
        else:
            return
    raise ConnectionAbortedError("a report was not written to its end")
