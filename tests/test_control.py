"""The control socket: where it is, who is talked to, and what is said."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import stat
import tempfile
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import anyio
import pytest

from bootserve import control
from bootserve.remote import RemoteError, Server, _choose, find
from bootserve.runtime import (
    ControlSocket,
    NoRuntimeDir,
    control_sockets,
    every_directory,
    own_directory,
)
from tests import needs
from tests.conftest import Unprivileged
from tests.family import DEADLINE, Family, family, upgrade, wait_until

CONFIG = """
[http]
listen = ["127.0.0.1:0"]
[tftp]
listen = "off"
[service]
runtime_dir = "run"
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Family]:
    with family(tmp_path, CONFIG) as found:
        yield found


@contextlib.contextmanager
def _conversation(server: Family) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(DEADLINE)
        client.connect(str(_path(server)))
        yield client


def _path(server: Family) -> Path:
    [path] = (server.folder / "run").glob(f"{server.pid}-*.sock")
    return path


def _ask(client: socket.socket, line: bytes) -> dict[str, object]:
    client.sendall(line)
    data = b""
    while not data.endswith(b"\n"):
        more = client.recv(4096)
        assert more, data
        data += more
    answer: dict[str, object] = json.loads(data)
    return answer


def test_only_our_user_reaches_it_and_it_goes_with_the_server(server: Family) -> None:
    path = _path(server)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    server.process.terminate()
    assert server.leave() == 0
    assert list(path.parent.iterdir()) == []


def test_several_questions_in_one_conversation(server: Family) -> None:
    with _conversation(server) as client:
        for _ in range(2):
            answer = _ask(client, b'{"command": "state"}\n')
            assert answer == {"pid": server.pid, "state": "serving"}


@pytest.mark.parametrize(
    "line", [b"\n", b"state\n", b"[]\n", b"\xff\n", b'{"command": 1}\n', b'{"command": "x\\n"}\n']
)
def test_nonsense_gets_a_sentence_and_the_conversation_goes_on(line: bytes, server: Family) -> None:
    with _conversation(server) as client:
        error = _ask(client, line)["error"]
        assert isinstance(error, str)
        assert error.isprintable()
        assert _ask(client, b'{"command": "state"}\n')["pid"] == server.pid


def test_an_endless_line_ends_the_conversation_and_nothing_else(server: Family) -> None:
    with _conversation(server) as client, contextlib.suppress(ConnectionError):
        while True:
            client.sendall(b" " * 65536)
    with _conversation(server) as client:
        assert _ask(client, b'{"command": "state"}\n')["pid"] == server.pid


async def test_a_defect_in_a_command_ends_nothing(tmp_path: Path) -> None:
    async def fail() -> control.Json:
        raise ZeroDivisionError

    with contextlib.closing(ControlSocket(tmp_path)) as ours:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(control.serve, ours.listener, {"fail": fail})
            async with await anyio.connect_unix(ours.path) as client:
                for _ in range(2):
                    await client.send(b'{"command": "fail"}\n')
                    assert b"the command fail failed" in await client.receive()
            tasks.cancel_scope.cancel()


async def test_a_report_that_nobody_reads_ends_its_conversation_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "_REPORT_PATIENCE", 0.1)
    is_over = anyio.Event()

    async def endless(_: control.Json) -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield bytes(65536)
        finally:
            is_over.set()

    async def state() -> control.Json:
        return {"pid": 1}

    with contextlib.closing(ControlSocket(tmp_path)) as ours:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(control.serve, ours.listener, {"state": state}, {"endless": endless})
            async with (
                await anyio.connect_unix(ours.path) as stuck,
                await anyio.connect_unix(ours.path) as other,
            ):
                await stuck.send(b'{"command": "endless"}\n')
                await other.send(b'{"command": "state"}\n')
                assert json.loads(await other.receive()) == {"pid": 1}
                with anyio.fail_after(DEADLINE):
                    await is_over.wait()
                    with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                        while True:
                            await stuck.receive()
                await other.send(b'{"command": "state"}\n')
                assert json.loads(await other.receive()) == {"pid": 1}
            tasks.cancel_scope.cancel()


