"""Starting the process that is to take over: what it gets, and how it may fail."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio.to_thread
import pytest

from bootserve.handover import HandoverFailed, Start, start_successor
from bootserve.http.listener import open_listener
from bootserve.systemd import Inherited
from tests.family import DEADLINE, is_running, wait_until


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


_READY = "import os; os.write(int(os.environ['BOOTSERVE_HANDOVER_FD']), b'{\"problems\": []}\\n')\n"
_CLOSED = "os.close(int(os.environ['BOOTSERVE_HANDOVER_FD'])); import time; time.sleep(600)"


@pytest.mark.parametrize(
    ("code", "is_gap"),
    [
        pytest.param("os.kill(os.getpid(), 9)", True, id="dies"),
        pytest.param(
            "os.write(int(os.environ['BOOTSERVE_HANDOVER_FD']), b'leaving\\n')", False, id="leaves"
        ),
        pytest.param(_CLOSED, False, id="is older than the rule that the pipe is kept"),
    ],
)
async def test_a_successor_that_goes(code: str, is_gap: bool) -> None:
    with _sockets() as sockets:
        successor = await start_successor(_start(_READY + code), sockets)
    assert await successor.leaves_a_gap() is is_gap
    with contextlib.suppress(ProcessLookupError):
        os.kill(successor.pid, signal.SIGKILL)
    await anyio.to_thread.run_sync(os.waitpid, successor.pid, 0)


async def test_what_a_successor_says_is_escaped() -> None:
    code = "from bootserve.successor import Predecessor\n"
    code += "Predecessor.take().tell_failed(['a\\nb\\x1b[31m', 'c'])"
    assert await _failure(_start(code)) == "a\\nb\\x1b[31m; c"
