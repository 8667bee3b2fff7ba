"""A source's bytes as the packets that they go out as, several at a time and shared.

A piece is a run of DATA packets, one behind the other in memory, so that the kernel can be handed a
whole window of them in one system call. Its content depends on nothing but the file, the block size
and how block numbers roll over: all transfers that are at the same place of the same file have one
piece in common. Nothing but those transfers keeps it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final
from weakref import WeakValueDictionary

from bootserve.catalog.assets import Source
from bootserve.tftp.packet import Opcode

HEADER: Final = 4

PIECE: Final = 64 * 1024
"""Bytes of a piece: a read of the page cache for each datagram would cost as much as sending it."""

BUDGET: Final = 64 * 1024 * 1024
"""Bytes of all pieces, if no two transfers share one. Where there are so many transfers that it
would be exceeded, pieces are smaller."""

SHORTER: Final = "the file became shorter while it was sent"

_OPCODE: Final = Opcode.DATA << 16


@dataclass(frozen=True, slots=True)
class Layout:
    """How a transfer cuts its source: bytes in all and per block, blocks per piece, roll-over."""

    size: int
    blksize: int
    per_piece: int
    rollover: int = 0

    @property
    def stride(self) -> int:
        """Bytes of a full packet."""
        return self.blksize + HEADER

    @property
    def last(self) -> int:
        """The last block: shorter than the others, if need be empty."""
        return self.size // self.blksize + 1

    def headers(self, first: int, end: int) -> bytes:
        """The headers of DATA ``first`` to ``end`` (exclusive, counted without roll-over)."""
        rollover = self.rollover
        modulus = 65536 - rollover
        numbers = ((block - rollover) % modulus + rollover for block in range(first, end))
        return struct.pack(f"!{end - first}I", *(_OPCODE + number for number in numbers))


@dataclass(slots=True, weakref_slot=True, eq=False)
class Piece:
    """The packets of blocks ``first`` to ``end`` (exclusive)."""

    first: int
    end: int
    packets: memoryview


def per_piece(blksize: int, windowsize: int, transfers: int) -> int:
    """How many blocks make a piece, so that windows end where pieces do.

    Args:
        transfers: how many there are.
    """
    stride = blksize + HEADER
    window = windowsize * stride
    affordable = min(PIECE, BUDGET // max(transfers, 1))
    if window <= affordable:
        return affordable // window * windowsize
    return max(1, affordable // stride)


class Pieces:
    """All pieces that transfers hold at present."""

    def __init__(self) -> None:
        self._held: WeakValueDictionary[tuple[object, Layout, int], Piece] = WeakValueDictionary()

    def at_once(self, source: Source, layout: Layout, block: int) -> Piece | None:
        """Return the piece that holds ``block`` if that takes no disk, else ``None``.

        Raises:
            OSError: the medium failed, or the file is not what it was.
        """
        first = _first_of_piece(layout, block)
        held = self._held.get((source.identity, layout, first))
        if held is not None:
            return held
        offset, size = _extent(layout, first)
        found = source.read_now(offset, size) if size else b""
        return None if found is None else self._keep(source, layout, first, found)

    async def load(self, source: Source, layout: Layout, block: int) -> Piece:
        """Return the piece that holds ``block``, however long its medium takes.

        Raises:
            OSError: as `at_once`.
        """
        first = _first_of_piece(layout, block)
        found = await source.read(*_extent(layout, first))
        return self._keep(source, layout, first, found)

    def _keep(self, source: Source, layout: Layout, first: int, found: bytes) -> Piece:
        piece = _cut(layout, first, found)
        if source.identity is not None:
            self._held[source.identity, layout, first] = piece
        return piece


def _first_of_piece(layout: Layout, block: int) -> int:
    return block - (block - 1) % layout.per_piece


def _extent(layout: Layout, first: int) -> tuple[int, int]:
    offset = (first - 1) * layout.blksize
    return offset, min(layout.per_piece * layout.blksize, layout.size - offset)


def _cut(layout: Layout, first: int, found: bytes) -> Piece:
    blksize = layout.blksize
    if len(found) < _extent(layout, first)[1]:
        raise OSError(SHORTER)
    end = first + min(layout.per_piece, len(found) // blksize + 1)
    headers = layout.headers(first, end)
    parts = []
    for index in range(end - first):
        parts.append(headers[index * HEADER : (index + 1) * HEADER])
        parts.append(found[index * blksize : (index + 1) * blksize])
    return Piece(first, end, memoryview(b"".join(parts)))
