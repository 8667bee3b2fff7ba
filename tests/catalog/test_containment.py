"""No name whatsoever opens a file outside of its root."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bootserve.catalog.assets import AssetError, Assets

_INSIDE = b"inside: "
_PARTS = (
    *("plain", "folder", "inner", "deep", "inside-link", "inside-folder", "absolute-inside"),
    *("out", "out-folder", "absolute-out", "up", "slash", "loop", "secret", "outside", "root"),
    *("etc", "passwd", "proc", "self", "cwd", "fd", "..", ".", "", "...", "%2e%2e", "..\\"),
)
_NAMES = st.one_of(
    st.text(st.characters(codec=None)),
    st.lists(st.sampled_from(_PARTS) | st.text(st.characters(codec=None), max_size=3)).map(
        "/".join
    ),
    st.lists(st.sampled_from(_PARTS), min_size=1).map(lambda parts: "/" + "/".join(parts)),
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("containment").resolve()
    root, outside = base / "root", base / "outside"
    for name in ("plain", "folder/inner", "folder/deep/inner"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(_INSIDE + name.encode())
    outside.mkdir()
    for path in (base / "secret", outside / "secret", outside / "inner", base / "plain"):
        path.write_bytes(b"secret")
    for name, target in {
        "inside-link": "folder/inner",
        "inside-folder": "folder/deep",
        "absolute-inside": str(root / "folder"),
        "folder/root": "..",
        "out": "../secret",
        "out-folder": "../outside",
        "absolute-out": str(outside),
        "folder/outside": "../../outside",
        "up": "..",
        "slash": "/",
        "loop": "loop",
    }.items():
        (root / name).symlink_to(target)
    return base


@settings(max_examples=500)
@given(name=_NAMES)
@example(name="up/plain")
@example(name="folder/root/up/secret")
@example(name="slash/etc/passwd")
@example(name="slash/proc/self/cwd/pyproject.toml")
@example(name="inside-folder/../../secret")
@example(name="up/root/plain")
def test_no_name_opens_a_file_outside(base: Path, name: str) -> None:
    root = base / "root"
    try:
        asset = Assets([root]).open_now(name)
    except AssetError:
        return
    with asset:
        assert Path(os.path.realpath(f"/proc/self/fd/{asset.fileno()}")).is_relative_to(root)
        assert os.pread(asset.fileno(), 100, 0).startswith(_INSIDE)


@settings(max_examples=500)
@given(parts=st.lists(st.sampled_from(_PARTS), min_size=1, max_size=5))
@example(parts=["folder", "root", "absolute-inside", "deep", "inner"])
@example(parts=["up", "root", "plain"])
def test_every_name_that_stays_inside_opens_what_it_names(base: Path, parts: list[str]) -> None:
    root = base / "root"
    path = root.joinpath(*parts)
    real = Path(os.path.realpath(path))
    if ".." in parts or not path.is_file() or not real.is_relative_to(root):
        with pytest.raises(AssetError):
            Assets([root]).open_now("/".join(parts))
        return
    with Assets([root]).open_now("/".join(parts)) as asset:
        assert os.pread(asset.fileno(), 100, 0) == real.read_bytes()
