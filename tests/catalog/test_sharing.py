"""Who sends the same file at the same time shares its descriptor, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest
from hypothesis import example, given, settings

from bootserve.catalog import assets as assets_module
from bootserve.catalog import opening
from bootserve.catalog.assets import Asset, AssetError, AssetNotFound, Assets
from bootserve.linux import open_cached
from tests.catalog import test_containment
from tests.conftest import Unprivileged
from tests.http.conftest import eventually

DEADLINE = 60
_BODY = b"content of the file " * 1000

base = test_containment.base


def _descriptors() -> dict[int, str]:
    found = {}
    for entry in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found[int(entry)] = os.readlink(f"/proc/self/fd/{entry}")
    return found


def _of(path: Path) -> int:
    """How many descriptors this process has of a file, whatever it is called by now."""
    inode = path.stat().st_ino
    count = 0
    for fd in _descriptors():
        with contextlib.suppress(OSError):
            count += os.fstat(fd).st_ino == inode
    return count


def _content(asset: Asset) -> bytes:
    return os.pread(asset.fileno(), 1 << 20, 0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "initrd"
    path.write_bytes(_BODY)
    return path


@pytest.fixture
def assets(path: Path) -> Assets:
    return Assets([path.parent])


async def test_a_rack_takes_one_descriptor(assets: Assets, path: Path) -> None:
    opened = [assets.open_now("initrd") for _ in range(50)]
    opened += [await assets.open("boot//initrd") for _ in range(50)]
    assert _of(path) == 1
    assert {(asset.size, asset.tag, asset.name) for asset in opened} == {
        (len(_BODY), opened[0].tag, "initrd")
    }
    random.Random(1).shuffle(opened)
    while len(opened) > 1:
        opened.pop().close()
        assert _of(path) == 1
        assert _content(opened[0]) == _BODY
        assert await opened[0].read(5, 50) == _BODY[5:55]
    opened[0].close()
    assert _of(path) == 0


def test_closing_twice_closes_nobody_elses(assets: Assets, path: Path) -> None:
    one, two = assets.open_now("initrd"), assets.open_now("initrd")
    for _ in range(3):
        one.close()
    assert _content(two) == _BODY
    two.close()
    one.close()
    with assets.open_now("initrd") as three:
        one.close()
        two.close()
        assert _content(three) == _BODY
    assert _of(path) == 0


def test_what_is_dropped_is_given_back(assets: Assets, path: Path) -> None:
    kept, dropped = assets.open_now("initrd"), assets.open_now("initrd")
    del dropped
    gc.collect()
    assert _content(kept) == _BODY
    del kept
    gc.collect()
    assert _of(path) == 0


def test_links_to_one_file_are_one_file(assets: Assets, path: Path) -> None:
    path.with_name("link").symlink_to("initrd")
    os.link(path, path.with_name("twin"))
    names = ("initrd", "link", "twin")
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(assets.open_now(name)) for name in names]
        assert [asset.name for asset in opened] == list(names)
        assert [_content(asset) for asset in opened] == [_BODY] * 3
        assert _of(path) == 1
    assert _of(path) == 0


async def test_a_file_that_was_replaced_is_another(assets: Assets, path: Path) -> None:
    old = await assets.open("initrd")
    new_path = path.with_name("new")
    new_path.write_bytes(b"new")
    new_path.rename(path)
    new = await assets.open("initrd")
    assert new.fileno() != old.fileno()
    assert new.tag != old.tag
    assert (_content(old), old.size) == (_BODY, len(_BODY))
    assert (_content(new), new.size) == (b"new", 3)
    old.close()
    assert _content(new) == b"new"
    with await assets.open("initrd") as newer:
        assert newer.tag == new.tag
        assert _of(path) == 1
    new.close()
    assert _of(path) == 0


def test_a_file_that_is_written_to_is_seen_as_it_is_by_who_comes_then(
    assets: Assets, path: Path
) -> None:
    with assets.open_now("initrd") as old:
        with path.open("ab") as file:
            file.write(b"more")
        os.utime(path, ns=(1, 1))
        with assets.open_now("initrd") as new:
            assert old.has_changed()
            assert not new.has_changed()
            assert (old.size, new.size) == (len(_BODY), len(_BODY) + 4)
            assert old.tag != new.tag
            assert _content(new) == _BODY + b"more"
        assert _content(old) == _BODY + b"more"
    assert _of(path) == 0


def test_a_file_that_was_closed_to_the_server_meanwhile_is_refused(
    public_dir: Path, unprivileged: Unprivileged
) -> None:
    (public_dir / "folder").mkdir()
    for name in ("file", "folder/file"):
        (public_dir / name).write_bytes(b"content")
    if os.geteuid() == 0:
        # The owner may change the permissions, and is bound by them unless he is root.
        for name in ("file", "folder", "folder/file"):
            os.chown(public_dir / name, 65534, 65534)
    done = unprivileged(
        """
