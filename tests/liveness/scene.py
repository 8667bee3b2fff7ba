"""A server in a network of its own, with limits short enough for a test."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.liveness.network import Network, NetworkUnavailable
from bench.liveness.server import Server, Settings
from bench.liveness.stage import Result, Stage
from bench.liveness.watcher import Watcher
from tests import needs


@dataclass(frozen=True)
class Scene:
    network: Network
    server: Server
    stage: Stage


@contextlib.contextmanager
def scene(settings: Settings) -> Iterator[Scene]:
    """Skips the tests where namespaces are not to be had."""
    needs.root()
    for name, package in (("ip", "iproute2"), ("ss", "iproute2"), ("nft", "nftables")):
        needs.program(name, package)
    with contextlib.ExitStack() as stack:
        try:
            network = stack.enter_context(Network())
        except NetworkUnavailable as problem:
            pytest.skip(str(problem))
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="liveness-")))
        server = stack.enter_context(Server(network, directory, settings))
        watcher = stack.enter_context(Watcher(network, server))
        yield Scene(network, server, Stage(network, server, watcher))


def told(result: Result, server: Server) -> str:
    """What to say of a result that is not as it must be."""
    log = server.text().partition("bootserve is ready")[2][-3000:]
    return f"{result.scenario.story}: {result.problem}\n--- the end of the server's log:{log}"
