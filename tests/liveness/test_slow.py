"""No client that lives is cut off, however slow it is, and each gets the file byte for byte.

They run at the same time against servers whose limit is seconds, so that most are silent, paused or
slow for longer than that, as they would be for minutes in life. What the server's kernel shows of
each (a closed window, losses) is part of its result.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from bench.liveness import scenarios as play
from bench.liveness.network import run
from bench.liveness.scenarios import Scenario
from bench.liveness.server import Server, Settings
from bench.liveness.stage import Result
from tests import needs
from tests.liveness.scene import scene, told

LIMIT = 5
ANSWERING = (
    # Their kernels answer probes; no limit applies to them.
    play.reader(20, 20),
    play.reader(1000, 20),
    play.reader_to_the_end(500, 10_000),
    play.paused(1),
    play.paused(12),
    play.paused(20),
    play.paused(12, half_closed=True),
)

LONG_LIMIT = 60
UNREACHABLE = (
    # They are cut off for less than the limit. Losses come in runs, whose lengths are chance.
    play.lossy(10, 256 << 10),
    play.lossy(20, 64 << 10),
    play.lossy(30, 48 << 10),
    play.unplugged(8),
    play.frozen(12),
    play.frozen_behind_a_closed_window(12),
    play.frozen_after_shrinking(26),
)

# The kernel gives a closed window up after so many probes, 15 by default, whatever it is told: in
# the ten minutes of life, too, it would be out of them first.
PROBES = 10
PROBED_LIMIT = 40
PROBED = (play.frozen_behind_a_closed_window(30),)


@pytest.fixture(scope="module")
def results() -> Iterator[dict[Scenario, tuple[Result, Server]]]:
    """Everybody's end."""
    casts = ((LIMIT, ANSWERING), (LONG_LIMIT, UNREACHABLE), (PROBED_LIMIT, PROBED))
    with ExitStack() as stack, ThreadPoolExecutor(len(casts)) as threads:
        scenes = [
            stack.enter_context(scene(Settings(silence_limit=limit, keep_alive=11)))
            for limit, _ in casts
        ]
        probes = f"net.ipv4.tcp_retries2={PROBES}"
        run(*scenes[-1].network.command(needs.program("sysctl", "procps"), "-qw", probes))
        ends = threads.map(lambda one, cast: one.stage.play_all(cast[1]), scenes, casts)
        yield {
            result.scenario: (result, one.server)
            for one, found in zip(scenes, ends, strict=True)
            for result in found
        }


@pytest.mark.parametrize("scenario", [*ANSWERING, *UNREACHABLE, *PROBED], ids=lambda one: one.name)
def test_a_slow_client_gets_everything(
    scenario: Scenario, results: dict[Scenario, tuple[Result, Server]]
) -> None:
    result, server = results[scenario]
    assert not result.problem, told(result, server)
    assert result.is_exact
