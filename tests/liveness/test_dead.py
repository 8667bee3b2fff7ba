"""Every client that vanishes is found, in whichever state it leaves its connection.

The limits are those of life, scaled down. A client is found when the server's descriptor of its
connection is gone, which is read from the kernel, and no earlier than its limit allows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from bench.liveness import scenarios as play
from bench.liveness.descriptors import at_rest
from bench.liveness.scenarios import End, Scenario
from bench.liveness.server import Server, Settings
from bench.liveness.stage import Result
from bench.process import wait_until
from tests.liveness.scene import scene, told

SETTINGS = Settings(silence_limit=10, head_timeout=10, keep_alive=11)
SCENARIOS = (
    play.vanished_before_its_request(),
    play.vanished_before_its_request(half=True),
    play.vanished_idle(),
    play.vanished_in_flight(),
    play.vanished_in_flight(link=True),
    play.vanished_behind_a_closed_window(),
    play.vanished_behind_a_closed_window(half_closed=True),
    play.vanished_with_an_unread_tail(),
    play.too_long_frozen(40),
)


@dataclass(frozen=True)
class Ends:
    results: dict[Scenario, Result]
    server: Server
    descriptors_at_rest: int


@pytest.fixture(scope="module")
def ends() -> Iterator[Ends]:
    """What became of everybody; they are there at the same time."""
    with scene(SETTINGS) as one:
        at_start = at_rest(one.network, one.server)
        results = one.stage.play_all(SCENARIOS)
        yield Ends({result.scenario: result for result in results}, one.server, at_start)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.name)
def test_a_dead_client_is_found(scenario: Scenario, ends: Ends) -> None:
    result = ends.results[scenario]
    assert not result.problem, told(result, ends.server)


def test_the_log_says_how_long_nothing_was_heard(ends: Ends) -> None:
    for result in ends.results.values():
        if result.scenario.ends is End.SILENT:
            found = re.search(r"nothing acknowledged for (\d+) s, (\d+) probes", result.verdict)
            assert found, result.verdict
            assert SETTINGS.silence_limit <= int(found[1]) <= (result.silence or 0) + 1
            assert int(found[2]) > 0


def test_dead_clients_leave_no_descriptor(ends: Ends) -> None:
    wait_until(
        lambda: ends.server.descriptors() <= ends.descriptors_at_rest, 20, "every descriptor"
    )
