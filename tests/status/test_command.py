"""`bootserve status` beside real servers, as scripts and people run it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from bootserve import control, remote
from bootserve.runtime import ControlSocket
from tests import needs
from tests.conftest import Unprivileged
from tests.family import DEADLINE, Family, family, wait_until

CONFIG = """
[http]
listen = ["127.0.0.1:0"]
[tftp]
listen = ["127.0.0.1:0"]
[assets]
roots = ["root"]
[service]
runtime_dir = "run"
"""
TOTAL = 64 << 20


def status(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*_COMMAND, "--runtime-dir", str(folder / "run"), *args],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


_COMMAND = (sys.executable, "-m", "bootserve", "status")


def servers(folder: Path, *args: str) -> list[dict[str, Any]]:
    done = status(folder, "--json", *args)
    assert done.returncode == 0, done
    found: list[dict[str, Any]] = json.loads(done.stdout)["servers"]
    return found


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Family]:
    _fill(tmp_path)
    with family(tmp_path, CONFIG) as found:
        yield found


def _fill(folder: Path) -> None:
    (folder / "root" / "x86_64").mkdir(parents=True)
    with (folder / "root" / "x86_64" / "initramfs").open("wb") as file:
        file.truncate(TOTAL)


@contextlib.contextmanager
def download(port: int) -> Iterator[None]:
    """A client that is known as a machine and takes its time."""
    curl = needs.program("curl", "curl")
    url = f"http://127.0.0.1:{port}"
    with urllib.request.urlopen(f"{url}/machine.ipxe?mac=52:54:00:12:34:56") as answer:
        answer.read()
    process = subprocess.Popen(
        [curl, "--silent", "--limit-rate", "1M", "-o", os.devnull, f"{url}/boot/x86_64/initramfs"]
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()


def test_every_address_is_told_as_it_is_configured(tmp_path: Path) -> None:
    _fill(tmp_path)
    with family(tmp_path, CONFIG.replace("127.0.0.1:0", "*:0")) as found:
        [server] = servers(found.folder)
    assert [place.partition(":")[0] for place in (*server["http"], *server["tftp"])] == ["*", "*"]


def test_a_slow_download_is_told_to_scripts(server: Family) -> None:
    with download(server.ports()[0]):
        wait_until(lambda: servers(server.folder)[0]["transfers"])
        [found] = servers(server.folder)
        [transfer] = found["transfers"]
    assert found["pid"] == server.pid
    assert found["state"] == "serving"
    assert found["http"] == [f"127.0.0.1:{server.ports()[0]}"]
    assert found["tftp"] == [f"127.0.0.1:{server.ports()[1]}"]
    assert found["health"]["status"] == "ok"
    assert abs(found["started"] + found["uptime"] - time.time()) < DEADLINE
    assert transfer["machine"] == "52:54:00:12:34:56"
    assert transfer["client"] == "127.0.0.1"
    assert transfer["name"] == "x86_64/initramfs"
    assert transfer["total"] == TOTAL
    assert 0 <= transfer["sent"] < TOTAL
    assert transfer["end"] is None
    wait_until(lambda: servers(server.folder)[0]["recent"])
    [found] = servers(server.folder)
    assert found["transfers"] == []
    assert found["recent"][0]["end"] == "client_left"
    assert servers(server.folder, "--recent", "0")[0]["recent"] == []


def test_what_is_no_terminal_gets_it_once(server: Family) -> None:
    with download(server.ports()[0]):
        wait_until(lambda: servers(server.folder)[0]["transfers"])
        done = status(server.folder)
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert re.search(
        r"^52:54:00:12:34:56 127\.0\.0\.1 x86_64/initramfs .* \d+% ", done.stdout, re.M
    )


def test_a_process_that_drains_is_told_of_with_its_transfers(server: Family) -> None:
    with download(server.ports()[0]):
        wait_until(lambda: servers(server.folder)[0]["transfers"])
        new = server.replace()
        found = {each["pid"]: each for each in servers(server.folder)}
        assert {pid: each["state"] for pid, each in found.items()} == {
            server.pid: "draining",
            new: "serving",
        }
        assert len(found[server.pid]["transfers"]) == 1
        assert found[new]["transfers"] == []
        [only] = servers(server.folder, "--pid", str(new))
        assert only["pid"] == new


def test_without_a_server_one_sentence_says_so(tmp_path: Path) -> None:
    for args in ([], ["--json"], ["--pid", "1"]):
        done = status(tmp_path, *args)
        assert done.returncode == 1
        assert done.stdout == ""
        [line] = done.stderr.splitlines()
        assert line.startswith("bootserve: no server")
        assert str(tmp_path / "run") in line


@pytest.mark.parametrize("arguments", [["--once"], ["--json"]])
@pytest.mark.parametrize(
    ("where", "why"),
    [
        (">/dev/full", "cannot write to standard output: No space left on device"),
        (">&-", "standard output is closed; there is nowhere to show anything"),
    ],
)
def test_an_output_that_takes_nothing_is_told_in_a_sentence(
    where: str, why: str, arguments: list[str], server: Family
) -> None:
    command = [*_COMMAND, "--runtime-dir", str(server.folder / "run"), *arguments]
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {where}', "sh", *command],
        stderr=subprocess.PIPE,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, f"bootserve: {why}\n")


def test_another_user_learns_nothing(public_dir: Path, unprivileged: Unprivileged) -> None:
    needs.root()
    _fill(public_dir)
    with family(public_dir, CONFIG):
        # Even if somebody has opened the directory and the socket to all.
        for mode in (0o700, 0o755):
            (public_dir / "run").chmod(mode)
            [path] = (public_dir / "run").glob("*.sock")
            path.chmod(0o666)
            done = unprivileged(
                """