async def test_a_defect_in_a_report_ends_its_conversation_and_no_other(tmp_path: Path) -> None:
    async def fail(_: control.Json) -> AsyncGenerator[bytes, None]:
        yield b'{"half": '
        raise ZeroDivisionError

    with contextlib.closing(ControlSocket(tmp_path)) as ours:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(control.serve, ours.listener, {}, {"fail": fail})
            for _ in range(2):
                async with await anyio.connect_unix(ours.path) as client:
                    await client.send(b'{"command": "fail"}\n')
                    received = b""
                    with anyio.fail_after(DEADLINE):
                        async for data in client:
                            received += data
                    assert received == b'{"half": '
            tasks.cancel_scope.cancel()


def test_more_clients_than_it_talks_to_wait_for_their_turn(server: Family) -> None:
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(_conversation(server)) for _ in range(8)]
        for client in silent:
            _ask(client, b'{"command": "state"}\n')
        one_more = stack.enter_context(_conversation(server))
        one_more.sendall(b'{"command": "state"}\n')
        one_more.settimeout(0.2)
        with pytest.raises(TimeoutError):
            one_more.recv(1)
        silent[0].close()
        one_more.settimeout(DEADLINE)
        assert one_more.recv(4096).startswith(b"{")


def test_another_user_is_not_answered(
    public_dir: Path, unprivileged: Unprivileged, request: pytest.FixtureRequest
) -> None:
    with family(public_dir, CONFIG) as server:
        (public_dir / "run").chmod(0o755)
        path = _path(server)
        path.chmod(0o666)
        done = unprivileged(
            """
with socket.socket(socket.AF_UNIX) as client:
    client.connect(sys.argv[1])
    try:
        client.sendall(b'{"command": "state"}\\n')
        print(os.geteuid(), client.recv(4096))
    except ConnectionError:
        print(os.geteuid(), b"")
""",
            path,
        )
        assert done.returncode == 0, done.stderr
        uid, _, answer = done.stdout.strip().partition(" ")
        if int(uid) == os.geteuid():
            pytest.skip("there is no other user: run the tests as root")
        assert answer == "b''"


def test_the_socket_of_a_server_that_was_killed_is_cleaned_up(server: Family) -> None:
    path = _path(server)
    server.process.kill()
    server.leave()
    assert path.is_socket()
    assert find([path.parent]) == []
    assert not path.exists()


def test_a_server_cleans_up_after_others_when_it_starts(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(run / "1234567.sock"))
    with family(tmp_path, CONFIG) as server:
        assert list(run.iterdir()) == [_path(server)]


