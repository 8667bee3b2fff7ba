from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from bootserve.catalog.assets import Assets
from bootserve.catalog.entries import Profile
from bootserve.catalog.model import Arch
from bootserve.catalog.profiles import discover, kernels


def _profile(**tree: Any) -> Profile:
    return Profile.model_validate(tree)


def _discovered(root: Path, *names: str) -> dict[str, tuple[str, ...] | None]:
    """Lay files out; what was found, each with its initrds (``None`` for a script)."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    result: dict[str, tuple[str, ...] | None] = {}
    for found in discover(Assets([root])):
        assert found.name not in result
        if found.profile is None:
            result[found.name] = None
        else:
            (kernel,) = kernels(found.profile)
            assert (kernel.kernel, kernel.arch) == (found.name, found.arch)
            result[found.name] = kernel.initrds
    return result


def test_a_kernel_of_one_architecture_is_told_by_its_folder() -> None:
    (kernel,) = kernels(_profile(kernel="/i386/vmlinuz", initrds=["i386/a", "i386/b"]))
    assert kernel.arch is Arch.I386
    assert kernel.kernel == "i386/vmlinuz"
    assert kernel.initrds == ("i386/a", "i386/b")
    assert kernel.cmdline == ""


def test_arch_stands_for_the_architecture_and_ipxes_own_is_left_alone() -> None:
    profile = _profile(
        architectures=["x86_64", "arm64"],
        kernel="{arch}/vmlinuz-{arch}",
        initrds=["common/initrd", "{arch}/initrd"],
        cmdline="a={arch} b=${arch} c=$${arch} {x}",
    )
    one, two = kernels(profile)
    assert one.kernel == "x86_64/vmlinuz-x86_64"
    assert one.initrds == ("common/initrd", "x86_64/initrd")
    assert one.cmdline == "a=x86_64 b=${arch} c=$${arch} {x}"
    assert two.kernel == "arm64/vmlinuz-arm64"
    assert two.cmdline == "a=arm64 b=${arch} c=$${arch} {x}"


def test_tables_by_architecture() -> None:
    profile = _profile(
        kernel={"x86_64": "x86_64/linux", "i386": "i386/linux686"},
        initrds={"x86_64": ["x86_64/a", "x86_64/b"], "i386": []},
        cmdline={"x86_64": "sixty-four", "i386": "thirty-two"},
    )
    one, two = kernels(profile, "more={arch}")
    assert (one.arch, one.kernel, one.initrds) == (
        Arch.X86_64,
        "x86_64/linux",
        ("x86_64/a", "x86_64/b"),
    )
    assert one.cmdline == "sixty-four more=x86_64"
    assert (two.arch, two.kernel, two.initrds) == (Arch.I386, "i386/linux686", ())
    assert two.cmdline == "thirty-two more=i386"


@pytest.mark.parametrize("folder", ["x86_64", "boot/x86_64"])
def test_a_path_as_in_a_url_is_the_same_asset(tmp_path: Path, folder: str) -> None:
    """``boot/`` in front may be left out, and may be a folder of the operator's own as well."""
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "k").write_text("kernel")
    (kernel,) = kernels(_profile(kernel="/boot/x86_64/k"))
    assert kernel.arch == Arch.X86_64
    with Assets([tmp_path]).open_now(kernel.kernel) as asset:
        assert asset.read_blocking(10) == b"kernel"


def test_a_raw_script_has_no_kernels() -> None:
    profile = _profile(script="#!ipxe\nshell\n")
    assert kernels(profile) == ()
    assert set(profile.arches()) == set(Arch)


@pytest.mark.parametrize(
    "kernel", ["vmlinuz", "vmlinux", "linux", "kernel", "bzImage", "Image", "vmlinuz.efi"]
)
def test_names_of_kernels_and_their_only_initrd(tmp_path: Path, kernel: str) -> None:
    assert _discovered(tmp_path, f"x86_64/{kernel}", "x86_64/initramfs") == {
        f"x86_64/{kernel}": ("x86_64/initramfs",)
    }


def test_what_lies_about_is_no_kernel(tmp_path: Path) -> None:
    assert (
        _discovered(
            tmp_path,
            "vmlinuz",
            "amd64/vmlinuz",
            "x86_64/vmlinuz.cmdline",
            "x86_64/vmlinuz.sha256",
            "x86_64/vmlinuz.sig",
            "x86_64/config-6.1.0",
            "x86_64/System.map-6.1.0",
            "x86_64/linux26.txt",
            "x86_64/initrd.img",
            "x86_64/kernels/README",
        )
        == {}
    )


def test_several_versions_go_with_their_own_initrds(tmp_path: Path) -> None:
    assert _discovered(
        tmp_path,
        "x86_64/vmlinuz-6.1.0-9-amd64",
        "x86_64/vmlinuz-6.1.0-10-amd64",
        "x86_64/initrd.img-6.1.0-9-amd64",
        "x86_64/initrd.img-6.1.0-10-amd64",
    ) == {
        "x86_64/vmlinuz-6.1.0-9-amd64": ("x86_64/initrd.img-6.1.0-9-amd64",),
        "x86_64/vmlinuz-6.1.0-10-amd64": ("x86_64/initrd.img-6.1.0-10-amd64",),
    }


