"""Mode netascii (RFC 1350, section 1; RFC 764): text whose line ends are CR LF on the wire."""

from __future__ import annotations

import anyio.lowlevel

from bootserve.catalog.assets import READ_SIZE, Source

LARGEST = 16 * 1024 * 1024
"""Bytes of the largest text that is converted. Nothing that boots is asked for in netascii; who
does ask so for a kernel has forgotten to say ``binary``, and would get it damaged."""

MOST = 4 * LARGEST
"""Bytes of all texts held in converted form at one time, counted before their conversion."""


class NetasciiRefused(Exception):
    """The text cannot be converted; ``str()`` is a sentence for the client."""


def encode(text: bytes) -> bytes:
    """Return ``text`` as it goes over the wire: LF as CR LF, CR as CR NUL.

    A CR LF in the text becomes CR NUL CR LF, which a client undoes to CR LF: whatever the text's
    own line ends are, the client stores the bytes that we have. (Passing CR LF on as a line end
    would leave it to a Unix client to drop the CR.)
    """
    return text.replace(b"\r", b"\r\0").replace(b"\n", b"\r\n")


class NetasciiTexts:
    """Makes sources of converted text, and bounds the memory they take."""

    def __init__(self, *, largest: int = LARGEST, most: int = MOST) -> None:
        self._largest = largest
        self._most = most
        self._held = 0

    async def convert(self, source: Source) -> Source:
        """Return a converted copy of ``source``, which is closed in any case.

        Raises:
            NetasciiRefused: it is too large, or too many others are in memory.
            OSError: it could not be read.
        """
        try:
            size = source.size
            if size > self._largest:
                limit = self._largest // 1024
                raise NetasciiRefused(f"over {limit} KiB there is no netascii: use octet mode")
            if self._held + size > self._most:
                raise NetasciiRefused("too many netascii transfers at once: use octet mode")
            self._held += size
            try:
                body = await _converted(source, size)
                if source.has_changed():
                    raise OSError("the file was changed while it was read")
            except BaseException:
                self._held -= size
                raise
            return _Converted(self, source.name, body, size)
        finally:
            source.close()

    def release(self, size: int) -> None:
        self._held -= size


async def _converted(source: Source, size: int) -> bytearray:
    """Return the text as it goes over the wire; part by part, for others wait for their turns.

    A thread would not help them: it holds the interpreter for as long as all of the text takes.
    """
    body = bytearray()
    for offset in range(0, size, READ_SIZE):
        body += encode(await source.read(offset, min(READ_SIZE, size - offset)))
        await anyio.lowlevel.checkpoint()
    return body


class _Converted:
    """A converted text; gives its memory's share back when it is closed."""

    def __init__(self, pool: NetasciiTexts, name: str, body: bytearray, held: int) -> None:
        self.name = name
        self.size = len(body)
        self._pool = pool
        self._body = body
        self._held = held

    @property
    def identity(self) -> None:
        return None

    def read_now(self, offset: int, size: int) -> bytes | None:
        return bytes(self._body[offset : offset + size])

    async def read(self, offset: int, size: int) -> bytes:
        return bytes(self._body[offset : offset + size])

    def has_changed(self) -> bool:
        return False

    def close(self) -> None:
        self._pool.release(self._held)
        self._held = 0
        self._body = bytearray()
