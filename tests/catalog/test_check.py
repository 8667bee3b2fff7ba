from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bootserve.catalog.catalog import Catalog
from bootserve.catalog.check import asset_problems
from bootserve.settings import load
from tests.conftest import Unprivileged


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "assets"
    (root / "x86_64").mkdir(parents=True)
    for name in ("vmlinuz", "initrd", "more"):
        (root / "x86_64" / name).write_bytes(b"content")
    return root


def _problems(*roots: Path, **changes: Any) -> list[str]:
    profile = {"kernel": "x86_64/vmlinuz", "initrds": ["x86_64/initrd", "x86_64/more"], **changes}
    settings = load(flags={"assets": {"roots": roots}, "profiles": {"debian": profile}})
    return list(asset_problems(settings, Catalog(settings)))


def test_all_is_well(root: Path) -> None:
    assert _problems(root) == []


def test_missing_files_are_named_with_their_keys_and_where_to_put_them(root: Path) -> None:
    (root / "x86_64/vmlinuz").unlink()
    (root / "x86_64/more").unlink()
    kernel, initrd = _problems(root)
    assert kernel.startswith("profiles.debian.kernel (x86_64): x86_64/vmlinuz is missing")
    assert initrd.startswith("profiles.debian.initrds[1] (x86_64): x86_64/more is missing")
    assert str(root) in kernel


def test_every_architecture_is_checked(root: Path) -> None:
    (line,) = _problems(root, kernel="{arch}/vmlinuz", initrds=[], architectures=["x86_64", "i386"])
    assert line.startswith("profiles.debian.kernel (i386): i386/vmlinuz is missing")


def test_an_empty_file(root: Path) -> None:
    (root / "x86_64/initrd").write_bytes(b"")
    (line,) = _problems(root)
    assert line.startswith("profiles.debian.initrds[0] (x86_64): x86_64/initrd is empty")


def test_a_folder_is_no_kernel(root: Path) -> None:
    (line,) = _problems(root, kernel="x86_64")
    assert line.startswith("profiles.debian.kernel (x86_64): x86_64 ")


def test_a_link_that_leads_out(root: Path) -> None:
    (root / "x86_64/vmlinuz").unlink()
    (root.parent / "vmlinuz").write_bytes(b"content")
    (root / "x86_64/vmlinuz").symlink_to("../../vmlinuz")
    (line,) = _problems(root)
    assert line.startswith("profiles.debian.kernel (x86_64): x86_64/vmlinuz is a link")
    assert "out of its asset root" in line


def test_a_root_that_is_not_there_or_no_directory(root: Path, tmp_path: Path) -> None:
    (line,) = _problems(tmp_path / "none", root)
    assert line.startswith(f"assets.roots: {tmp_path / 'none'} does not exist; create it")
    (line,) = _problems(root, root / "x86_64/vmlinuz")
    assert line.startswith(f"assets.roots: {root / 'x86_64/vmlinuz'} is not a directory")


def test_an_extra_of_the_distribution_is_no_missing_asset(root: Path, tmp_path: Path) -> None:
    (tmp_path / "undionly.kpxe").write_bytes(b"content")
    settings = load(
        flags={
            "assets": {"roots": [root]},
            "ipxe": {"search": [tmp_path]},
            "profiles": {"p": {"kernel": "undionly.kpxe", "architectures": ["i386"]}},
        }
    )
    assert list(asset_problems(settings, Catalog(settings))) == []


@pytest.mark.parametrize(
    ("closed", "expected"),
    [
        ("x86_64/vmlinuz", "profiles.debian.kernel (x86_64): x86_64/vmlinuz "),
        ("x86_64", "assets.roots: "),
        (".", "assets.roots: "),
    ],
)
def test_what_this_user_may_not_read(
    public_dir: Path, unprivileged: Unprivileged, closed: str, expected: str
) -> None:
    root = public_dir / "root"
    (root / "x86_64").mkdir(parents=True)
    (root / "x86_64/vmlinuz").write_bytes(b"content")
    (root / closed).chmod(0)
    try:
        done = unprivileged(
            """
from bootserve.catalog.catalog import Catalog
from bootserve.catalog.check import asset_problems
from bootserve.settings import load
profile = {"kernel": "x86_64/vmlinuz"}
settings = load(flags={"assets": {"roots": [sys.argv[1]]}, "profiles": {"debian": profile}})
print(*asset_problems(settings, Catalog(settings)), sep="\\n")
""",
            root,
        )
    finally:
        (root / closed).chmod(0o700)
    assert done.stderr == ""
    first, *_ = done.stdout.splitlines()
    assert first.startswith(expected)
    assert "permission" in first
