"""A thousand clients that leave in the middle, or never ask, leave nothing behind."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from bench.liveness.descriptors import aborted, at_rest, half_open
from bench.liveness.server import Server, Settings
from bench.process import wait_until
from tests.liveness.scene import Scene, scene

COUNT = 1000


@pytest.fixture(scope="module")
def crowded() -> Iterator[Scene]:
    with scene(Settings(head_timeout=5, keep_alive=11)) as one:
        at_rest(one.network, one.server)
        yield one


def test_aborted_downloads_leave_no_descriptor(crowded: Scene) -> None:
    assert aborted(crowded.network, crowded.server, COUNT) == ""


def test_half_open_connections_leave_no_descriptor(crowded: Scene) -> None:
    """They are closed while their clients still hold their ends."""
    assert half_open(crowded.network, crowded.server, COUNT) == ""


def test_the_log_has_a_line_for_every_aborted_download(crowded: Scene) -> None:
    def lines(server: Server) -> int:
        return len(re.findall(r" s: client closed the connection$", server.text(), re.MULTILINE))

    wait_until(lambda: lines(crowded.server) == COUNT, 10, "a line for each")