@pytest.mark.parametrize("what", ["a file", "a link", "open to others"])
def test_without_a_directory_of_its_own_it_says_so_and_serves(what: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    if what == "a file":
        run.write_bytes(b"")
    elif what == "a link":
        (tmp_path / "elsewhere").mkdir()
        run.symlink_to("elsewhere")
    else:
        run.mkdir()
        run.chmod(0o777)
    with family(tmp_path, CONFIG) as server:
        wait_until(lambda: "no control socket" in server.log())
        assert server.log().count("no control socket") == 1
        server.hang_up()
        server.wait_for_log("has taken over")


def test_a_directory_of_somebody_else_is_refused(public_dir: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a directory to somebody else: run the tests as root")
    (public_dir / "run").mkdir(mode=0o700)
    os.chown(public_dir / "run", 65534, 65534)
    with pytest.raises(NoRuntimeDir, match="belongs to another user"):
        ControlSocket(public_dir / "run")


def test_where_it_is() -> None:
    assert own_directory(Path("/x"), {"RUNTIME_DIRECTORY": "/run/a:/run/b"}) == Path("/x")
    assert own_directory(None, {"RUNTIME_DIRECTORY": "/run/a:/run/b"}) == Path("/run/a")
    everywhere = every_directory(None, {"XDG_RUNTIME_DIR": "/tmp"})
    assert Path("/tmp/bootserve") in everywhere
    assert Path("/run/bootserve") in everywhere
    assert own_directory(None, {"XDG_RUNTIME_DIR": "/tmp"}) == everywhere[0]
    assert every_directory(Path("/x"), {"XDG_RUNTIME_DIR": "/tmp"}) == (Path("/x"),)


def test_a_configured_directory_needs_no_temporary_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", _nowhere)
    assert own_directory(Path("/x"), {}) == Path("/x")
    assert own_directory(None, {"RUNTIME_DIRECTORY": "/run/a"}) == Path("/run/a")


def test_without_a_temporary_directory_other_places_are_still_searched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", _nowhere)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(NoRuntimeDir, match=r"no control socket: No usable temporary directory"):
        own_directory(None, {})
    assert every_directory(None, {}) == (Path("/run/bootserve"),)
    assert every_directory(None, {"XDG_RUNTIME_DIR": "/"}) == (
        Path("/bootserve"),
        Path("/run/bootserve"),
    )


def _nowhere() -> str:
    raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")


_SERVE_IN_A_CLOSED_PLACE = """
import tempfile
del os.environ["RUNTIME_DIRECTORY"]
os.environ["XDG_RUNTIME_DIR"] = sys.argv.pop(1)
if sys.argv.pop(1) == "nowhere":
    def nowhere():
        raise FileNotFoundError(2, "No usable temporary directory found")
    tempfile.gettempdir = nowhere
else:
    tempfile.gettempdir = lambda: os.getcwd() + "/tmp"
from bootserve.service import Service
ready = Service._is_ready
def stop_when_ready(self):
    ready(self)
    self._stop(15)
Service._is_ready = stop_when_ready
sys.argv[0] = "bootserve"
bootserve.cli.main()
"""


@pytest.mark.parametrize("temporary", ["there", "nowhere"])
def test_a_session_directory_that_cannot_be_searched_keeps_nobody_from_serving(
    temporary: str, public_dir: Path, unprivileged: Unprivileged
) -> None:
    (public_dir / "session" / "1").mkdir(parents=True)
    (public_dir / "session").chmod(0)
    (public_dir / "tmp").mkdir()
    (public_dir / "tmp").chmod(0o777)
    (public_dir / "root").mkdir()
    try:
        done = unprivileged(
            _SERVE_IN_A_CLOSED_PLACE,
            *(public_dir / "session" / "1", temporary, "serve", "--root", public_dir / "root"),
            *("--http", "127.0.0.1:0", "--tftp", "off"),
            cwd=public_dir,
        )
    finally:
        (public_dir / "session").chmod(0o700)
    assert done.returncode == 0, done.stderr
    assert "is ready" in done.stdout
    assert "Traceback" not in done.stderr
    assert ("no control socket" in done.stderr) == (temporary == "nowhere")


def test_no_server_is_told_with_the_place_that_was_searched(tmp_path: Path) -> None:
    done = upgrade(tmp_path)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("bootserve: no server was found")
    assert str(tmp_path / "run") in line


def test_root_is_sent_to_the_user_of_a_server_whose_directory_anybody_could_have_made(
    public_dir: Path,
) -> None:
    needs.root()
    public_dir.chmod(0o1777)
    (public_dir / "run").mkdir(mode=0o700)
    os.chown(public_dir / "run", 65534, 65534)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(public_dir / "run" / "7.sock"))
        listener.listen()
        done = upgrade(public_dir)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.endswith("if it is another user's, ask as that user")


def test_of_several_servers_one_has_to_be_chosen(tmp_path: Path) -> None:
    with family(tmp_path, CONFIG) as one:
        (tmp_path / "two").mkdir()
        with family(tmp_path / "two", CONFIG.replace('"run"', '"../run"')) as two:
            done = one.upgrade()
            assert done.returncode == 1
            [line] = done.stderr.splitlines()
            assert str(one.pid) in line
            assert str(two.pid) in line
            assert "--pid" in line
            done = one.upgrade("--pid", str(two.pid))
            assert f"taken over from pid {two.pid}" in done.stdout
            assert two.leave() == 0
            assert one.process.poll() is None
            done = one.upgrade("--pid", "1")
            assert done.returncode == 1
            assert "no server with pid 1" in done.stderr


def test_servers_with_the_same_process_id_keep_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As two containers that share the directory have them."""
    monkeypatch.setattr(os, "getpid", lambda: 7)
    tmp_path.chmod(0o700)
    with contextlib.closing(ControlSocket(tmp_path)) as one:
        with contextlib.closing(ControlSocket(tmp_path)) as two:
            assert one.path != two.path
            with pytest.raises(RemoteError, match="several servers have pid 7"):
                _choose([Server(7, one.path, "serving"), Server(7, two.path, "serving")], (), 7)
        assert [path for _, path in control_sockets(tmp_path)] == [one.path]
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(one.path))


def test_a_directory_with_two_names_holds_each_server_once(server: Family) -> None:
    (server.folder / "alias").symlink_to(".")
    found = find([server.folder / "run", server.folder / "alias" / "run"])
    assert [item.pid for item in found] == [server.pid]
