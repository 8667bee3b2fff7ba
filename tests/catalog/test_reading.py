"""What was opened is what is sent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootserve.catalog.assets import Assets, Text

_BODY = bytes(range(256)) * 1024


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "initrd"
    path.write_bytes(_BODY)
    return path


async def test_a_file_replaced_while_open_goes_on_as_it_was(path: Path) -> None:
    assets = Assets([path.parent])
    with await assets.open("initrd") as old:
        tag, size = old.tag, old.size
        new_path = path.with_name("new")
        new_path.write_bytes(b"new")
        new_path.rename(path)
        assert await old.read(0, size) == _BODY
        assert (old.tag, old.size) == (tag, len(_BODY))
        with await assets.open("initrd") as new:
            assert await new.read(0, new.size) == b"new"
            assert new.tag != tag


async def test_a_file_deleted_while_open_goes_on_too(path: Path) -> None:
    with await Assets([path.parent]).open("initrd") as asset:
        os.unlink(path)
        assert await asset.read(0, asset.size) == _BODY


def test_the_tag_stays_while_the_file_does(path: Path) -> None:
    assets = Assets([path.parent])
    with assets.open_now("initrd") as one, assets.open_now("initrd") as two:
        assert one.tag == two.tag
        assert one.mtime_ns == path.stat().st_mtime_ns


def test_another_file_of_the_same_size_and_time_has_another_tag(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(bytes(reversed(_BODY)))
    os.utime(other, ns=(0, 0))
    os.utime(path, ns=(0, 0))
    assets = Assets([path.parent])
    with assets.open_now("initrd") as one, assets.open_now("other") as two:
        assert (one.size, one.mtime_ns) == (two.size, two.mtime_ns)
        assert one.tag != two.tag


def test_a_changed_file_has_another_tag(path: Path) -> None:
    assets = Assets([path.parent])
    with assets.open_now("initrd") as before:
        path.write_bytes(_BODY + b"more")
        with assets.open_now("initrd") as longer:
            os.utime(path, ns=(1, 1))
            with assets.open_now("initrd") as touched:
                assert len({before.tag, longer.tag, touched.tag}) == 3


async def test_reading_at_the_end_and_past_it(path: Path) -> None:
    with await Assets([path.parent]).open("initrd") as asset:
        assert await asset.read(asset.size - 3, 100) == _BODY[-3:]
        assert await asset.read(asset.size, 100) == b""
        assert await asset.read(asset.size + 10_000_000, 100) == b""
        assert await asset.read(7, 0) == b""


async def test_a_file_that_shrinks_gives_what_is_left(path: Path) -> None:
    with await Assets([path.parent]).open("initrd") as asset:
        os.truncate(path, 1000)
        assert await asset.read(0, len(_BODY)) == _BODY[:1000]
        assert await asset.read(990, 4096) == _BODY[990:1000]
        assert await asset.read(1000, 4096) == b""
        assert await asset.read(5000, 4096) == b""
        assert asset.size == len(_BODY)


@given(offset=st.integers(0, len(_BODY) + 5000), size=st.integers(0, 70_000))
def test_what_can_be_had_without_waiting_is_never_wrong(
    tmp_path_factory: pytest.TempPathFactory, offset: int, size: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "hot"
    if not path.exists():
        path.write_bytes(_BODY)
    with Assets([path.parent]).open_now("hot") as asset:
        found = asset.read_now(offset, size)
    assert found is None or found == _BODY[offset : offset + size]


def test_a_hot_file_is_had_without_waiting(path: Path) -> None:
    with path.open("rb") as file:
        try:
            os.preadv(file.fileno(), [bytearray(1)], 0, os.RWF_NOWAIT)
        except OSError as error:
            pytest.skip(f"this file system cannot tell what it has in memory: {error.strerror}")
    # Just written and read: its pages are in the cache.
    path.read_bytes()
    with Assets([path.parent]).open_now("initrd") as asset:
        assert asset.read_now(100, 200) == _BODY[100:300]
        assert asset.read_now(asset.size - 1, 200) == _BODY[-1:]
        assert asset.read_now(asset.size, 200) == b""


async def test_a_file_system_that_cannot_tell_is_read_all_the_same(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "preadv", refuse)
    with await Assets([path.parent]).open("initrd") as asset:
        assert asset.read_now(0, 10) is None
        assert await asset.read(10, 50_000) == _BODY[10:50_010]


async def test_a_cold_file_is_read_all_the_same(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cold(*_: object) -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "preadv", cold)
    with await Assets([path.parent]).open("initrd") as asset:
        assert await asset.read(0, asset.size) == _BODY


async def test_only_half_in_memory_is_not_the_end(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.preadv

    def short(fd: int, buffers: list[bytearray], offset: int, flags: int) -> int:
        half = bytearray(len(buffers[0]) // 2)
        count = real(fd, [half], offset, 0)
        buffers[0][:count] = half[:count]
        return count

    monkeypatch.setattr(os, "preadv", short)
    with await Assets([path.parent]).open("initrd") as asset:
        assert await asset.read(5, 1000) == _BODY[5:1005]


async def test_a_text_is_a_source_like_a_file() -> None:
    text = Text("boot.ipxe", b"#!ipxe\n")
    assert text.size == 7
    assert text.read_now(0, 6) == b"#!ipxe"
    assert await text.read(2, 100) == b"ipxe\n"
    assert await text.read(7, 100) == b""
    assert text.read_now(100, 1) == b""
    text.close()
    assert await text.read(0, 1) == b"#"
