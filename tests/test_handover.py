"""A process that is replaced while it serves, as its operator and its clients see it."""

from __future__ import annotations

import contextlib
import functools
import os
import pty
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import anyio.to_thread
import pytest

from bootserve.handover import HandoverFailed, Start, start_successor
from bootserve.http.listener import open_listener
from bootserve.systemd import Inherited
from tests import needs
from tests.family import DEADLINE, Family, descriptors, family, is_running, wait_until

BIG = os.urandom(1 << 20) * 16

CONFIG = """
[http]
listen = ["127.0.0.1:0"]
[tftp]
listen = ["127.0.0.1:0"]
[assets]
roots = ["one"]
[service]
runtime_dir = "run"
"""


def _assets(folder: Path) -> None:
    for name in ("one", "two"):
        (folder / name).mkdir()
        (folder / name / "name").write_text(name)
        (folder / name / "big").write_bytes(BIG)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Family]:
    _assets(tmp_path)
    with family(tmp_path, CONFIG) as found:
        yield found


def _request(port: int, name: str, *, buffer: int | None = None) -> socket.socket:
    client = socket.socket()
    client.settimeout(DEADLINE)
    if buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    client.connect(("127.0.0.1", port))
    request = f"GET /boot/{name} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    client.sendall(request.encode())
    return client


def _rest(client: socket.socket) -> bytes:
    data = bytearray()
    while more := client.recv(1 << 20):
        data += more
    return bytes(data)


def _get(port: int, name: str) -> bytes:
    with _request(port, name) as client:
        head, _, body = _rest(client).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), head
    return body


@contextlib.contextmanager
def _slow_download(port: int) -> Iterator[socket.socket]:
    with _request(port, "big", buffer=4096) as client:
        assert client.recv(12) == b"HTTP/1.1 200"
        yield client


def _finishes(client: socket.socket) -> bool:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    return _rest(client).partition(b"\r\n\r\n")[2] == BIG


def _configure(server: Family, old: str, new: str) -> None:
    path = server.folder / "bootserve.toml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


# --- what an upgrade does ------------------------------------------------------------------------


def test_a_hangup_signal_brings_the_new_configuration_on_the_same_ports(server: Family) -> None:
    http, tftp = server.ports()
    assert _get(http, "name") == b"one"
    _configure(server, '"one"', '"two"')
    server.hang_up()
    assert server.leave() == 0
    assert server.ports() == (http, tftp)
    assert _get(http, "name") == b"two"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(DEADLINE)
        client.sendto(b"\0\1name\0octet\0", ("127.0.0.1", tftp))
        assert client.recv(2048) == b"\0\3\0\1two"
    assert "Traceback" not in server.log()


def test_new_code_is_what_the_new_process_runs(tmp_path: Path) -> None:
    _assets(tmp_path)
    program = tmp_path / "program.py"
    code = "import sys\nfrom bootserve.cli import main\nprint('{}', file=sys.stderr)\nmain()\n"
    program.write_text(code.format("the old code"))
    # The new release has the old one's place, by a symbolic link that the shell went through.
    (tmp_path / "current").symlink_to(".")
    launcher = (sys.executable, "-c", _CHANGE_DIRECTORY, str(tmp_path / "current"))
    with family(tmp_path, CONFIG, launcher=launcher) as server:
        new = tmp_path / "new"
        new.mkdir()
        (new / "program.py").write_text(code.format("the new code"))
        (tmp_path / "current").unlink()
        (tmp_path / "current").symlink_to("new")
        server.replace()
        assert "the old code" in server.log()
        assert "the new code" in server.log()


_CHANGE_DIRECTORY = """
import os, sys
directory, python, _, _, *arguments = sys.argv[1:]
os.chdir(directory)
os.environ["PWD"] = directory
os.execv(python, [python, "program.py", *arguments])
"""


