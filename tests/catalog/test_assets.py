"""A client's name for a file becomes that file, or nothing; never another one."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bootserve.catalog.assets import AssetError, AssetForbidden, AssetNotFound, Assets
from tests.conftest import Unprivileged

_IN_OPEN = 0x20  # inotify(7)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "boot-assets"
    (path / "x86_64/2026-11-20").mkdir(parents=True)
    (path / "x86_64/2026-11-20/vmlinuz").write_bytes(b"kernel of today")
    (path / "plain").write_bytes(b"plain")
    (path / "empty").touch()
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_bytes(b"secret")
    return path


def _content(assets: Assets, name: str) -> bytes:
    with assets.open_now(name) as asset:
        body = os.pread(asset.fileno(), 4096, 0)
        assert asset.size == len(body)
        return body


@pytest.mark.parametrize(
    "name",
    [
        "plain",
        "/plain",
        "///plain",
        "./plain",
        "././/plain",
        "plain/",
        "/./plain",
    ],
)
def test_names_that_firmware_builds(root: Path, name: str) -> None:
    assert _content(Assets([root]), name) == b"plain"


def test_a_name_is_told_without_what_firmware_puts_around_it(root: Path) -> None:
    with Assets([root]).open_now("//x86_64/.//2026-11-20/vmlinuz") as asset:
        assert asset.name == "x86_64/2026-11-20/vmlinuz"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "//",
        ".",
        "./",
        "..",
        "../secret",
        "/../secret",
        "x86_64/../../secret",
        "x86_64/../plain",
        "x86_64/..",
        "plain/..",
        "plain\0",
        "\0",
        "plain\0.txt",
        "plain/more",
        "no-such-file",
        "x86_64",
        "x86_64/",
        "x86_64/2026-11-20",
        "PLAIN",
        "plain ",
        "%70lain",
        "x86_64\\2026-11-20\\vmlinuz",
        "a" * 256,
        "a/" * 5000,
        "x" * 100_000,
        "\udcff\udcfe",
        "\ud800",
        "plain\udc00",
    ],
)
def test_names_that_name_nothing(root: Path, name: str) -> None:
    assets = Assets([root])
    with pytest.raises(AssetNotFound):
        assets.open_now(name)
    assert not assets.exists(name)


def test_an_absolute_name_lies_below_the_root(root: Path, tmp_path: Path) -> None:
    with pytest.raises(AssetNotFound):
        Assets([root]).open_now(str(tmp_path / "secret"))


def test_a_file_whose_name_is_not_utf8(root: Path) -> None:
    Path(os.fsdecode(os.fsencode(root) + b"/b\xff")).write_bytes(b"odd")
    assert _content(Assets([root]), "b\udcff") == b"odd"


def test_an_empty_file_is_a_file(root: Path) -> None:
    assert _content(Assets([root]), "empty") == b""


@pytest.mark.parametrize("is_absolute", [False, True], ids=["relative", "absolute"])
def test_links_inside_the_root_are_followed(root: Path, is_absolute: bool) -> None:
    folder = root / "x86_64"
    (folder / "current").symlink_to(folder / "2026-11-20" if is_absolute else "2026-11-20")
    (folder / "default").symlink_to(
        root / "x86_64/current/vmlinuz" if is_absolute else "current/vmlinuz"
    )
    assert _content(Assets([root]), "x86_64/current/vmlinuz") == b"kernel of today"
    assert _content(Assets([root]), "x86_64/default") == b"kernel of today"


@pytest.mark.parametrize("is_absolute", [False, True], ids=["relative", "absolute"])
def test_links_out_of_the_root_are_refused(root: Path, tmp_path: Path, is_absolute: bool) -> None:
    up = tmp_path if is_absolute else Path("..")
    (root / "file").symlink_to(up / "secret")
    (root / "folder").symlink_to(up / "outside")
    (root / "parent").symlink_to(up)
    (root / "hop").symlink_to("file")
    assets = Assets([root])
    for name in ("file", "folder/secret", "parent/secret", "hop", "parent/outside/secret"):
        with pytest.raises(AssetForbidden, match="leads out"):
            assets.open_now(name)


def test_a_folder_beside_the_root_with_a_longer_name_is_outside(root: Path) -> None:
    sibling = root.with_name(root.name + "-old")
    sibling.mkdir()
    (sibling / "secret").write_bytes(b"secret")
    (root / "link").symlink_to(sibling / "secret")
    with pytest.raises(AssetForbidden):
        Assets([root]).open_now("link")


def test_links_that_lead_nowhere(root: Path) -> None:
    (root / "loop").symlink_to("loop")
    (root / "dangling").symlink_to("gone")
    for name in ("loop", "loop/plain", "dangling"):
        with pytest.raises(AssetNotFound):
            Assets([root]).open_now(name)


def test_a_root_that_is_a_link_may_be_switched_while_it_is_served(tmp_path: Path) -> None:
    for generation in ("one", "two"):
        (tmp_path / generation).mkdir()
        (tmp_path / generation / "vmlinuz").write_text(generation)
    current = tmp_path / "current"
    current.symlink_to("one")
    assets = Assets([current])
    with assets.open_now("vmlinuz") as before:
        (tmp_path / "next").symlink_to("two")
        (tmp_path / "next").rename(current)
        assert _content(assets, "vmlinuz") == b"two"
        assert os.pread(before.fileno(), 100, 0) == b"one"


def test_roots_are_searched_in_order_and_a_missing_one_is_passed_by(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "both").write_text(name)
        (tmp_path / name / f"only-{name}").write_text(name)
    (tmp_path / "one/folder-here").mkdir()
    (tmp_path / "two/folder-here").write_text("two")
    assets = Assets([tmp_path / "none", tmp_path / "one", tmp_path / "two"])
    assert _content(assets, "both") == b"one"
    assert _content(assets, "only-one") == b"one"
    assert _content(assets, "only-two") == b"two"
    assert _content(assets, "folder-here") == b"two"


def test_extras_are_served_by_their_very_name_unless_a_root_has_it(
    root: Path, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to("secret")
    assets = Assets(
        [root],
        {
            "undionly.kpxe": tmp_path / "link",
            "plain": tmp_path / "secret",
            "gone": tmp_path / "gone",
            "device": Path("/dev/zero"),
            "folder": tmp_path,
        },
    )
    assert _content(assets, "/undionly.kpxe") == b"secret"
    assert _content(assets, "plain") == b"plain"
    for name in ("x/undionly.kpxe", "gone", "device", "folder", "folder/secret"):
        with pytest.raises(AssetNotFound):
            assets.open_now(name)


@contextmanager
def _opens_seen(folder: Path) -> Iterator[list[str]]:
    """Collect the names below ``folder`` that anybody opens for reading or writing."""
    libc = ctypes.CDLL(None, use_errno=True)
    watcher = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    assert watcher >= 0, os.strerror(ctypes.get_errno())
    names: list[str] = []
    try:
        assert libc.inotify_add_watch(watcher, os.fsencode(folder), _IN_OPEN) >= 0
        yield names
        events = b""
        with contextlib.suppress(BlockingIOError):
            events = os.read(watcher, 65536)
        while events:
            *_, length = struct.unpack_from("iIII", events)
            names.append(events[16 : 16 + length].rstrip(b"\0").decode())
            events = events[16 + length :]
    finally:
        os.close(watcher)


def test_what_is_no_file_is_not_touched(root: Path) -> None:
    # Opening a FIFO would wake whoever waits to write into it, and block where nobody does.
    os.mkfifo(root / "fifo")
    os.mknod(root / "socket", stat.S_IFSOCK | 0o600)
    with _opens_seen(root) as opened:
        assert _content(Assets([root]), "plain") == b"plain"
        for name in ("fifo", "socket", "x86_64"):
            with pytest.raises(AssetNotFound):
                Assets([root]).open_now(name)
    assert opened == ["plain"]


def test_a_live_socket_and_devices_are_no_files(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        # A path of pytest's may be longer than an address of this family may be.
        folder = os.open(tmp_path, os.O_PATH)
        try:
            listener.bind(f"/proc/self/fd/{folder}/control")
        finally:
            os.close(folder)
        with pytest.raises(AssetNotFound):
            Assets([tmp_path]).open_now("control")
    for name in ("null", "zero", "tty", "stdin", "fd/0"):
        with pytest.raises(AssetError):
            Assets([Path("/dev")]).open_now(name)


def test_a_file_that_the_server_may_not_read(public_dir: Path, unprivileged: Unprivileged) -> None:
    (public_dir / "closed").mkdir()
    for name in ("unreadable", "closed/inside", "readable"):
        (public_dir / name).write_bytes(b"content")
    (public_dir / "unreadable").chmod(0)
    (public_dir / "closed").chmod(0)
    try:
        done = unprivileged(
            """
