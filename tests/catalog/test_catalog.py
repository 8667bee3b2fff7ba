"""One name, whichever door it comes through."""

from __future__ import annotations

from pathlib import Path

import pytest

from bootserve.catalog.assets import AssetForbidden, AssetNotFound
from bootserve.catalog.catalog import Catalog
from bootserve.settings import load

_URL = "http://192.0.2.1:8080"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "i386").mkdir(parents=True)
    (root / "i386/initramfs").write_bytes(b"initramfs")
    return root


@pytest.fixture
def catalog(root: Path) -> Catalog:
    return Catalog(load(flags={"assets": {"roots": [root]}}))


async def _content(catalog: Catalog, name: str) -> bytes:
    source = await catalog.open(name, _URL)
    try:
        return await source.read(0, source.size)
    finally:
        source.close()


@pytest.mark.parametrize(
    "name",
    ["i386/initramfs", "/i386/initramfs", "boot/i386/initramfs", "/boot//i386/initramfs"],
)
async def test_boot_in_front_may_be_left_out(catalog: Catalog, name: str) -> None:
    assert await _content(catalog, name) == b"initramfs"


async def test_a_folder_of_ones_own_named_boot_is_served_too(catalog: Catalog, root: Path) -> None:
    (root / "boot").mkdir()
    (root / "boot/grub.cfg").write_bytes(b"grub")
    assert await _content(catalog, "/boot/grub.cfg") == b"grub"
    assert await _content(catalog, "boot/boot/grub.cfg") == b"grub"
    assert await _content(catalog, "boot/i386/initramfs") == b"initramfs"


@pytest.mark.parametrize(
    "name",
    [
        "boot.ipxe",
        "/boot.ipxe",
        "boot/boot.ipxe",
        "autoexec.ipxe",
        "/autoexec.ipxe",
        "boot/autoexec.ipxe",
        "x86_64/autoexec.ipxe",
    ],
)
async def test_the_entry_script(catalog: Catalog, name: str) -> None:
    body = await _content(catalog, name)
    assert body == catalog.scripts.entry(_URL).encode()
    assert body.startswith(b"#!ipxe\n")


async def test_a_script_of_ones_own_goes_before(catalog: Catalog, root: Path) -> None:
    (root / "autoexec.ipxe").write_bytes(b"#!ipxe\nshell\n")
    assert await _content(catalog, "autoexec.ipxe") == b"#!ipxe\nshell\n"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "boot",
        "boot/",
        "i386/boot.ipxe",
        "boot.ipxe/x",
        "boot/../i386/initramfs",
        "../boot.ipxe",
        "boot/boot/i386/initramfs",
        "autoexec.ipxe\0",
    ],
)
async def test_what_is_nothing(catalog: Catalog, name: str) -> None:
    with pytest.raises(AssetNotFound):
        await catalog.open(name, _URL)


async def test_a_script_that_leads_out_is_refused_and_not_replaced(
    catalog: Catalog, root: Path
) -> None:
    (root.parent / "secret").write_bytes(b"secret")
    (root / "autoexec.ipxe").symlink_to("../secret")
    with pytest.raises(AssetForbidden):
        await catalog.open("autoexec.ipxe", _URL)