def test_the_old_process_stays_as_long_as_its_last_client_takes(server: Family) -> None:
    http, _ = server.ports()
    with _slow_download(http) as client:
        new = server.replace()
        _get(http, "name")
        assert server.process.poll() is None
        assert _finishes(client)
    assert server.leave() == 0
    assert is_running(new)
    assert f"{len(BIG)} of {len(BIG)} bytes" in server.log()


def test_an_upgrade_says_who_took_over_from_whom(server: Family) -> None:
    done = server.upgrade()
    assert done.returncode == 0
    assert done.stdout.endswith(f" has taken over from pid {server.pid}\n")
    new = int(done.stdout.split()[1])
    server.wait_for_log(f"pid {new} has taken over; this process, pid {server.pid}, leaves")


def test_upgrades_in_a_chain_leave_no_descriptors_and_no_processes_behind(server: Family) -> None:
    http, _ = server.ports()
    wait_until(lambda: server.process.poll() is None)
    before = descriptors(server.pid)
    pids = [server.pid]
    for _ in range(10):
        pids.append(server.replace())
    assert descriptors(pids[-1]) == before
    assert server.leave() == 0
    wait_until(lambda: [pid for pid in pids if is_running(pid)] == pids[-1:])
    assert _get(http, "name") == b"one"


def test_a_failed_upgrade_leaves_no_descriptors_behind(server: Family) -> None:
    before = descriptors(server.pid)
    _configure(server, "roots", "rots")
    for _ in range(3):
        assert server.upgrade().returncode == 1
    assert descriptors(server.pid) == before


# --- what may go wrong ---------------------------------------------------------------------------


def test_a_broken_configuration_leaves_the_old_process_serving(server: Family) -> None:
    http, _ = server.ports()
    _configure(server, "roots", "rots")
    done = server.upgrade()
    assert done.returncode == 1
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith(f"bootserve: {server.folder / 'bootserve.toml'}: assets.rots: ")
    assert "did you mean 'roots'?" in line
    server.wait_for_log(
        f"no upgrade, pid {server.pid} goes on as it was: {line[len('bootserve: ') :]}"
    )
    assert _get(http, "name") == b"one"
    _configure(server, "rots", "roots")
    server.replace()


def test_a_new_address_that_is_busy_leaves_the_old_process_serving(server: Family) -> None:
    http, _ = server.ports()
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        _configure(server, '"127.0.0.1:0"]\n[tftp]', f'"127.0.0.1:0", "127.0.0.1:{port}"]\n[tftp]')
        server.hang_up()
        server.wait_for_log(
            f"pid {server.pid} goes on as it was: HTTP cannot listen on 127.0.0.1:{port}"
        )
    assert _get(http, "name") == b"one"
    server.replace()


def test_only_one_upgrade_at_a_time_and_none_while_leaving(server: Family) -> None:
    http, _ = server.ports()
    with _slow_download(http) as client:
        # The new process reads its configuration from a pipe, and so waits as long as we like.
        path = server.folder / "bootserve.toml"
        path.unlink()
        os.mkfifo(path)
        server.hang_up()
        server.wait_for_log("starting a new process")
        server.hang_up()
        server.wait_for_log("an upgrade is under way already")
        path.write_text(CONFIG)
        server.wait_for_log("has taken over")
        server.hang_up()
        server.wait_for_log("it is leaving and has nothing to hand over")
        assert _finishes(client)
    assert server.leave() == 0
    assert server.log().count("starting a new process") == 1
    assert "goes on as it was" not in server.log()


def test_many_who_ask_for_the_same_upgrade_are_told_and_fill_no_log(server: Family) -> None:
    path = server.folder / "bootserve.toml"
    path.unlink()
    os.mkfifo(path)
    server.hang_up()
    server.wait_for_log("starting a new process")
    [control] = (server.folder / "run").iterdir()
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(DEADLINE)
        client.connect(str(control))
        for _ in range(50):
            client.sendall(b'{"command": "upgrade"}\n')
            assert b"under way already" in client.recv(4096)
    path.write_text(CONFIG)
    server.wait_for_log("has taken over")
    assert 1 <= server.log().count("under way already") <= 10