for name in ("readable", "unreadable", "closed/inside"):
    try:
        with Assets([Path(sys.argv[1])]).open_now(name) as asset:
            print(asset.read_blocking(100).decode())
    except AssetError as error:
        print(type(error).__name__, error.reason)
""",
            public_dir,
        )
    finally:
        (public_dir / "closed").chmod(0o700)
    assert done.stderr == ""
    readable, unreadable, inside = done.stdout.splitlines()
    assert readable == "content"
    assert unreadable.startswith("AssetForbidden ")
    assert "permission" in unreadable
    assert inside.startswith("AssetForbidden ")
    assert "permission" in inside


def test_no_descriptor_is_left_behind(root: Path, tmp_path: Path) -> None:
    (root / "out").symlink_to(tmp_path / "secret")
    (root / "loop").symlink_to("loop")
    os.mkfifo(root / "fifo")
    assets = Assets([tmp_path / "none", root], {"gone": tmp_path / "gone", "dir": tmp_path})
    names = ("plain", "out", "loop", "fifo", "x86_64", "none", "gone", "dir", "\udcff", "a" * 999)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        for name in names:
            with contextlib.suppress(AssetError):
                assets.open_now(name).close()
            assets.exists(name)
        assert list(assets.walk("", 3)) == ["empty", "plain", "x86_64/2026-11-20/vmlinuz"]
    assert len(os.listdir("/proc/self/fd")) == before


def test_walk_lists_each_name_once_and_looks_no_deeper_than_told(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for path in (one / "x/a", one / "x/d/b", one / "x/d/d/c", two / "x/a", two / "x/z"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (one / "x/out").symlink_to("/proc/self/cmdline")
    (one / "x/loop").symlink_to("loop")
    assets = Assets([one, tmp_path / "none", two])
    assert set(assets.walk("x", 0)) == {"x/a", "x/z"}
    assert set(assets.walk("x", 1)) == {"x/a", "x/z", "x/d/b"}
    names = list(assets.walk("x", 9))
    assert sorted(names) == ["x/a", "x/d/b", "x/d/d/c", "x/z"]
    assert list(assets.walk("none", 9)) == []


def test_a_root_that_the_server_may_not_enter_does_not_hide_the_others(
    public_dir: Path, unprivileged: Unprivileged
) -> None:
    for root in ("closed", "open"):
        (public_dir / root).mkdir()
        (public_dir / root / "vmlinuz").write_text(root)
    (public_dir / "closed").chmod(0)
    try:
        done = unprivileged(
            """
assets = Assets([Path(root) for root in sys.argv[1:]])
with assets.open_now("vmlinuz") as asset:
    print(asset.read_blocking(10).decode())
""",
            public_dir / "closed",
            public_dir / "open",
        )
    finally:
        (public_dir / "closed").chmod(0o755)
    assert done.stdout == "open\n", done.stderr


def test_links_in_circles_are_walked_once(tmp_path: Path) -> None:
    (tmp_path / "x86_64").mkdir()
    (tmp_path / "x86_64" / "vmlinuz").write_text("x")
    (tmp_path / "x86_64" / "loop").symlink_to(".")
    (tmp_path / "x86_64" / "out").symlink_to("/")
    assert list(Assets([tmp_path]).walk("x86_64", 3)) == ["x86_64/vmlinuz"]
