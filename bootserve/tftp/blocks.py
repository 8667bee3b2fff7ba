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

from bootserve.catalog.assets import Asset, Source
from bootserve.tftp.packet import Opcode

HEADER: Final = 4

PIECE: Final = 64 * 1024
"""Bytes of a piece: a read of the page cache for each datagram would cost as much as sending it."""

BUDGET: Final = 64 * 1024 * 1024
"""Bytes of all pieces, if no two transfers share one. Where there are so many transfers that it
would be exceeded, pieces are smaller."""

SHORTER: Final = "the file became shorter while it was sent"

_NUMBERS: Final = struct.pack("!65536H", *range(65536))

_MOST_BUFFERS: Final = 1024
"""IOV_MAX, see readv(2)."""


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

    def framed(self, first: int) -> bytearray:
        """The piece that begins with block ``first``, with room for the blocks."""
        size = _extent(self, first)[1]
        number = min(self.per_piece, size // self.blksize + 1)
        stride = self.stride
        packets = bytearray(number * stride)
        wire = (first - self.rollover) % (65536 - self.rollover) + self.rollover
        numbers = _NUMBERS[2 * wire : 2 * (wire + number)]
        if len(numbers) < 2 * number:  # they roll over in here
            begin = 2 * self.rollover
            numbers += _NUMBERS[begin : begin + 2 * number - len(numbers)]
        packets[1::stride] = bytes((Opcode.DATA,)) * number
        packets[2::stride] = numbers[::2]
        packets[3::stride] = numbers[1::2]
        del packets[number * HEADER + size :]
        return packets


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
        packets = layout.framed(first)
        if not self._fill_at_once(source, layout, first, packets):
            return None
        return self._keep(source, layout, first, packets)

    def _fill_at_once(self, source: Source, layout: Layout, first: int, packets: bytearray) -> bool:
        offset, size = _extent(layout, first)
        if not size:
            return True
        stride = layout.stride
        if isinstance(source, Asset) and len(packets) <= stride * _MOST_BUFFERS:
            room = memoryview(packets)
            # The kernel puts each block where it belongs.
            blocks = [room[at + HEADER : at + stride] for at in range(0, len(packets), stride)]
            return source.read_into_now(blocks, offset, size)
        found = source.read_now(offset, size)
        if found is None:
            return False
        _fill(layout, packets, found)
        return True

    async def load(self, source: Source, layout: Layout, block: int) -> Piece:
        """Return the piece that holds ``block``, however long its medium takes.

        Raises:
            OSError: as `at_once`.
        """
        first = _first_of_piece(layout, block)
        packets = layout.framed(first)
        _fill(layout, packets, await source.read(*_extent(layout, first)))
        return self._keep(source, layout, first, packets)

    def _keep(self, source: Source, layout: Layout, first: int, packets: bytearray) -> Piece:
        end = first + -(-len(packets) // layout.stride)
        piece = Piece(first, end, memoryview(packets).toreadonly())
        if source.identity is not None:
            self._held[source.identity, layout, first] = piece
        return piece


def _first_of_piece(layout: Layout, block: int) -> int:
    return block - (block - 1) % layout.per_piece


def _extent(layout: Layout, first: int) -> tuple[int, int]:
    offset = (first - 1) * layout.blksize
    return offset, min(layout.per_piece * layout.blksize, layout.size - offset)


def _fill(layout: Layout, packets: bytearray, found: bytes) -> None:
    blksize, stride = layout.blksize, layout.stride
    if len(found) < len(packets) - -(-len(packets) // stride) * HEADER:
        raise OSError(SHORTER)
    for index, at in enumerate(range(0, len(packets), stride)):
        packets[at + HEADER : at + stride] = found[index * blksize : (index + 1) * blksize]
