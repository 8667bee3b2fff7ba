"""The bounded part of `make fuzz`, and that the targets see what they are to see."""

from __future__ import annotations

import gc
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.tftp.harness import Body

from . import conversation, runs, seeds, targets, theatre
from .conversation import Step, encoded

SECONDS = 20
"""What the suite gives to all targets, which run at the same time."""
SECONDS_UNGUIDED = 3
ASK = encoded(Step.ASK, 0, 0)
_leaked: list[int] = []


@pytest.fixture(autouse=True)
def _no_rubbish() -> None:
    # A descriptor of an earlier test that is collected meanwhile would be missed.
    gc.collect()


@pytest.mark.parametrize("name", targets.NAMES)
def test_every_seed_is_no_news(name: str) -> None:
    with targets.opened(name) as target:
        for seed in targets.seeds(name).values():
            target(seed)


def assert_held(outcomes: list[runs.Outcome], least: int) -> None:
    for one in outcomes:
        assert one.status == 0, one.output[-4000:]
        assert one.executions > least, one.output[-4000:]


def test_targets_hold_for_the_suites_share_of_time(tmp_path: Path) -> None:
    assert_held(runs.play(targets.NAMES, SECONDS, tmp_path), 500)


def test_targets_hold_where_there_is_no_atheris(tmp_path: Path) -> None:
    assert_held(runs.play(targets.NAMES, SECONDS_UNGUIDED, tmp_path, is_guided=False), 100)


@pytest.mark.parametrize("is_guided", [True, False])
def test_a_run_tells_what_it_has_found(tmp_path: Path, is_guided: bool) -> None:
    [found] = runs.play([targets.PLANTED], 10, tmp_path, is_guided=is_guided)
    assert found.status != 0
    assert "Broken: block 1 was acknowledged" in found.output


def test_a_conversation_says_what_real_clients_say() -> None:
    for request in seeds.REQUESTS.values():
        [move] = conversation.moves(conversation.raw(request))
        assert move.datagram == request


def test_any_bytes_are_a_conversation() -> None:
    data = os.urandom(3000)
    assert 0 < len(list(conversation.moves(data))) <= conversation.MOST_STEPS


async def _fails(library: object, info: object) -> Body:
    raise ZeroDivisionError


async def _logs(library: object, info: object) -> Body:
    logging.getLogger("bootserve.tftp").info("got %s", "two\nlines")
    return Body("kernel", theatre.BODIES["proof"])


async def _leaks(library: object, info: object) -> Body:
    _leaked.append(os.open("/dev/null", os.O_RDONLY))
    return Body("kernel", theatre.BODIES["proof"])


async def _damages(library: object, info: object) -> Body:
    return Body("kernel", bytes(1300))


async def _keeps(library: theatre.Library, info: object) -> Body:
    library.opened.append(Body("kernel", b""))
    return Body("kernel", theatre.BODIES["proof"])


@pytest.mark.parametrize(
    ("planted", "complaint"),
    [
        (_fails, "logged: .*ZeroDivisionError"),
        (_logs, "not printable"),
        (_leaks, "descriptors became"),
        (_damages, "a file with other bytes"),
        (_keeps, "a file was not closed"),
    ],
)
def test_a_broken_server_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
    planted: Callable[[object, object], Awaitable[Body]],
    complaint: str,
) -> None:
    monkeypatch.setattr(theatre.Library, "__call__", planted)
    with targets.opened("conversation") as target, pytest.raises(theatre.Broken, match=complaint):
        target(ASK)
    while _leaked:
        os.close(_leaked.pop())


@pytest.mark.parametrize(
    ("answers", "complaint"),
    [
        (5 * [b"\0\3\0\1data"], "5 packets for requests that are worth 4"),
        ([b"\0\3\0\1" + bytes(600)], "bytes to somebody who has acknowledged nothing"),
        ([b"\0\1data\0octet\0"], "no packet of a server"),
    ],
)
def test_a_server_that_amplifies_is_found_out(answers: list[bytes], complaint: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        client = theatre.Client(server.getsockname())
        with client.sock:
            client.ask(b"\0\1kernel\0octet\0")
            _, address = server.recvfrom(100)
            for answer in answers:
                server.sendto(answer, address)
            client.sock.settimeout(5)
            with pytest.raises(theatre.Broken, match=complaint):
                client.listen()
