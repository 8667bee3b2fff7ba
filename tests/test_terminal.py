"""What SIGHUP means to a server that was started from a terminal."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

from bootserve.terminal import Terminal
from tests.family import DEADLINE, wait_until

CONFIG = """
[http]
listen = ["127.0.0.1:0"]
[tftp]
listen = "off"
[service]
runtime_dir = "run"
"""


class _Line:
    is_there = True

    def __call__(self) -> bool:
        return self.is_there


def test_a_terminal_that_has_just_gone_is_what_the_signal_tells_of() -> None:
    terminal = Terminal(line := _Line())
    assert terminal.is_expected(0)
    assert not terminal.is_gone()
    line.is_there = False
    assert terminal.is_gone()
    assert terminal.is_expected(10)
    assert terminal.is_gone()


def test_a_terminal_that_went_without_a_signal_was_not_ours() -> None:
    terminal = Terminal(line := _Line())
    line.is_there = False
    assert terminal.is_expected(10)
    assert terminal.is_expected(12)
    assert not terminal.is_expected(14)
    assert not terminal.is_gone()


def test_a_look_that_fails_once_is_forgotten() -> None:
    terminal = Terminal(line := _Line())
    line.is_there = False
    assert terminal.is_expected(10)
    line.is_there = True
    assert terminal.is_expected(12)
    line.is_there = False
    assert terminal.is_expected(14)
    assert terminal.is_gone()


def test_without_a_terminal_none_is_expected() -> None:
    line = _Line()
    line.is_there = False
    terminal = Terminal(line)
    assert not terminal.is_expected(0)
    assert not terminal.is_gone()


# A shell with job control: the server has a process group of its own, in the background, and the
# kernel tells only the foreground of the terminal's end.
_SHELL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
pid = os.fork()
if pid == 0:
    os.setpgid(0, 0)
    os.execv(sys.argv[1], sys.argv[1:])
print(pid, flush=True)
sys.stdin.readline()
"""


def test_a_server_that_has_outlived_its_terminal_is_upgraded_by_the_signal(tmp_path: Path) -> None:
    (tmp_path / "bootserve.toml").write_text(CONFIG)
    command = (sys.executable, "-m", "bootserve", "serve", "--config", "bootserve.toml")
    log = tmp_path / "stderr"
    master, slave = pty.openpty()
    with log.open("wb") as err:
        shell = subprocess.Popen(
            [sys.executable, "-c", _SHELL, *command],
            cwd=tmp_path,
            stdin=slave,
            stdout=slave,
            stderr=err,
            start_new_session=True,
        )
    text = b""
    try:
        os.close(slave)
        while b"is ready" not in text:
            text += os.read(master, 4096)
        pid = int(text.split()[0])
        try:
            os.write(master, b"exit\n")
            assert shell.wait(DEADLINE) == 0
            wait_until(lambda: "the terminal of the start was closed" in log.read_text())
            os.kill(pid, signal.SIGHUP)
            wait_until(lambda: "has taken over" in log.read_text())
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
    finally:
        shell.kill()
        shell.wait()
        os.close(master)
    assert "stopping, because" not in log.read_text()