try:
    print(bootserve.remote.statuses([Path(sys.argv[1])]))
except bootserve.remote.RemoteError as error:
    print(error)
""",
                public_dir / "run",
            )
            assert done.stdout.startswith("no server was found"), done
        done = unprivileged(
            """
with socket.socket(socket.AF_UNIX) as client:
    client.connect(sys.argv[1])
    try:
        client.sendall(b'{"command": "status"}\\n')
        print(client.recv(4096))
    except ConnectionError:
        print(b"")
""",
            path,
        )
        assert done.stdout.strip() == "b''"


@pytest.mark.parametrize("line", [b'{"command": "status", "recent": %s}\n' % said for said in (
    b"-1", b"1001", b"true", b'"x"', b"1.5", b"[]")])  # fmt: skip
def test_arguments_that_make_no_sense_are_refused(line: bytes, server: Family) -> None:
    [path] = (server.folder / "run").glob("*.sock")
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(DEADLINE)
        client.connect(str(path))
        client.sendall(line)
        answer = json.loads(client.recv(4096))
        assert "whole number from 0 to 1000" in answer["error"]
        client.sendall(b'{"command": "state"}\n')
        assert json.loads(client.recv(4096))["pid"] == server.pid


async def test_an_older_server_is_called_that(tmp_path: Path) -> None:
    async def state() -> control.Json:
        return {"pid": os.getpid(), "state": "serving"}

    with contextlib.closing(ControlSocket(tmp_path)) as ours:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(control.serve, ours.listener, {"state": state})
            [found] = await anyio.to_thread.run_sync(remote.statuses, [tmp_path])
            tasks.cancel_scope.cancel()
    assert found == {
        "pid": os.getpid(),
        "state": "serving",
        "error": f"the server with pid {os.getpid()} is older than this command",
    }


class Screen:
    """`bootserve status` on a terminal, and everything that it has written there."""

    def __init__(self, folder: Path, *args: str) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 120, 0, 0))
        self.process = subprocess.Popen(
            [*_COMMAND, "--runtime-dir", str(folder / "run"), "--interval", "0.2", *args],
            stdin=theirs,
            stdout=theirs,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TERM": "xterm-256color"},
        )
        os.close(theirs)
        self.written = ""

    def wait_for(self, condition: Callable[[str], object]) -> None:
        """Read until a whole picture, without its colours, is as it should be."""
        deadline = time.monotonic() + DEADLINE
        while not any(condition(picture) for picture in self._pictures()):
            assert time.monotonic() < deadline, self.written
            assert self._read(), self.written

    def leave(self, number: int) -> int:
        """Send a signal and return the exit status."""
        self.process.send_signal(number)
        while self._read():
            pass
        return self.process.wait(DEADLINE)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        os.close(self._ours)

    def _pictures(self) -> list[str]:
        # Each begins at the upper left corner; the last one may not be complete.
        plain = re.sub(r"\x1b\[[0-9;?]*[A-GI-Za-z]", "", self.written)
        pictures = plain.split("\x1b[H")[:-1]
        self.written = self.written[self.written.rfind("\x1b[H") :] if pictures else self.written
        return pictures

    def _read(self) -> bool:
        assert select.select([self._ours], [], [], DEADLINE)[0], self.written
        try:
            more = os.read(self._ours, 65536).decode(errors="replace")
        except OSError:
            return False  # nobody has the other end any more
        self.written += more
        return bool(more)


@pytest.fixture
def watch(server: Family) -> Iterator[Screen]:
    screen = Screen(server.folder)
    try:
        yield screen
    finally:
        screen.close()


def _has_download(picture: str) -> bool:
    return bool(re.search(r"52:54:00:12:34:56 .*x86_64/initramfs .* \d+% ", picture))


def test_the_view_follows_a_download_and_ctrl_c_leaves_it(server: Family, watch: Screen) -> None:
    watch.wait_for(lambda picture: "nothing is in flight" in picture)
    with download(server.ports()[0]):
        watch.wait_for(_has_download)
    watch.wait_for(lambda picture: "client closed the connection" in picture)
    assert watch.leave(signal.SIGINT) == 0
    # The terminal is as it was: the first screen, with its cursor.
    assert "\x1b[?1049l" in watch.written
    assert watch.written.rfind("\x1b[?25h") > watch.written.rfind("\x1b[?25l")


def test_the_view_goes_on_with_the_process_that_takes_over(server: Family, watch: Screen) -> None:
    with download(server.ports()[0]):
        watch.wait_for(_has_download)
        new = server.replace()
        watch.wait_for(
            lambda picture: (
                f"serving · pid {new}" in picture
                and f"draining · pid {server.pid}" in picture
                and _has_download(picture)
            )
        )
    watch.wait_for(lambda picture: f"pid {new}" in picture and "draining" not in picture)
    assert watch.leave(signal.SIGTERM) == 128 + signal.SIGTERM
    assert "\x1b[?1049l" in watch.written


def test_a_server_that_has_stopped_ends_the_view_with_a_sentence(
    server: Family, watch: Screen
) -> None:
    watch.wait_for(lambda picture: "nothing is in flight" in picture)
    server.process.terminate()
    assert server.leave() == 0
    watch.wait_for(lambda picture: "no server is there now" in picture)
    while watch._read():
        pass
    assert watch.process.wait(DEADLINE) == 1
    assert watch.process.stderr is not None
    assert watch.process.stderr.read().startswith("bootserve: no server was found")