import asyncio
root = Path(sys.argv[1])
assets = Assets([root])

def tell(how, name):
    try:
        with (asyncio.run(assets.open(name)) if how == "open" else assets.open_now(name)) as asset:
            print(how, name, asset.read_blocking(100).decode())
    except AssetError as error:
        print(how, name, type(error).__name__)

def tell_all():
    for how in ("open", "open_now"):
        tell(how, "file")
        tell(how, "folder/file")

with assets.open_now("file") as one, assets.open_now("folder/file") as two:
    (root / "file").chmod(0)
    (root / "folder").chmod(0)
    tell_all()
    print(one.read_blocking(100).decode(), two.read_blocking(100).decode())
    (root / "folder").chmod(0o755)
    (root / "file").chmod(0o644)
    tell_all()
""",
        public_dir,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "open file AssetForbidden",
        "open folder/file AssetForbidden",
        "open_now file AssetForbidden",
        "open_now folder/file AssetForbidden",
        "content content",
        "open file content",
        "open folder/file content",
        "open_now file content",
        "open_now folder/file content",
    ]


def test_many_threads_leave_no_descriptor(assets: Assets, path: Path) -> None:
    path.with_name("other").write_bytes(b"other")
    bodies = {"initrd": _BODY, "other": b"other", "boot/initrd": _BODY}
    before = _descriptors()
    problems: list[object] = []
    start = threading.Barrier(8)

    def run(seed: int) -> None:
        chance = random.Random(seed)
        held: list[tuple[str, Asset]] = []
        start.wait()
        try:
            for _ in range(200):
                name = chance.choice(list(bodies))
                held.append((name, assets.open_now(name)))
                if len(held) > chance.randrange(4):
                    name, asset = held.pop(chance.randrange(len(held)))
                    if _content(asset) != bodies[name]:
                        problems.append(name)
                    asset.close()
        except Exception as error:
            problems.append(error)
        for _, asset in held:
            asset.close()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=run, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert problems == []
    assert _descriptors() == before


def test_two_that_open_a_file_at_the_same_moment_share_it(
    assets: Assets, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = threading.Barrier(2)
    reopen = opening.reopen

    def at_once(name: str, path_fd: int) -> int:
        both.wait(DEADLINE)
        return reopen(name, path_fd)

    monkeypatch.setattr(assets_module, "reopen", at_once)
    opened: list[Asset] = []
    threads = [
        threading.Thread(target=lambda: opened.append(assets.open_now("initrd"))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert _of(path) == 1
    one, two = opened
    one.close()
    assert _content(two) == _BODY
    two.close()
    assert _of(path) == 0


async def test_an_open_whose_client_has_left_leaves_no_descriptor(
    assets: Assets, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, may_go_on, done = threading.Event(), threading.Event(), threading.Event()
    open_now = Assets.open_now

    def slowly(self: Assets, name: str) -> Asset:
        entered.set()
        assert may_go_on.wait(DEADLINE)
        try:
            return open_now(self, name)
        finally:
            done.set()

    monkeypatch.setattr(Assets, "open_now", slowly)
    leaver = asyncio.create_task(assets.open("initrd"))
    loop = asyncio.get_running_loop()
    assert await loop.run_in_executor(None, entered.wait, DEADLINE)
    leaver.cancel()
    await asyncio.wait([leaver])
    assert leaver.cancelled()
    may_go_on.set()
    assert await loop.run_in_executor(None, done.wait, DEADLINE)
    await eventually(lambda: _of(path) == 0)


class _TakesThread(BaseException):
    """Opening would take a thread."""


@contextlib.contextmanager
def _no_threads() -> Iterator[None]:
    async def refuse(*_: object, **__: object) -> None:
        raise _TakesThread

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(anyio.to_thread, "run_sync", refuse)
        # They belong to a loop, and there may be none.
        patch.setattr(assets_module, "_openers", lambda *_: None)
        yield


def _at_once(opened: Coroutine[Any, Any, Asset]) -> Asset:
    """What a coroutine returns that waits for nothing, as there is no loop to wait for it."""
    with _no_threads():
        try:
            opened.send(None)
        except StopIteration as stop:
            result = stop.value
            assert isinstance(result, Asset)
            return result
    opened.close()
    raise AssertionError("it waits")


@pytest.fixture
def _kernel_can_tell(path: Path) -> None:
    try:
        os.close(open_cached(str(path), os.O_PATH | os.O_CLOEXEC))
    except BlockingIOError:
        pytest.skip("this kernel or file system cannot tell what it has cached (openat2(2))")


@pytest.mark.usefixtures("_kernel_can_tell")
def test_a_file_that_is_being_sent_is_opened_without_a_thread(assets: Assets, path: Path) -> None:
    with pytest.raises(_TakesThread):
        # Nobody sends it yet, and a file server would have to be asked.
        _at_once(assets.open("initrd"))
    with assets.open_now("initrd"):
        for name in ("initrd", "boot/initrd", "//./initrd/"):
            # That there is no folder of the name `boot` must be known, too.
            assets.open_now(name).close()
            with _at_once(assets.open(name)) as asset:
                assert asset.name == "initrd"
                assert _content(asset) == _BODY
                assert _of(path) == 1
    with pytest.raises(_TakesThread):
        _at_once(assets.open("initrd"))
    assert _of(path) == 0


@pytest.mark.usefixtures("_kernel_can_tell")
def test_what_was_missing_a_moment_ago_takes_no_thread(assets: Assets) -> None:
    for name in ("missing", "boot/missing", "..", ""):
        with pytest.raises(AssetNotFound):
            assets.open_now(name)
        with pytest.raises(AssetNotFound):
            _at_once(assets.open(name))


async def test_a_name_that_takes_a_disk_is_opened_by_a_thread(
    assets: Assets, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def uncached(*_: object) -> int:
        raise BlockingIOError

    monkeypatch.setattr(opening, "open_cached", uncached)
    path.with_name("out").symlink_to("/etc/passwd")
    with assets.open_now("initrd"):
        with pytest.raises(_TakesThread), _no_threads():
            await assets.open("initrd")
        with await assets.open("initrd") as asset:
            assert _content(asset) == _BODY
            assert _of(path) == 1
        with pytest.raises(AssetNotFound):
            await assets.open("missing")
        with pytest.raises(opening.AssetForbidden, match="leads out"):
            await assets.open("out")
    assert _of(path) == 0


def test_a_cached_name_leaves_no_descriptor_however_it_ends(assets: Assets, path: Path) -> None:
    path.with_name("out").symlink_to("/etc/passwd")
    path.with_name("loop").symlink_to("loop")
    path.with_name("folder").mkdir()
    os.mkfifo(path.with_name("fifo"))
    before = _descriptors()
    for _ in range(20):
        for name in ("initrd", "out", "loop", "folder", "fifo", "none", "initrd/x", "\udcff", "."):
            with contextlib.suppress(AssetError, _TakesThread):
                _at_once(assets.open(name)).close()
    assert _descriptors() == before


def _outcome(open_it: Callable[[], Asset]) -> tuple[object, ...]:
    try:
        with open_it() as asset:
            return asset.name, asset.tag, _content(asset)
    except AssetError as error:
        return type(error), error.name, error.reason


@settings(max_examples=300)
@given(name=test_containment._NAMES)
@example(name="up/plain")
@example(name="up/secret")
@example(name="out")
@example(name="absolute-out/secret")
@example(name="folder/root/up/secret")
@example(name="slash/etc/passwd")
@example(name="slash/proc/self/cwd/pyproject.toml")
@example(name="inside-folder/../../secret")
@example(name="up/root/plain")
@example(name="boot/out-folder/secret")
def test_both_ways_to_open_a_name_agree(base: Path, name: str) -> None:
    """The event loop's, which asks no disk, and the thread's: a name must not slip by one."""
    root = base / "root"
    assets = Assets([root])
    with contextlib.ExitStack() as stack:
        # All that may be served is being sent; what must not be has a descriptor of its own.
        for inside in ("plain", "folder/inner", "folder/deep/inner"):
            stack.enter_context(assets.open_now(inside))
        expected = _outcome(lambda: assets.open_now(name))
        with contextlib.suppress(_TakesThread):
            assert _outcome(lambda: _at_once(assets.open(name))) == expected


@pytest.mark.usefixtures("_kernel_can_tell")
@pytest.mark.parametrize(
    "name", ["out", "out-folder/secret", "absolute-out/inner", "up/secret", "folder/outside/secret"]
)
def test_links_out_are_refused_without_a_thread_too(base: Path, name: str) -> None:
    inside, outside = Assets([base / "root"]), Assets([base])
    with pytest.raises(opening.AssetForbidden, match="leads out"):
        inside.open_now(name)
    # Even if somebody else may have what it leads to, and has it open.
    with outside.open_now(f"root/{name}"), pytest.raises(opening.AssetForbidden, match="leads out"):
        _at_once(inside.open(name))


@pytest.mark.parametrize("then", ["closed", "opened", "dropped"])
def test_what_is_dropped_while_others_are_busy_is_given_back_when_they_go_on(
    assets: Assets, path: Path, then: str
) -> None:
    path.with_name("other").write_bytes(b"other")
    dropped, other = assets.open_now("initrd"), assets.open_now("other")
    with assets._files._lock:
        # As a thread would that opens something else at this moment.
        del dropped
    if then == "closed":
        other.close()
    elif then == "opened":
        assets.open_now("other").close()
    else:
        del other
    left = _of(path)
    # Whatever has been found: this test leaves nothing to others.
    assets.open_now("other").close()
    assert (left, _of(path)) == (0, 0)


_COLLECT_AT_EVERY_LINE = """
import contextlib, gc, sys
from pathlib import Path
from bootserve.catalog import assets as module

assets = module.Assets([Path(sys.argv[1])])
lines_left = 0

class Ring:
    def __init__(self):
        self.me = self
        self.asset = assets.open_now("initrd")

def collect(frame, event, _):
    global lines_left
    if event == "line":
        lines_left -= 1
        if lines_left == 0:
            gc.collect()
    return collect

def in_sharing(frame, *_):
    return collect if frame.f_code.co_filename == module.__file__ else None

gc.disable()
for line in range(1, 80):
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            Ring()
            lines_left = line
            sys.settrace(in_sharing)
            stack.enter_context(assets.open_now("initrd")).close()
            sys.settrace(None)
            stack.enter_context(assets.open_now("initrd"))
"""


def test_a_collection_at_any_line_gives_back_what_it_finds(path: Path) -> None:
    """Python from 3.12 on collects between any two instructions, also where a lock is held."""
    done = subprocess.run(
        [sys.executable, "-c", _COLLECT_AT_EVERY_LINE, str(path.parent)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        # It takes a fraction of a second, or waits for a lock that it holds itself.
        timeout=20,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
