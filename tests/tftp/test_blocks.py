"""A source's bytes as packets: exact, shared, and bounded in memory."""

from __future__ import annotations

import gc
import os
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootserve.catalog.assets import Assets, Text
from bootserve.tftp.blocks import BUDGET, HEADER, PIECE, Layout, Pieces, per_piece
from bootserve.tftp.options import MAX_WINDOW_BYTES

from .harness import Body


def by_the_rfc(content: bytes, blksize: int, rollover: int) -> list[bytes]:
    """Every DATA packet, as RFC 1350 has it; the number after 65535 is ``rollover``."""
    packets = []
    number = 1
    for offset in range(0, len(content) + 1, blksize):
        packets.append(b"\0\3" + number.to_bytes(2) + content[offset : offset + blksize])
        number = number + 1 if number < 65535 else rollover
    return packets


@given(
    st.integers(0, 300), st.integers(8, 40), st.integers(1, 9), st.sampled_from([0, 1]), st.data()
)
def test_every_piece_is_the_packets_of_the_rfc(
    size: int, blksize: int, blocks: int, rollover: int, data: st.DataObject
) -> None:
    content = random.Random(size).randbytes(size)
    expected = by_the_rfc(content, blksize, rollover)
    layout = Layout(size, blksize, blocks, rollover)
    assert layout.last == len(expected)
    block = data.draw(st.integers(1, layout.last))
    piece = Pieces().at_once(Text("f", content), layout, block)
    assert piece is not None
    assert piece.first <= block < piece.end
    assert bytes(piece.packets) == b"".join(expected[piece.first - 1 : piece.end - 1])


@pytest.mark.parametrize("rollover", [0, 1])
@pytest.mark.parametrize(("blksize", "blocks"), [(8, 5000), (8, 7), (512, 127), (1468, 44)])
def test_a_file_is_read_into_its_packets(
    tmp_path: Path, blksize: int, blocks: int, rollover: int
) -> None:
    content = random.Random(blksize).randbytes(600_001)
    (tmp_path / "f").write_bytes(content)
    expected = by_the_rfc(content, blksize, rollover)
    layout = Layout(len(content), blksize, blocks, rollover)
    with Assets([tmp_path]).open_now("f") as asset:
        asset.read_blocking(len(content))
        block = 1
        while block <= layout.last:
            piece = Pieces().at_once(asset, layout, block)
            assert piece is not None
            assert bytes(piece.packets) == b"".join(expected[piece.first - 1 : piece.end - 1])
            block = piece.end
        os.truncate(tmp_path / "f", 1000)
        with pytest.raises(OSError, match="shorter"):
            Pieces().at_once(asset, layout, layout.last)


@pytest.mark.parametrize("rollover", [0, 1])
def test_numbers_roll_over_twice(rollover: int) -> None:
    content = bytes(8 * 131_080)
    layout = Layout(len(content), 8, 40, rollover)
    pieces, source = Pieces(), Text("f", content)
    found = bytearray()
    block = 1
    while block <= layout.last:
        piece = pieces.at_once(source, layout, block)
        assert piece is not None
        found += piece.packets
        block = piece.end
    assert found == b"".join(by_the_rfc(content, 8, rollover))


async def test_transfers_at_the_same_place_have_one_piece_and_one_reading() -> None:
    layout = Layout(100_000, 512, 16)
    pieces = Pieces()
    sources = [Body("f", bytes(100_000), is_cold=True) for _ in range(3)]
    for source in sources:
        source.identity = "the same file"
    loaded = await pieces.load(sources[0], layout, 20)
    assert pieces.at_once(sources[1], layout, 17) is loaded
    assert pieces.at_once(sources[2], layout, 32) is loaded
    assert pieces.at_once(sources[2], layout, 33) is None
    assert pieces.at_once(sources[2], Layout(100_000, 512, 16, rollover=1), 17) is None
    # Nothing but those who send it keeps it.
    del loaded
    gc.collect()
    assert pieces.at_once(sources[1], layout, 17) is None


def test_other_files_and_unknown_ones_share_nothing() -> None:
    layout = Layout(8, 8, 4)
    pieces = Pieces()
    kept = []
    for body, identity in [(b"version1", "1"), (b"version2", "2"), (b"unknown1", None)] * 2:
        source = Body("f", body)
        source.identity = identity
        piece = pieces.at_once(source, layout, 1)
        assert piece is not None
        assert bytes(piece.packets[HEADER : HEADER + 8]) == body
        kept.append(piece)
    assert kept[0] is kept[3]
    assert kept[2] is not kept[5]


async def test_a_file_that_became_shorter_is_noticed() -> None:
    short = Body("f", bytes(100), claims=200)
    with pytest.raises(OSError, match="became shorter"):
        Pieces().at_once(short, Layout(200, 8, 100), 1)
    with pytest.raises(OSError, match="became shorter"):
        await Pieces().load(short, Layout(200, 8, 100), 1)


@given(st.integers(8, 65464), st.integers(1, 64), st.integers(0, 65536))
def test_pieces_are_bounded_and_hold_whole_windows(
    blksize: int, windowsize: int, transfers: int
) -> None:
    windowsize = max(1, min(windowsize, MAX_WINDOW_BYTES // blksize))
    blocks = per_piece(blksize, windowsize, transfers)
    stride = blksize + HEADER
    assert blocks >= 1
    if blocks > 1:
        assert blocks * stride <= PIECE
        assert blocks * stride * max(transfers, 1) <= BUDGET
        assert blocks % windowsize == 0 or blocks < windowsize
