"""System calls of our own behave as those of the standard library."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bootserve import linux
from bootserve.linux import is_in_memory, open_cached

_FLAGS = os.O_PATH | os.O_CLOEXEC


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Some files, all of them in the kernel's cache because they were just made."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/file").write_bytes(b"content")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "link").symlink_to("sub/file")
    try:
        os.close(open_cached(str(tmp_path / "sub/file"), _FLAGS))
    except BlockingIOError:
        pytest.skip("this kernel or file system cannot tell what it has cached (openat2(2))")
    return tmp_path


def _inode(fd: int) -> int:
    try:
        return os.fstat(fd).st_ino
    finally:
        os.close(fd)


def _patiently(name: str, directory: int | None = None) -> int:
    """Whatever is mounted or renamed anywhere in the same moment makes the kernel say "not now"."""
    for _ in range(100):
        with contextlib.suppress(BlockingIOError):
            return open_cached(name, _FLAGS, directory)
    return open_cached(name, _FLAGS, directory)


@pytest.mark.parametrize("name", ["sub/file", "link", "sub", "sub/../link", "."])
def test_what_is_cached_is_opened(folder: Path, name: str) -> None:
    (folder / name).stat()
    expected = (folder / name).stat().st_ino
    assert _inode(_patiently(str(folder / name))) == expected
    directory = os.open(folder, _FLAGS | os.O_DIRECTORY)
    try:
        assert _inode(_patiently(name, directory)) == expected
    finally:
        os.close(directory)


def test_a_relative_name_is_one_in_the_current_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert _inode(open_cached("sub/file", _FLAGS)) == (folder / "sub/file").stat().st_ino


def test_names_need_not_be_utf8(folder: Path) -> None:
    name = os.fsdecode(os.fsencode(folder) + b"/b\xff\xfe")
    Path(name).touch()
    assert _inode(open_cached(name, _FLAGS)) == Path(name).stat().st_ino


def test_it_can_be_opened_to_be_read(folder: Path) -> None:
    fd = open_cached(str(folder / "sub/file"), os.O_RDONLY | os.O_CLOEXEC)
    try:
        assert os.read(fd, 100) == b"content"
        assert not os.get_inheritable(fd)
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("missing", 0),
        ("missing/file", 0),
        ("sub/file/more", 0),
        ("sub/file", os.O_DIRECTORY),
        ("loop", 0),
        ("x" * 256, 0),
        ("sub/" * 2000, 0),
        ("", 0),
    ],
    ids=["missing", "folder", "no-folder", "file", "loop", "long", "longer", "empty"],
)
def test_what_cannot_be_opened_fails_as_ever(folder: Path, name: str, flags: int) -> None:
    directory = os.open(folder, _FLAGS | os.O_DIRECTORY)
    try:
        with pytest.raises(OSError, match="Errno") as expected:
            os.open(name, _FLAGS | flags, dir_fd=directory)
        with pytest.raises(OSError, match="Errno") as found:
            open_cached(name, _FLAGS | flags, directory)
    finally:
        os.close(directory)
    assert found.value.filename == name
    if not isinstance(found.value, BlockingIOError):
        # Some that are sure to fail the kernel puts off all the same.
        assert type(found.value) is type(expected.value)
        assert found.value.errno == expected.value.errno
        assert found.value.strerror == expected.value.strerror


def test_what_is_known_to_be_missing_takes_no_disk(folder: Path) -> None:
    assert not (folder / "missing").exists()
    for name in ("missing", "missing/file"):
        with pytest.raises(FileNotFoundError):
            open_cached(str(folder / name), _FLAGS)


def test_a_name_that_nobody_has_looked_up_takes_a_disk(folder: Path) -> None:
    with pytest.raises(BlockingIOError):
        open_cached(str(folder / "never-heard-of"), _FLAGS)


def test_what_would_write_takes_a_disk(folder: Path) -> None:
    with pytest.raises(BlockingIOError):
        open_cached(str(folder / "new"), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC)
    assert not (folder / "new").exists()


def test_a_descriptor_that_is_none_fails_as_ever() -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        open_cached("x", _FLAGS, 1_000_000)


def test_a_name_that_cannot_be_encoded_fails_as_ever() -> None:
    with pytest.raises(UnicodeEncodeError):
        open_cached("\ud800", _FLAGS)


def test_a_name_with_a_nul_in_it_is_not_the_name_before_the_nul(folder: Path) -> None:
    for opener in (os.open, open_cached):
        with pytest.raises(ValueError, match="null"):
            os.close(opener(str(folder / "sub/file") + "\0.old", _FLAGS))


def _failing(number: int) -> Callable[..., int]:
    def syscall(*_: object) -> int:
        ctypes.set_errno(number)
        return -1

    return syscall


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM, errno.EINVAL, errno.EAGAIN])
def test_a_kernel_that_cannot_tell_would_have_to_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(linux._libc, "syscall", _failing(number))
    with pytest.raises(BlockingIOError):
        open_cached(str(tmp_path), _FLAGS)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES, errno.EIO])
def test_other_errors_are_told_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(linux._libc, "syscall", _failing(number))
    with pytest.raises(OSError, match=os.strerror(number)) as found:
        open_cached(str(tmp_path), _FLAGS)
    assert found.value.errno == number


def _kind(path: Path) -> str:
    done = subprocess.run(
        ["stat", "-f", "-c", "%T", str(path)], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def _is_in_memory(path: Path) -> bool:
    fd = os.open(path, os.O_RDONLY)
    try:
        return is_in_memory(fd)
    finally:
        os.close(fd)


def test_shared_memory_is_in_memory() -> None:
    path = Path("/dev/shm")
    if not path.is_dir() or _kind(path) != "tmpfs":
        pytest.skip("/dev/shm is no tmpfs here: mount one to prove that it is told from a disk")
    assert _is_in_memory(path)


def test_where_files_lie_is_as_stat_says(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path, Path("/"), Path("/proc"), Path("/sys")):
        assert _is_in_memory(path) == (_kind(path) in ("tmpfs", "ramfs")), path


def test_what_is_not_open_is_not_in_memory() -> None:
    assert not is_in_memory(-1)