def test_a_stop_in_the_middle_of_an_upgrade_ends_both(server: Family) -> None:
    path = server.folder / "bootserve.toml"
    path.unlink()
    os.mkfifo(path)
    server.hang_up()
    server.wait_for_log("starting a new process")
    server.process.terminate()
    assert server.leave() == 0
    assert "has taken over" not in server.log()
    assert f"no upgrade of pid {server.pid}: it was told to stop meanwhile" in server.log()
    assert "goes on as it was" not in server.log()
    with pytest.raises(ProcessLookupError):
        os.killpg(server.pid, 0)


# Its configuration comes from a pipe, and so it starts as slowly as we like.
_SLOW_START = """
import os, sys
os.unlink(sys.argv[-1])
os.mkfifo(sys.argv[-1])
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_a_hangup_signal_during_the_start_waits_until_there_is_something_to_replace(
    tmp_path: Path,
) -> None:
    _assets(tmp_path)
    launcher = (sys.executable, "-c", _SLOW_START)
    with family(tmp_path, CONFIG, launcher=launcher, is_ready=False) as server:
        path = server.folder / "bootserve.toml"
        wait_until(path.is_fifo)
        for started in range(2):
            # This waits until somebody reads it.
            with path.open("w") as config:
                server.hang_up(server.successor() if started else server.pid)
                config.write(CONFIG)
            wait_until(lambda: server.log().count("starting a new process") > started)  # noqa: B023
        path.write_text(CONFIG)
        assert server.leave() == 0
        wait_until(lambda: server.log().count("has taken over") == 2)
        http, _ = server.ports()
        assert _get(http, "name") == b"one"


# --- how a process leaves ------------------------------------------------------------------------


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_drain_that_takes_too_long_is_cut(is_replaced: bool, server: Family) -> None:
    _configure(server, "[service]", "[service]\ndrain_timeout = 1")
    first = server.replace()
    # It accepts to its end, and knows of no limit.
    assert server.leave() == 0
    http, _ = server.ports()
    with _slow_download(http) as client:
        if is_replaced:
            assert server.replace() != first
        else:
            os.kill(first, signal.SIGTERM)
        server.wait_for_log("service.drain_timeout, 1 s, is over; transfers cut off: 1")
        wait_until(lambda: not is_running(first))
        with contextlib.suppress(ConnectionError):
            assert not _finishes(client)
    assert "server was stopped" in server.log()


def test_a_drain_that_is_cut_is_no_success(tmp_path: Path) -> None:
    _assets(tmp_path)
    with family(tmp_path, CONFIG + "drain_timeout = 1\n") as server:
        http, _ = server.ports()
        with _slow_download(http):
            server.process.terminate()
            assert server.leave() == 1


def test_after_a_hand_over_the_second_signal_cuts(server: Family) -> None:
    http, _ = server.ports()
    with _slow_download(http):
        new = server.replace()
        server.process.terminate()
        server.wait_for_log("stopping already; transfers that go on to their end: 1")
        assert server.process.poll() is None
        server.process.terminate()
        assert server.leave() == 1
    assert "transfers cut off: 1" in server.log()
    assert is_running(new)


def test_the_end_of_a_successor_is_reported_by_who_still_drains(server: Family) -> None:
    http, _ = server.ports()
    with _slow_download(http) as client:
        new = server.replace()
        os.kill(new, signal.SIGKILL)
        server.wait_for_log(f"pid {new}, which had taken over, was ended by SIGKILL")
        assert _finishes(client)
    assert server.leave() == 0


def test_a_terminal_that_is_closed_stops_the_server(tmp_path: Path) -> None:
    _assets(tmp_path)
    (tmp_path / "bootserve.toml").write_text(CONFIG)
    master, slave = pty.openpty()
    launcher = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
    launcher += "os.execv(sys.argv[1], sys.argv[1:])"
    command = [sys.executable, "-c", launcher, sys.executable, "-m", "bootserve", "serve"]
    with (tmp_path / "stderr").open("wb") as err:
        process = subprocess.Popen(
            [*command, "--config", str(tmp_path / "bootserve.toml")],
            stdin=slave,
            stdout=slave,
            stderr=err,
            start_new_session=True,
        )
    try:
        os.close(slave)
        text = b""
        while b"is ready" not in text:
            text += os.read(master, 4096)
        os.close(master)
        assert process.wait(DEADLINE) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    log = (tmp_path / "stderr").read_text()
    assert "the terminal was closed" in log
    assert "starting a new process" not in log


def test_nohup_means_that_the_signal_means_nothing(tmp_path: Path) -> None:
    _assets(tmp_path)
    with family(tmp_path, CONFIG, launcher=("nohup",)) as server:
        server.hang_up()
        server.replace()
        assert server.log().count("starting a new process") == 1


def test_a_server_whose_output_nobody_reads_can_be_replaced(tmp_path: Path) -> None:
    _assets(tmp_path)
    reading, writing = os.pipe()
    launcher = "import os, sys; os.dup2(int(sys.argv[1]), 1); os.execv(sys.argv[2], sys.argv[2:])"
    with family(
        tmp_path,
        CONFIG,
        launcher=(sys.executable, "-c", launcher, str(writing)),
        pass_fds=(writing,),
        is_ready=False,
    ) as server:
        os.close(writing)
        text = b""
        while b"is ready" not in text:
            more = os.read(reading, 4096)
            assert more, server.log()
            text += more
        os.close(reading)
        server.replace()


# --- starting a successor ------------------------------------------------------------------------


def _start(code: str) -> Start:
    return Start((sys.executable, "-c", code), None)


@contextlib.contextmanager
def _sockets() -> Iterator[list[Inherited]]:
    with (
        open_listener(socket.AF_INET, "127.0.0.1", 0) as one,
        open_listener(socket.AF_INET, "127.0.0.1", 0) as two,
    ):
        # In the reverse order of their numbers, so that they have to change places.
        yield [Inherited(two), Inherited(one, "a.socket")]


async def _failure(start: Start, within: float = DEADLINE) -> str:
    with _sockets() as sockets, pytest.raises(HandoverFailed) as caught:
        await start_successor(start, sockets, within=within)
    return str(caught.value)


async def test_a_successor_finds_the_sockets_in_their_order_and_nothing_else() -> None:
    code = """
