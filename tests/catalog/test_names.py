"""Names as firmware writes them find the file that is meant, and are told of."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bootserve.catalog.assets import AssetForbidden, AssetNotFound, Assets
from bootserve.catalog.catalog import Catalog
from bootserve.catalog.names import NameQuirk, architecture_of, spellings
from bootserve.catalog.other_case import open_in_other_case
from bootserve.settings import load

_URL = "http://192.0.2.1:8080"
SLASH, DOUBLED, BACK, CASE = (
    NameQuirk.LEADING_SLASH,
    NameQuirk.DOUBLED_SLASHES,
    NameQuirk.BACKSLASHES,
    NameQuirk.OTHER_CASE,
)


def _fill(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def _catalog(*roots: Path, **tftp: Any) -> Catalog:
    return Catalog(load(flags={"assets": {"roots": list(roots)}, "tftp": tftp}))


async def _ask(catalog: Catalog, name: str) -> tuple[str, list[NameQuirk]]:
    """What the file says that is found, which is its own name, and what was noted."""
    noted: list[NameQuirk] = []
    source = await catalog.open_for_firmware(name, _URL, client="192.0.2.9", note=noted.append)
    try:
        return (await source.read(0, source.size)).decode(), noted
    finally:
        source.close()


@pytest.mark.parametrize(
    ("name", "quirks"),
    [
        ("EFI/boot/x.efi", []),
        ("boot/EFI/boot/x.efi", []),
        ("./EFI/boot/x.efi", []),
        ("/EFI/boot/x.efi", [SLASH]),
        ("EFI//boot/x.efi", [DOUBLED]),
        ("//EFI/boot///x.efi", [SLASH, DOUBLED]),
        ("\\EFI\\boot\\x.efi", [BACK, SLASH]),
        ("EFI\\boot\\x.efi", [BACK]),
        ("EFI\\boot/x.efi", [BACK]),
        ("EFI\\\\boot\\x.efi", [BACK, DOUBLED]),
        ("boot\\EFI\\boot\\x.efi", [BACK]),
    ],
)
async def test_slashes(tmp_path: Path, name: str, quirks: list[NameQuirk]) -> None:
    catalog = _catalog(_fill(tmp_path, "EFI/boot/x.efi"))
    assert await _ask(catalog, name) == ("EFI/boot/x.efi", quirks)


async def test_a_backslash_may_be_part_of_a_name(tmp_path: Path) -> None:
    catalog = _catalog(_fill(tmp_path, "boot\\x", "boot/x", "boot/y"))
    assert await _ask(catalog, "boot\\x") == ("boot\\x", [])
    assert await _ask(catalog, "boot\\y") == ("boot/y", [BACK])


async def test_what_is_not_there_is_not_noted(tmp_path: Path) -> None:
    noted: list[NameQuirk] = []
    for catalog in (_catalog(tmp_path), _catalog(tmp_path, ignore_case=True)):
        for name in ("/x", "\\x\\\\y", "", "\\", "X", "..\\..\\etc\\passwd"):
            with pytest.raises(AssetNotFound):
                await catalog.open_for_firmware(name, _URL, client="::1", note=noted.append)
    assert noted == []


async def test_the_entry_script_by_a_name_with_backslashes(tmp_path: Path) -> None:
    text, noted = await _ask(_catalog(tmp_path), "efi\\autoexec.ipxe")
    assert text.startswith("#!ipxe")
    assert noted == [BACK]


async def test_case_counts_unless_the_settings_say_otherwise(tmp_path: Path) -> None:
    _fill(tmp_path, "x86_64/vmlinuz")
    with pytest.raises(AssetNotFound):
        await _ask(_catalog(tmp_path), "X86_64/VMLINUZ")
    catalog = _catalog(tmp_path, ignore_case=True)
    assert await _ask(catalog, "X86_64/VMLINUZ") == ("x86_64/vmlinuz", [CASE])
    assert await _ask(catalog, "x86_64/vmlinuz") == ("x86_64/vmlinuz", [])
    assert await _ask(catalog, "\\BOOT\\X86_64\\VmLinuz") == (
        "x86_64/vmlinuz",
        [BACK, SLASH, CASE],
    )


async def test_over_http_case_counts_always(tmp_path: Path) -> None:
    catalog = _catalog(_fill(tmp_path, "x"), ignore_case=True)
    with pytest.raises(AssetNotFound):
        await catalog.open("X", _URL)


async def test_files_from_outside_the_roots_are_found_in_another_case(tmp_path: Path) -> None:
    _fill(tmp_path, "undionly.kpxe")
    (tmp_path / "root").mkdir()
    settings = load(
        flags={
            "assets": {"roots": [tmp_path / "root"]},
            "ipxe": {"search": [tmp_path]},
            "tftp": {"ignore_case": True},
        }
    )
    assert await _ask(Catalog(settings), "/UNDIONLY.KPXE") == ("undionly.kpxe", [SLASH, CASE])


def _found(name: str, *roots: Path) -> str:
    with open_in_other_case(Assets(roots), name) as asset:
        return asset.read_blocking(100).decode()


def test_of_several_the_name_as_written_goes_first_then_the_first_in_order(tmp_path: Path) -> None:
    _fill(tmp_path, "a/File", "A/file", "A/FILE", "A/only", "b/x", "b/X")
    assert _found("a/FILE", tmp_path) == "a/File"
    assert _found("A/FILe", tmp_path) == "A/FILE"
    assert _found("A/file", tmp_path) == "A/file"
    # Where the folder as written leads nowhere, the others are searched.
    assert _found("a/ONLY", tmp_path) == "A/only"
    assert _found("B/x", tmp_path) == "b/x"


def test_a_root_is_searched_before_the_next_one(tmp_path: Path) -> None:
    one = _fill(tmp_path / "1", "dir/b")
    two = _fill(tmp_path / "2", "Dir/A", "Dir/B")
    assert _found("DIR/B", one, two) == "dir/b"
    assert _found("DIR/a", one, two) == "Dir/A"


def test_a_folder_is_no_file_in_whatever_case(tmp_path: Path) -> None:
    _fill(tmp_path, "a/Name/x", "A/name")
    assert _found("a/name", tmp_path) == "A/name"
    with pytest.raises(AssetNotFound):
        _found("a/NAME/y", tmp_path)


def test_links_in_another_case_lead_no_further_than_others(tmp_path: Path) -> None:
    root = _fill(tmp_path / "root", "real/x")
    _fill(tmp_path, "secret/x")
    (root / "Inside").symlink_to("real")
    (root / "Outside").symlink_to("../secret")
    (root / "Secret").symlink_to("../secret/x")
    assert _found("INSIDE/X", root) == "real/x"
    with pytest.raises(AssetNotFound):
        _found("OUTSIDE/X", root)
    with pytest.raises(AssetForbidden):
        _found("SECRET", root)


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    for name in ("a", "A"):
        (tmp_path / name).symlink_to(".")
    with pytest.raises(AssetNotFound):
        _found("/".join(["a"] * 60 + ["x"]), tmp_path)


def test_a_folder_that_may_not_be_read_is_passed_over(tmp_path: Path) -> None:
    root = _fill(tmp_path, "dir/x")
    assert _found("DIR/X", tmp_path / "nowhere", root) == "dir/x"


_PARTS = st.lists(
    st.sampled_from(["a", "A", "b", "..", ".", "", "dir", "DIR", "\u00df", "SS", "\udcff", "\0"]),
    max_size=5,
)


@given(_PARTS)
@example(["..", "A", "b"])
def test_no_name_in_another_case_leads_out(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str]
) -> None:
    base = tmp_path_factory.getbasetemp() / "out"
    root = _fill(base / "root", "a/b", "dir/A/b", "\u00df")
    _fill(base, "b", "A/b")
    try:
        asset = open_in_other_case(Assets([root]), "/".join(parts))
    except AssetNotFound:
        return
    with asset:
        assert Path(os.path.realpath(f"/proc/self/fd/{asset.fileno()}")).is_relative_to(root)


@given(st.text("ab/\\. "))
def test_slashes_mean_the_same_whichever_way_they_lean(name: str) -> None:
    first, *rest = spellings(name)
    assert first.name == name
    turned = spellings(name.replace("\\", "/"))
    assert len(turned) == 1
    assert [spelling.name for spelling in rest] == ([turned[0].name] if "\\" in name else [])
    for spelling in rest:
        assert spelling.quirks == (BACK, *turned[0].quirks)


async def test_the_event_loop_does_not_wait_for_a_folder_to_be_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = _catalog(_fill(tmp_path, "x"), ignore_case=True)
    loop = asyncio.get_running_loop()
    answered = asyncio.Event()

    def listing_waits_for_the_loop(*arguments: Any) -> Any:
        asyncio.run_coroutine_threadsafe(_set(answered), loop).result(60)
        return scandir(*arguments)

    scandir = os.scandir
    monkeypatch.setattr("bootserve.catalog.other_case.os.scandir", listing_waits_for_the_loop)
    assert await _ask(catalog, "X") == ("x", [CASE])
    assert answered.is_set()


async def _set(event: asyncio.Event) -> None:
    event.set()


@pytest.mark.parametrize(
    ("name", "arch"),
    [
        ("x86_64/vmlinuz", "x86_64"),
        ("i386/initramfs", "i386"),
        ("debian-12/arm64/linux", "arm64"),
        ("alpine/aarch64/vmlinuz-lts", "arm64"),
        ("dists/main-i386/linux", "i386"),
        ("vmlinuz-6.1.0-50-amd64", "x86_64"),
        ("x86_64/snponly-arm64.efi", "arm64"),
        ("X86_64/VMLINUZ", "x86_64"),
        ("undionly.kpxe", "i386"),
        ("snponly.efi", "x86_64"),
        ("common/firmware.cpio", ""),
        ("x86_64ish/vmlinuz", ""),
        ("", ""),
    ],
)
def test_the_architecture_that_a_name_tells(name: str, arch: str) -> None:
    assert architecture_of(name) == arch
