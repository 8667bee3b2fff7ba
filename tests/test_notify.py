"""What systemd is told of a server: how it is, and whether its watchdog is fed."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import resource
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootserve.assembly import Assembly
from bootserve.doors import open_doors
from bootserve.endpoint import Endpoint
from bootserve.http import accept
from bootserve.notify import (
    TICK,
    Notices,
    Notifier,
    Report,
    watchdog_time,
    what_goes_on,
    what_is_served,
)
from bootserve.settings import load
from tests import downloads
from tests.downloads import assets, configure, finishes, slow_download
from tests.family import is_running, wait_until
from tests.manager import Manager, manager, service

WATCHDOG = 1.5


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Manager]:
    with manager(str(tmp_path / "notify")) as found:
        yield found


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 30.0),
        ({"WATCHDOG_USEC": "1500000"}, 1.5),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0", "WATCHDOG_PID": "7"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "9" * 5000}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_whose_the_environment_says(
    environ: dict[str, str], expected: float | None
) -> None:
    assert watchdog_time(environ, 7) == expected


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        (["*:80"], "HTTP on *:80"),
        (["0.0.0.0:80", "[::]:80"], "HTTP on *:80"),
        (["0.0.0.0:80", "[::]:8080"], "HTTP on 0.0.0.0:80 and [::]:8080"),
        (["127.0.0.1:1", "[::]:80", "0.0.0.0:80"], "HTTP on 127.0.0.1:1 and *:80"),
        ([], ""),
    ],
)
def test_addresses_are_told_as_they_are_configured(addresses: list[str], expected: str) -> None:
    assert what_is_served({"HTTP": [Endpoint.parse(text) for text in addresses]}) == expected


def test_what_goes_on_is_told_in_a_few_words() -> None:
    assert what_goes_on(0, 0, 0) == "idle"
    assert what_goes_on(1, 1, 0) == "1 transfer to 1 client"
    assert what_goes_on(12, 9, 1) == "12 transfers to 9 clients, 1 silent"


@given(
    watchdog=st.floats(0.5, 120),
    looks=st.lists(
        st.tuples(st.booleans(), st.booleans(), st.sampled_from(["a", "b"])),
        min_size=1,
        max_size=60,
    ),
)
def test_the_watchdog_hears_often_enough_and_only_of_what_is_sound(
    watchdog: float, looks: list[tuple[bool, bool, str]]
) -> None:
    notices = Notices(watchdog)
    now = fed = 1000.0
    known = ""
    in_time = True  # every look since the last meal was sound, and delivered
    for is_sound, is_delivered, status in looks:
        sent: list[str] = []

        def send(message: str, sent: list[str] = sent, ok: bool = is_delivered) -> bool:
            sent.append(message)
            return ok

        notices.tell(Report(status, is_sound), now, send)
        lines = [line for message in sent for line in message.split("\n")]
        assert "WATCHDOG=1" not in lines or is_sound
        assert (f"STATUS={status}" in lines) == (status != known)
        if is_delivered:
            known = status
        in_time = in_time and is_sound and is_delivered
        if is_delivered and "WATCHDOG=1" in lines:
            fed, in_time = now, True
        if in_time:
            assert now + notices.interval - fed < watchdog / 2
        now += notices.interval


def test_without_a_watchdog_nothing_is_said_until_there_is_news() -> None:
    notices = Notices(None)
    sent: list[str] = []
    for second in range(100):
        notices.tell(Report("idle"), second, lambda text: not sent.append(text))  # type: ignore[func-returns-value]
    assert sent == ["STATUS=idle"]
    assert notices.interval == TICK


async def test_an_event_loop_that_is_blocked_feeds_nothing(systemd: Manager) -> None:
    notifier = Notifier(systemd.address, WATCHDOG)
    task = asyncio.create_task(notifier.run(lambda: Report("idle")))
    await asyncio.sleep(0)
    assert systemd.receive().fields == {"STATUS": "idle", "WATCHDOG": "1"}
    # The loop does nothing else meanwhile; that is what is tried.
    time.sleep(WATCHDOG)  # noqa: ASYNC251
    systemd.sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        systemd.receive()
    await asyncio.sleep(0.01)
    assert systemd.receive().fields == {"WATCHDOG": "1"}
    task.cancel()
    notifier.close()


async def test_what_could_not_be_delivered_is_told_at_the_next_look(systemd: Manager) -> None:
    notifier = Notifier(systemd.address, WATCHDOG)
    status = "one"
    task = asyncio.create_task(notifier.run(lambda: Report(status)))
    await asyncio.sleep(0)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as other:
        with contextlib.suppress(BlockingIOError):
            while True:
                other.sendto(b"X=1", systemd.address)
        status = "two"
        notifier.look()  # would block for ever if it could
    systemd.forget()
    notifier.look()
    assert systemd.receive().fields["STATUS"] == "two"
    task.cancel()
    notifier.close()


async def test_a_process_without_a_free_descriptor_is_fed_all_the_same(systemd: Manager) -> None:
    notifier = Notifier(systemd.address, WATCHDOG)
    task = asyncio.create_task(notifier.run(lambda: Report("idle")))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            socket.socket()
        await asyncio.sleep(0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert systemd.receive().fields["WATCHDOG"] == "1"
    task.cancel()
    notifier.close()


def _assembly(tmp_path: Path) -> Assembly:
    settings = load(
        flags={
            "assets": {"roots": [tmp_path]},
            "http": {"listen": ["127.0.0.1:0"]},
            "tftp": {"listen": ["127.0.0.1:0"]},
        }
    )
    return Assembly(settings, open_doors(settings), lambda: None, lambda: "serving")


async def test_a_door_that_is_down_is_unsound_and_one_that_is_busy_is_not(tmp_path: Path) -> None:
    parts = _assembly(tmp_path)
    ready = asyncio.Event()
    parts.http._on_started = ready.set
    tftp = asyncio.create_task(parts.tftp.serve(task_status=_Started(ready)))
    await ready.wait()
    ready.clear()
    http = asyncio.create_task(parts.http.serve(parts._doors.http))
    await ready.wait()
    try:
        assert parts.report().is_sound
        assert parts.report().status.endswith("; idle")
        # As when every descriptor is taken.
        parts.budget.count(lambda: 1 << 30)
        assert not parts.budget.may_accept
        assert parts.health.report(is_ready=True)[0] == 503
        assert parts.report().is_sound
        parts._doors.tftp[0].close()
        assert not parts.report().is_sound
        assert parts.report().status == "TFTP: a listening socket was closed"
        parts.drain()
        assert parts.report().is_stopping
        assert parts.report().is_sound
    finally:
        http.cancel()
        tftp.cancel()
        await asyncio.gather(http, tftp, return_exceptions=True)
        parts._doors.close()


async def test_a_monitor_hears_at_one_address_that_another_one_is_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accept, "_RETRY", 0.01)
    settings = load(
        flags={
            "assets": {"roots": [tmp_path]},
            "http": {"listen": ["127.0.0.1:0", "127.0.0.2:0"]},
            "tftp": {"listen": "off"},
        }
    )
    ready = asyncio.Event()
    parts = Assembly(settings, open_doors(settings), ready.set, lambda: "serving")
    serving = asyncio.create_task(parts.http.serve(parts._doors.http))
    await ready.wait()
    try:
        port = parts._doors.http[1].getsockname()[1]
        assert await asyncio.to_thread(_reasons, port) == []
        parts._doors.http[0].shutdown(socket.SHUT_RD)
        await asyncio.to_thread(wait_until, lambda: bool(_reasons(port)))
        assert await asyncio.to_thread(_reasons, port) == ["HTTP: cannot accept, see the log"]
        parts.drain()
        assert parts.health.report(is_ready=False)[0] == 200
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        parts._doors.close()


def _reasons(port: int) -> list[str]:
    connection = http.client.HTTPConnection("127.0.0.2", port, timeout=60)
    connection.request("GET", "/healthz")
    found: list[str] = json.load(connection.getresponse())["reasons"]
    connection.close()
    return found


class _Started:
    def __init__(self, event: asyncio.Event) -> None:
        self._event = event

    def started(self, value: object = None) -> None:
        self._event.set()


def test_the_status_follows_what_goes_on_and_a_stop_says_so(
    systemd: Manager, tmp_path: Path
) -> None:
    assets(tmp_path)
    with service(tmp_path, systemd.address, config=downloads.CONFIG) as server:
        http, tftp = server.ports()
        idle = f"HTTP on 127.0.0.1:{http}, TFTP on 127.0.0.1:{tftp}; idle"
        assert systemd.wait_for("STATUS").fields["STATUS"] == idle
        with slow_download(http) as client:
            systemd.wait_for("STATUS", "; 1 transfer to 1 client")
            server.process.terminate()
            stop = systemd.wait_for("STOPPING", "1")
            assert stop.fields["STATUS"] == "draining, 1 transfer to go"
            assert finishes(client)
        assert server.leave() == 0


def test_the_successor_feeds_the_watchdog_and_nobody_speaks_out_of_turn(
    systemd: Manager, tmp_path: Path
) -> None:
    assets(tmp_path)
    with service(tmp_path, systemd.address, WATCHDOG, config=downloads.CONFIG) as server:
        http, _ = server.ports()
        systemd.wait_for("WATCHDOG", pid=server.pid)
        with slow_download(http) as client:
            first = server.replace()
            systemd.wait_for("MAINPID", str(first), pid=server.pid)
            begun = systemd.wait_for("WATCHDOG")
            assert begun.pid == first
            assert "HTTP on" in begun.fields["STATUS"]
            second = server.replace()
            systemd.wait_for("MAINPID", str(second), pid=first)
            for _ in range(3):
                assert systemd.wait_for("WATCHDOG").pid == second
            # The first one is still there, and says nothing.
            assert server.process.poll() is None
            assert finishes(client)
        assert server.leave() == 0
        assert systemd.refused == []


def test_an_upgrade_that_fails_leaves_the_watchdog_to_the_old_process(
    systemd: Manager, tmp_path: Path
) -> None:
    assets(tmp_path)
    with service(tmp_path, systemd.address, WATCHDOG, config=downloads.CONFIG) as server:
        configure(server, '"one"', '"nowhere"')
        assert server.upgrade().returncode == 1
        systemd.forget()
        for _ in range(2):
            assert systemd.wait_for("WATCHDOG").pid == server.pid
        assert systemd.refused == []


def test_systemd_may_ask_an_older_process_twice_to_stop_and_a_person_still_can_cut_it(
    systemd: Manager, tmp_path: Path
) -> None:
    assets(tmp_path)
    with service(tmp_path, systemd.address, config=downloads.CONFIG) as server:
        http, _ = server.ports()
        with slow_download(http) as client, slow_download(http):
            new = server.replace()
            # systemctl stop: both get SIGTERM, and who is left gets it again (systemd.kill(5)).
            os.kill(new, signal.SIGTERM)
            server.process.terminate()
            wait_until(lambda: server.log().count("stopping already") == 1)
            server.process.terminate()
            wait_until(lambda: server.log().count("stopping already") == 2)
            wait_until(lambda: not is_running(new))
            assert finishes(client)
            assert server.process.poll() is None
            server.process.send_signal(signal.SIGINT)
            assert server.leave() == 1
        assert "stopped; transfers cut off: 1" in server.log()