import os, sys
from bootserve.successor import Predecessor
from bootserve.systemd import inherited_sockets
predecessor = Predecessor.take()
inherited = inherited_sockets()
found = [f"{item.name} {item.sock.getsockname()[1]}" for item in inherited]
numbers = [int(number) for number in os.listdir("/proc/self/fd")]
# Three of the standard streams, two sockets, the pipe, and the directory itself.
predecessor.tell_failed([*found, str(len(numbers)), *(n for n in os.environ if "LISTEN" in n)])
"""
    with _sockets() as sockets:
        with pytest.raises(HandoverFailed) as caught:
            await start_successor(_start(code), sockets)
        expected = [f"{item.name} {item.sock.getsockname()[1]}" for item in sockets]
    assert list(caught.value.problems) == [*expected, "7"]


@pytest.mark.parametrize(
    ("code", "how"),
    [
        ("raise SystemExit(3)", "ended with exit status 3 before it was ready"),
        ("import os; os.kill(os.getpid(), 9)", "was ended by SIGKILL before it was ready"),
    ],
)
async def test_a_successor_that_dies(code: str, how: str) -> None:
    assert how in await _failure(_start(code))


async def test_a_successor_that_talks_nonsense() -> None:
    code = "import os; os.write(int(os.environ['BOOTSERVE_HANDOVER_FD']), b'x' * 40000)"
    assert "ended with exit status 0 before it was ready" in await _failure(_start(code))


async def test_a_successor_that_is_never_ready_is_ended(tmp_path: Path) -> None:
    code = f"import os, time; open({str(tmp_path / 'pid')!r}, 'x').write(str(os.getpid()))\n"
    code += "time.sleep(600)"
    failure = await _failure(_start(code), within=3)
    assert "was not ready within 3 s and was ended" in failure
    assert not is_running(int((tmp_path / "pid").read_text()))


async def test_nobody_waits_for_a_successor_any_more(tmp_path: Path) -> None:
    code = f"import os, time; open({str(tmp_path / 'pid')!r}, 'x').write(str(os.getpid()))\n"
    code += "time.sleep(600)"
    with _sockets() as sockets:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(start_successor, _start(code), sockets)
            pid = tmp_path / "pid"
            await anyio.to_thread.run_sync(
                wait_until, lambda: pid.exists() and pid.read_text() != ""
            )
            tasks.cancel_scope.cancel()
    assert not is_running(int(pid.read_text()))


@pytest.mark.parametrize(
    ("start", "what"),
    [
        (Start(("/no/such/python",), None), "/no/such/python"),
        (Start((sys.executable, "-c", ""), "/no/such/directory"), "/no/such/directory"),
    ],
)
async def test_a_successor_that_cannot_be_started(start: Start, what: str) -> None:
    failure = await _failure(start)
    assert what in failure
    assert "\n" not in failure


@pytest.mark.parametrize("free", [0, 2, 3])
async def test_without_descriptors_there_is_no_successor(free: int) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with _sockets() as sockets, contextlib.ExitStack() as stack:
        await anyio.to_thread.run_sync(lambda: None)
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        taken: list[int] = []
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        for _ in range(free):
            os.close(taken.pop())
        for number in taken:
            stack.callback(os.close, number)
        with pytest.raises(HandoverFailed, match="Too many open files"):
            await start_successor(_start("pass"), sockets)


async def test_what_a_successor_says_is_escaped() -> None:
    code = "from bootserve.successor import Predecessor\n"
    code += "Predecessor.take().tell_failed(['a\\nb\\x1b[31m', 'c'])"
    assert await _failure(_start(code)) == "a\\nb\\x1b[31m; c"


# --- no request is refused -----------------------------------------------------------------------


def _all_grew(counts: list[int], before: list[int]) -> bool:
    return all(now > then + 1 for now, then in zip(counts, before, strict=True))


def test_no_request_is_refused_while_processes_change(server: Family) -> None:
    http, tftp = server.ports()
    is_over = threading.Event()
    failures: list[str] = []
    counts = [0] * 9

    def ask_by_http(index: int) -> None:
        while not is_over.is_set():
            try:
                assert _get(http, "name") == b"one"
            except (OSError, AssertionError) as error:
                failures.append(repr(error))
            counts[index] += 1

    def ask_by_tftp(index: int) -> None:
        while not is_over.is_set():
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.settimeout(DEADLINE)
                # Asked once: a request that is lost stays lost.
                client.sendto(b"\0\1name\0octet\0", ("127.0.0.1", tftp))
                try:
                    data, session = client.recvfrom(2048)
                    client.sendto(b"\0\4\0\1", session)
                    assert data == b"\0\3\0\1one"
                except (OSError, AssertionError) as error:
                    failures.append(repr(error))
            counts[index] += 1

    threads = [threading.Thread(target=ask_by_http, args=(index,)) for index in range(8)]
    threads.append(threading.Thread(target=ask_by_tftp, args=(8,)))
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            before = list(counts)
            server.replace()
            # Each client has met the new process, too.
            wait_until(functools.partial(_all_grew, counts, before))
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert server.leave() == 0


def test_pid_1_of_a_container_says_why_it_cannot_be_replaced(tmp_path: Path) -> None:
    needs.root()
    unshare = needs.program("unshare", "util-linux")
    _assets(tmp_path)
    launcher = (unshare, "--pid", "--fork", "--kill-child", "--")
    with family(tmp_path, CONFIG, launcher=launcher) as server:
        done = server.upgrade()
        assert done.returncode == 1
        [line] = done.stderr.splitlines()
        assert "as PID 1 of a container" in line
        http, _ = server.ports()
        assert _get(http, "name") == b"one"
