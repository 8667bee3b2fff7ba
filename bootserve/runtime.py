"""The directory in which running servers are found: a socket for each of them.

It is called ``<pid>-<random>.sock``: where containers share the directory, each has process ids of
its own, and two servers may have the same.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

_NAME: Final = re.compile(r"([1-9][0-9]{0,9})(?:-[0-9a-f]{8})?\.sock")

_SHARED: Final = Path("/run/bootserve")
_BACKLOG: Final = 16


class NoRuntimeDir(Exception):
    """There is no place for a control socket; ``str()`` says why and what to do."""


def own_directory(configured: Path | None, environ: Mapping[str, str] = os.environ) -> Path:
    """Return where a server of this user puts its socket.

    Raises:
        NoRuntimeDir: nothing is configured, and there is no place that could be taken instead.
    """
    if configured is not None:
        return configured
    # systemd's RuntimeDirectory=; several are separated by colons (systemd.exec(5)).
    if first := environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]:
        return Path(first)
    # Whether root has a directory of its own depends on how it came here; this one does not.
    if os.geteuid() == 0:
        return _SHARED
    return _of_the_session(environ) or _temporary()


def every_directory(
    configured: Path | None, environ: Mapping[str, str] = os.environ
) -> tuple[Path, ...]:
    """Return where servers may be found by somebody whose environment is not a service's."""
    if configured is not None:
        return (configured,)
    found: list[Path] = []
    with contextlib.suppress(NoRuntimeDir):
        found.append(own_directory(None, environ))
    found.append(_SHARED)
    if session := _of_the_session(environ):
        found.append(session)
    with contextlib.suppress(NoRuntimeDir):
        found.append(_temporary())
    return tuple(dict.fromkeys(found))


def _of_the_session(environ: Mapping[str, str]) -> Path | None:
    named = Path(environ.get("XDG_RUNTIME_DIR", ""))
    # It may be the variable of another user, who was this one before a `su`.
    with contextlib.suppress(OSError):
        if named.is_absolute() and named.is_dir() and os.access(named, os.X_OK):
            return named / "bootserve"
    return None


def _temporary() -> Path:
    try:
        return Path(tempfile.gettempdir()) / f"bootserve-{os.geteuid()}"
    except OSError as error:
        raise _no_socket("", error) from error


def _no_socket(place: str, error: OSError) -> NoRuntimeDir:
    return NoRuntimeDir(
        f"no control socket{place}: {error.strerror or error}; `bootserve upgrade` and"
        " `bootserve status` will not find this server, SIGHUP works; choose another directory with"
        " service.runtime_dir"
    )


class ControlSocket:
    """Our listening control socket. `close` removes it from the directory.

    Raises:
        NoRuntimeDir: the directory is not to be had, or is somebody else's.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / f"{os.getpid()}-{secrets.token_hex(4)}.sock"
        try:
            _claim(directory)
            remove_stale(directory)
            self.listener = _listen(self.path)
        except OSError as error:
            raise _no_socket(f" {self.path}", error) from error

    def close(self) -> None:
        self.listener.close()
        with contextlib.suppress(OSError):
            self.path.unlink()


def control_sockets(directory: Path) -> Iterator[tuple[int, Path]]:
    """Return the servers' process ids and sockets; none if the directory is not to be trusted."""
    try:
        if not _may_trust(directory):
            return
        paths = sorted(directory.iterdir())
    except OSError:
        return
    for path in paths:
        if match := _NAME.fullmatch(path.name):
            yield int(match[1]), path


def remove_stale(directory: Path) -> None:
    """Remove the sockets of servers that had no time to do so."""
    for _, path in control_sockets(directory):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
            try:
                probe.connect(os.fspath(path))
            except ConnectionRefusedError:
                with contextlib.suppress(OSError):
                    path.unlink()
            except OSError:
                continue


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    # It gets its name when it listens: before, it would look like a dead server's.
    new = path.with_suffix(".new")
    try:
        try:
            listener.bind(os.fspath(new))
            new.chmod(0o600)
            listener.listen(_BACKLOG)
            new.rename(path)
        except BaseException:
            with contextlib.suppress(OSError):
                new.unlink()
            raise
    except BaseException:
        listener.close()
        raise
    return listener


def _claim(directory: Path) -> None:
    """Make the directory ours alone, or raise OSError."""
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    facts = directory.lstat()
    if not stat.S_ISDIR(facts.st_mode):
        raise NotADirectoryError(0, f"{directory} is no directory")
    if facts.st_uid != os.geteuid():
        raise PermissionError(0, f"{directory} belongs to another user")
    if facts.st_mode & 0o022:
        raise PermissionError(0, f"other users may write into {directory}")


def _may_trust(directory: Path) -> bool:
    """Whether only its owner writes there, who is we; for root it may be a service's user.

    But not in a directory where everybody makes directories: its name says that it is root's.
    """
    facts = directory.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_mode & 0o022:
        return False
    if facts.st_uid == os.geteuid():
        return True
    return os.geteuid() == 0 and not directory.parent.stat().st_mode & 0o002
