"""Slow is never cut off and dead is always found: `python -m bench.liveness --help`.

All clients at the same time, with the server's default settings, in namespaces of their own. Takes
12 minutes, because the default tolerance for a client that is silent is ten.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from bench.liveness import scenarios as play
from bench.liveness.descriptors import aborted, at_rest, half_open
from bench.liveness.network import Network
from bench.liveness.server import Server, Settings
from bench.liveness.stage import Stage
from bench.liveness.table import Crowd, document, insert
from bench.liveness.watcher import HALF_CLOSED, Watcher
from bench.peers import REPOSITORY
from bench.process import BenchError, wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.liveness.scenarios import Scenario
    from bench.liveness.stage import Result

PAGE: Final = REPOSITORY / "docs" / "liveness.md"
CROWD: Final = 1000
_CROWDS: Final = {
    f"{CROWD} downloads aborted by the client, half of them after its FIN": aborted,
    f"{CROWD} connections at once without a request, or with half of one": half_open,
}
_LEAST: Final = Settings(silence_limit=5, head_timeout=1, keep_alive=11)
"""No setting is scaled below this."""


def living(scale: float) -> list[Scenario]:
    """Those that must finish."""
    return [
        play.reader(20, 600 * scale),
        play.reader(1000, 600 * scale),
        play.reader_to_the_end(int(20 / scale), 12_000),
        *(play.paused(seconds * scale) for seconds in (10, 60, 119, 180)),
        # Longer than the limit: it answers probes, so it lives.
        play.paused(660 * scale),
        play.paused(120 * scale, half_closed=True),
        play.lossy(10, 1 << 20),
        play.lossy(20, 256 << 10),
        play.lossy(30, 128 << 10),
        play.unplugged(60 * scale),
        play.frozen(120 * scale),
        play.frozen(330 * scale),
        play.frozen_behind_a_closed_window(330 * scale),
        # The kernel waits for 240 s (twice TCP_RTO_MAX), whatever we would like.
        play.frozen_after_shrinking(120 * scale),
    ]


def dead() -> list[Scenario]:
    """Those that must be found."""
    return [
        play.vanished_before_its_request(),
        play.vanished_before_its_request(half=True),
        play.vanished_idle(),
        play.vanished_in_flight(),
        play.vanished_in_flight(link=True),
        play.vanished_behind_a_closed_window(),
        play.vanished_behind_a_closed_window(half_closed=True),
        play.vanished_with_an_unread_tail(),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    given = _parse(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    try:
        _run(given)
    except KeyboardInterrupt:
        sys.exit(130)
    except BenchError as error:
        sys.exit(f"liveness: {error}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.liveness", description=__doc__)
    parser.add_argument(
        "--only", action="append", metavar="TEXT", help="clients with this in their name"
    )
    parser.add_argument(
        "--scale",
        type=float,
        default=1.0,
        metavar="FACTOR",
        help="of every pause and of the server's limits; default: 1",
    )
    parser.add_argument(
        "--server",
        choices=("bootserve", "nginx"),
        default="bootserve",
        help="nginx shows that the clients do what they say: those that must finish, do",
    )
    return parser.parse_args(arguments)


def _stop(number: int, _: object) -> NoReturn:
    sys.exit(128 + number)


def _run(given: argparse.Namespace) -> None:
    is_bootserve = given.server == "bootserve"
    is_whole = given.only is None and given.scale == 1 and is_bootserve
    scenarios = living(given.scale)
    if is_bootserve:
        scenarios += dead()
    else:
        # It takes a FIN for the end of the client.
        scenarios = [one for one in scenarios if HALF_CLOSED not in one.must_show]
    if given.only:
        scenarios = [one for one in scenarios if any(text in one.name for text in given.only)]
    if not scenarios:
        raise BenchError(f"no client is called {' or '.join(given.only)}")
    crowds: list[Crowd] = []
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="liveness-")))
        network = stack.enter_context(Network())
        settings = _settings(given.scale)
        server = stack.enter_context(Server(network, directory, settings, kind=given.server))
        watcher = stack.enter_context(Watcher(network, server, asks_health=is_bootserve))
        # nginx keeps its connections in a child.
        before = at_rest(network, server) if is_bootserve else 0
        if given.only is None and is_bootserve:
            for name, crowd in _CROWDS.items():
                crowds.append(Crowd(name, crowd(network, server, CROWD)))
                print(crowds[-1].name, crowds[-1].problem or "ok", sep=": ", flush=True)
        print(f"{len(scenarios)} clients at the same time ...", flush=True)
        results = Stage(network, server, watcher).play_all(scenarios, _tell)
        notes = [_descriptors(server, before), *_health(watcher)] if is_bootserve else []
    text = document(results, crowds, notes)
    print(f"\n{text}")
    if is_whole:
        insert(PAGE, text)
        print(f"written to {PAGE.relative_to(REPOSITORY)}")
    if any(one.problem for one in results) or any(one.problem for one in crowds):
        sys.exit(1)


def _settings(scale: float) -> Settings:
    default = Settings()
    scaled = {key: max(value * scale, getattr(_LEAST, key)) for key, value in vars(default).items()}
    return default if scale == 1 else Settings(**scaled)


def _tell(result: Result) -> None:
    print(f"{result.scenario.name}: {result.problem or 'ok'}", flush=True)


def _descriptors(server: Server, before: int) -> str:
    """How many are left when every client is gone."""
    with contextlib.suppress(BenchError):
        wait_until(lambda: server.descriptors() <= before, 30, "every descriptor")
    return f"descriptors of the server: {before} before, {server.descriptors()} after"


def _health(watcher: Watcher) -> list[str]:
    """What /healthz said meanwhile, where there is one."""
    said = [answer for answer in watcher.health if "transfers" in answer]
    if not said:
        return []
    states = ", ".join(sorted({str(answer["status"]) for answer in said}))
    transfers = max(answer["transfers"]["http"] for answer in said)
    silent = max(answer["transfers"]["silent"] for answer in said)
    lag = max(answer["loop_lag_seconds"] for answer in said)
    return [
        f"/healthz, asked {len(said)} times: {states}; {transfers} transfers at the most,"
        f" {silent} of them silent; the event loop was late by {lag * 1000:.0f} ms at the most"
    ]


if __name__ == "__main__":
    main()
