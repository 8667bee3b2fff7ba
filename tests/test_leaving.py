"""How a server leaves: told to stop, replaced, cut, or with its terminal."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.downloads import CONFIG, assets, configure, finishes, get, slow_download
from tests.family import DEADLINE, Family, family, is_running, wait_until


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Family]:
    assets(tmp_path)
    with family(tmp_path, CONFIG) as found:
        yield found


def _newest(server: Family) -> int:
    """Who serves after one that has died."""
    wait_until(lambda: re.search(r" W pid \d+ has taken over$", server.log(), re.MULTILINE))
    [pid] = re.findall(r" W pid (\d+) has taken over$", server.log(), re.MULTILINE)
    return int(pid)


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_drain_that_takes_too_long_is_cut(is_replaced: bool, server: Family) -> None:
    configure(server, "[service]", "[service]\ndrain_timeout = 1")
    first = server.replace()
    # It accepts to its end, and knows of no limit.
    assert server.leave() == 0
    http, _ = server.ports()
    with slow_download(http) as client:
        if is_replaced:
            assert server.replace() != first
        else:
            os.kill(first, signal.SIGTERM)
        server.wait_for_log("service.drain_timeout, 1 s, is over; transfers cut off: 1")
        wait_until(lambda: not is_running(first))
        with contextlib.suppress(ConnectionError):
            assert not finishes(client)
    assert "server was stopped" in server.log()


def test_a_drain_that_is_cut_is_no_success(tmp_path: Path) -> None:
    assets(tmp_path)
    with family(tmp_path, CONFIG + "drain_timeout = 1\n") as server:
        http, _ = server.ports()
        with slow_download(http):
            server.process.terminate()
            assert server.leave() == 1


def test_after_a_hand_over_the_second_signal_cuts(server: Family) -> None:
    http, _ = server.ports()
    with slow_download(http):
        new = server.replace()
        server.process.terminate()
        server.wait_for_log("stopping already; transfers that go on to their end: 1")
        assert server.process.poll() is None
        server.process.terminate()
        assert server.leave() == 1
    assert "transfers cut off: 1" in server.log()
    assert is_running(new)


def test_who_still_drains_replaces_a_successor_that_dies(server: Family) -> None:
    http, _ = server.ports()
    with slow_download(http) as client:
        new = server.replace()
        os.kill(new, signal.SIGKILL)
        server.wait_for_log(f"pid {new}, which had taken over, was ended by SIGKILL")
        newest = _newest(server)
        assert newest not in (server.pid, new)
        assert get(server.ports()[0], "name") == b"one"
        assert finishes(client)
        assert server.leave() == 0
    assert is_running(newest)
    assert "nothing was cut off" in server.log()


def test_the_oldest_that_drains_does_so_when_all_that_came_later_are_gone(server: Family) -> None:
    http, _ = server.ports()
    with slow_download(http) as client:
        second = server.replace()
        third = server.replace()
        wait_until(lambda: not is_running(second))
        os.kill(third, signal.SIGKILL)
        assert _newest(server) not in (server.pid, second, third)
        assert get(server.ports()[0], "name") == b"one"
        assert finishes(client)
    assert server.leave() == 0


def test_of_several_that_drain_only_the_youngest_replaces_who_died(server: Family) -> None:
    http, _ = server.ports()
    with slow_download(http) as client:
        second = server.replace()
        with slow_download(http) as later_client:
            third = server.replace()
            os.kill(third, signal.SIGKILL)
            newest = _newest(server)
            assert f"pid {second}, which still drains, sees to it" in server.log()
            assert finishes(later_client)
        wait_until(lambda: not is_running(second))
        assert get(server.ports()[0], "name") == b"one"
        assert is_running(newest)
        assert finishes(client)
    assert server.leave() == 0
    assert server.log().count("nobody serves any more") == 1


def test_nobody_replaces_a_successor_that_was_told_to_stop(server: Family) -> None:
    with slow_download(server.ports()[0]) as client:
        new = server.replace()
        os.kill(new, signal.SIGTERM)
        wait_until(lambda: not is_running(new))
        assert finishes(client)
        assert server.leave() == 0
    assert "nobody serves" not in server.log()


def test_a_mistake_that_keeps_everybody_from_serving_may_be_mended(server: Family) -> None:
    with slow_download(server.ports()[0]) as client:
        new = server.replace()
        config = server.folder / "bootserve.toml"
        config.rename(config.with_suffix(".away"))
        os.kill(new, signal.SIGKILL)
        server.wait_for_log("No such file or directory; the next attempt is in 1 s")
        config.with_suffix(".away").rename(config)
        _newest(server)
        assert get(server.ports()[0], "name") == b"one"
        assert finishes(client)
    assert server.leave() == 0


def test_whoever_is_told_to_stop_seeks_nobody_any_more(server: Family) -> None:
    with slow_download(server.ports()[0]) as client:
        new = server.replace()
        (server.folder / "bootserve.toml").unlink()
        os.kill(new, signal.SIGKILL)
        server.wait_for_log("the next attempt is in")
        server.process.terminate()
        server.wait_for_log("stopping already")
        assert finishes(client)
        assert server.leave() == 0
    assert "nothing was cut off" in server.log()


def test_a_defect_that_keeps_everybody_from_serving_cuts_nobody_off(tmp_path: Path) -> None:
    assets(tmp_path)
    (tmp_path / "program.py").write_text(
        "from bootserve import cli, succession\n"
        "genuine = succession.start_successor\n"
        "async def start_successor(*args, **more):\n"
        "    succession.start_successor = broken\n"
        "    return await genuine(*args, **more)\n"
        "async def broken(*args, **more):\n"
        "    succession.start_successor = genuine\n"
        "    raise RuntimeError('no more threads')\n"
        "succession.start_successor = start_successor\n"
        "cli.main()\n"
    )
    # It takes the place of `-m bootserve`.
    code = "import os, sys; os.execv(sys.executable, [sys.executable, sys.argv[1], *sys.argv[5:]])"
    launcher = (sys.executable, "-c", code, str(tmp_path / "program.py"))
    with family(tmp_path, CONFIG, launcher=launcher) as server:
        with slow_download(server.ports()[0]) as client:
            new = server.replace()
            os.kill(new, signal.SIGKILL)
            server.wait_for_log("RuntimeError: no more threads")
            _newest(server)
            assert finishes(client)
        assert server.leave() == 0


def test_the_last_to_leave_says_that_nobody_serves(server: Family) -> None:
    with slow_download(server.ports()[0]) as client:
        new = server.replace()
        (server.folder / "bootserve.toml").unlink()
        os.kill(new, signal.SIGKILL)
        server.wait_for_log("the next attempt is in")
        assert finishes(client)
        assert server.leave() == 1
    assert f"pid {server.pid} has left, and nobody serves" in server.log()


def test_a_terminal_that_is_closed_stops_the_server(tmp_path: Path) -> None:
    assets(tmp_path)
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
    assets(tmp_path)
    with family(tmp_path, CONFIG, launcher=("nohup",)) as server:
        server.hang_up()
        server.replace()
        assert server.log().count("starting a new process") == 1


def test_a_server_whose_output_nobody_reads_can_be_replaced(tmp_path: Path) -> None:
    assets(tmp_path)
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
