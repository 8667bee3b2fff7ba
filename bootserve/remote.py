"""Talking to servers that run: the client of `bootserve.control`."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bootserve import control, runtime
from bootserve.control import Json
from bootserve.handover import TIMEOUT
from bootserve.text import printable

_PATIENCE: Final = 5.0
_UPGRADE_PATIENCE: Final = TIMEOUT + 30
"""Seconds for an answer, and for one that comes when a new process is ready, or has been ended."""

_NO_SUCH_COMMAND: Final = "no such command"
"""How the answer begins of a process that does not know the command."""


class RemoteError(Exception):
    """What was asked for has not happened; ``str()`` says why and is safe to print."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs. ``state`` is its own word, ``None`` if it does not answer."""

    pid: int
    path: Path
    state: str | None


def find(directories: Iterable[Path]) -> list[Server]:
    """Return the servers that run."""
    servers: dict[tuple[int, int], Server] = {}
    for directory in directories:
        for pid, path in runtime.control_sockets(directory):
            try:
                # One directory may have several names, and several servers one process id.
                facts = path.lstat()
                key = (facts.st_dev, facts.st_ino)
            except OSError:
                continue
            try:
                state = str(_ask(path, "state", _PATIENCE).get("state"))
            except ConnectionRefusedError:
                with contextlib.suppress(OSError):
                    path.unlink()
                continue
            except FileNotFoundError:
                continue
            except (OSError, ValueError):
                servers.setdefault(key, Server(pid, path, None))
            else:
                servers[key] = Server(pid, path, state)
    return list(servers.values())


def upgrade(directories: Iterable[Path], pid: int | None = None) -> str:
    """Have a server replaced by a new process, and say so in a sentence.

    Args:
        pid: the server; without it, the one that serves.

    Raises:
        RemoteError: there is no such server or more than one, or it stays as it is.
    """
    looked_at = tuple(directories)
    server = _choose(find(looked_at), looked_at, pid)
    try:
        answer = _ask(server.path, "upgrade", _UPGRADE_PATIENCE)
    except TimeoutError:
        raise RemoteError(f"the server with pid {server.pid} does not answer") from None
    except (OSError, ValueError) as error:
        raise RemoteError(
            f"the server with pid {server.pid} has left without an answer: {printable(str(error))}"
        ) from error
    if "error" in answer or not isinstance(answer.get("pid"), int):
        raise RemoteError(printable(str(answer.get("error")), longest=control.LONGEST))
    return f"pid {answer['pid']} has taken over from pid {server.pid}"


def statuses(
    directories: Iterable[Path], pid: int | None = None, recent: int | None = None
) -> list[Json]:
    """Return what each server says of itself, see `bootserve.watch.status`.

    One that does not say it has ``pid``, ``state`` and ``error``, a sentence that is safe to print.

    Args:
        pid: ask this server only.
        recent: how many of the transfers that have ended.

    Raises:
        RemoteError: no server runs, or none of this ``pid``.
    """
    looked_at = tuple(directories)
    servers = find(looked_at)
    if pid is not None:
        servers = [server for server in servers if server.pid == pid]
    found = [said for server in servers if (said := _status(server, recent)) is not None]
    if not found:
        raise RemoteError(_none(looked_at) if pid is None else _none_of(pid, looked_at))
    return found


def _status(server: Server, recent: int | None) -> Json | None:
    """Return what a server says of itself; ``None`` if it has just left."""
    who = f"the server with pid {server.pid}"
    try:
        answer = _ask(server.path, "status", _PATIENCE, control.LONGEST_REPORT, recent=recent)
    except TimeoutError:
        error = f"{who} does not answer"
    except (ConnectionRefusedError, FileNotFoundError):
        return None
    except (ConnectionError, ValueError):
        if not server.path.exists():
            return None
        error = f"{who} has broken its answer off"
    except OSError as problem:
        error = f"{who} cannot be asked: {problem.strerror or problem}"
    else:
        if "error" not in answer:
            return answer
        error = printable(str(answer["error"]), longest=control.LONGEST)
        if error.startswith(_NO_SUCH_COMMAND):
            error = f"{who} is older than this command"
        else:
            error = f"{who} says: {error}"
    return {"pid": server.pid, "state": server.state, "error": error}


def _none(directories: tuple[Path, ...]) -> str:
    return (
        f"no server was found; looked into {_places(directories)}. If it has another"
        " service.runtime_dir, name it with --runtime-dir; if it is another user's, ask as that"
        " user"
    )


def _none_of(pid: int, directories: tuple[Path, ...]) -> str:
    return f"no server with pid {pid} was found; looked into {_places(directories)}"


def _places(directories: tuple[Path, ...]) -> str:
    return ", ".join(printable(os.fspath(path)) for path in directories)


def _choose(servers: list[Server], directories: tuple[Path, ...], pid: int | None) -> Server:
    if pid is not None:
        found = [server for server in servers if server.pid == pid]
        if len(found) == 1:
            return found[0]
        if found:
            raise RemoteError(
                f"several servers have pid {pid}, each in a container or PID namespace of its own;"
                " send SIGHUP to the one that you mean"
            )
        raise RemoteError(_none_of(pid, directories))
    serving = [server for server in servers if server.state == "serving"]
    if len(serving) == 1:
        return serving[0]
    if serving:
        pids = ", ".join(str(server.pid) for server in serving)
        raise RemoteError(f"several servers run, with pids {pids}; choose one with --pid")
    if servers:
        others = ", ".join(
            f"pid {server.pid} is {printable(server.state)}"
            if server.state
            else f"pid {server.pid} does not answer"
            for server in servers
        )
        raise RemoteError(f"no server that serves was found: {others}")
    raise RemoteError(_none(directories))


def _ask(
    path: Path,
    command: str,
    patience: float,
    longest: int = control.LONGEST,
    **arguments: object,
) -> Json:
    """Send a command and return the answer; raises OSError or ValueError.

    Args:
        patience: seconds until the answer goes on.
        longest: bytes of an answer that are taken.
        arguments: those of the command that are ``None`` are left out.
    """
    said = {name: value for name, value in arguments.items() if value is not None}
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(patience)
        connection.connect(os.fspath(path))
        connection.sendall(control.encode({"command": command, **said}))
        data = bytearray()
        while not data.endswith(b"\n"):
            more = connection.recv(1 << 16)
            if not more or len(data) > longest:
                raise ValueError("the answer is no line")
            data += more
        return control.decode(bytes(data))