def test_fedoras_names(tmp_path: Path) -> None:
    assert _discovered(
        tmp_path,
        "x86_64/vmlinuz-6.5.6-300.fc39.x86_64",
        "x86_64/vmlinuz-6.6.2-201.fc39.x86_64",
        "x86_64/initramfs-6.5.6-300.fc39.x86_64.img",
        "x86_64/initramfs-6.6.2-201.fc39.x86_64.img",
    ) == {
        "x86_64/vmlinuz-6.5.6-300.fc39.x86_64": ("x86_64/initramfs-6.5.6-300.fc39.x86_64.img",),
        "x86_64/vmlinuz-6.6.2-201.fc39.x86_64": ("x86_64/initramfs-6.6.2-201.fc39.x86_64.img",),
    }


def test_a_version_that_begins_like_another_is_another(tmp_path: Path) -> None:
    # A kernel with the modules of another version finds no disk; without an initrd it says so.
    assert _discovered(
        tmp_path,
        "x86_64/vmlinuz-6.1",
        "x86_64/vmlinuz-6.10",
        "x86_64/initrd-6.10.img",
        "x86_64/initrd-6.11.img",
    ) == {"x86_64/vmlinuz-6.1": (), "x86_64/vmlinuz-6.10": ("x86_64/initrd-6.10.img",)}


def test_a_kernel_without_a_version_takes_the_initrd_without_one(tmp_path: Path) -> None:
    assert _discovered(
        tmp_path, "x86_64/vmlinuz", "x86_64/initrd.img", "x86_64/initrd.img-6.1.0"
    ) == {"x86_64/vmlinuz": ("x86_64/initrd.img",)}


def test_an_initrd_of_another_folder_or_architecture_is_nobodys(tmp_path: Path) -> None:
    assert _discovered(
        tmp_path, "x86_64/vmlinuz", "x86_64/other/initrd.img", "i386/linux", "arm64/initrd"
    ) == {"x86_64/vmlinuz": (), "i386/linux": ()}


def test_kernels_in_folders_scripts_and_several_roots(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    _discovered(one, "x86_64/debian/12/vmlinuz", "i386/memtest.ipxe")
    _discovered(two, "x86_64/debian/12/initrd.gz", "arm64/Image", "x86_64/a/b/c/d/vmlinuz")
    found = discover(Assets([one, two]))
    assert {item.name for item in found} == {
        "x86_64/debian/12/vmlinuz",
        "i386/memtest.ipxe",
        "arm64/Image",
    }
    (debian,) = (item.profile for item in found if item.name.startswith("x86_64"))
    assert debian is not None
    assert debian.initrds == ("x86_64/debian/12/initrd.gz",)


def _command_line(root: Path, **files: bytes) -> str:
    _discovered(root, "x86_64/vmlinuz", "x86_64/linux")
    for name, content in files.items():
        (root / "x86_64" / name.replace("_", ".")).write_bytes(content)
    for found in discover(Assets([root])):
        if found.name == "x86_64/vmlinuz" and found.profile:
            return kernels(found.profile)[0].cmdline
    raise AssertionError


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"quiet splash", "quiet splash"),
        (b"quiet\nsplash\n", "quiet splash"),
        (b"quiet\r\nsplash\r\n", "quiet splash"),
        (b"", ""),
    ],
)
def test_a_command_line_beside_the_kernel(tmp_path: Path, content: bytes, expected: str) -> None:
    assert _command_line(tmp_path, cmdline=content) == expected


def test_a_kernels_own_command_line_wins(tmp_path: Path) -> None:
    assert _command_line(tmp_path, cmdline=b"all", vmlinuz_cmdline=b"mine") == "mine"
    assert _command_line(tmp_path, cmdline=b"all", linux_cmdline=b"its", vmlinuz_cmdline=b"") == ""


def test_a_command_line_that_is_none_does_not_keep_the_kernel_from_the_menu(
    tmp_path: Path,
) -> None:
    assert _command_line(tmp_path, cmdline=b"\x1b[2J\0\xff") == ""


def test_a_link_to_the_generation_of_today(tmp_path: Path) -> None:
    _discovered(tmp_path, "x86_64/2026-11-20/vmlinuz", "x86_64/2026-11-20/initrd.img")
    (tmp_path / "x86_64/current").symlink_to("2026-11-20")
    assert _discovered(tmp_path)["x86_64/current/vmlinuz"] == ("x86_64/current/initrd.img",)


def test_a_kernel_that_leads_out_of_the_root_is_not_offered(tmp_path: Path) -> None:
    (tmp_path / "vmlinuz").write_bytes(b"x")
    root = tmp_path / "root"
    (root / "x86_64").mkdir(parents=True)
    (root / "x86_64/vmlinuz").symlink_to("../../vmlinuz")
    os.mkfifo(root / "x86_64/linux")
    assert _discovered(root) == {}
