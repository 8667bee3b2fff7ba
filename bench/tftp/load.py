"""Where servers and clients are, and clients at work there."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from bench import distance
from bench.process import BenchError
from bench.site import HOST
from bench.tftp.order import Order, Outcome

if TYPE_CHECKING:
    from bench.distance import Distance

GRACE: Final = 30
"""Seconds that the clients get to notice that their time is over."""


@dataclass(frozen=True)
class Where:
    """Two hosts, or one twice."""

    host: str
    """The server's address."""
    server: tuple[str, ...] = ()
    """What stands before a command that is to run on the server's host."""
    client: tuple[str, ...] = ()


HERE: Final = Where(HOST)


def far(line: Distance) -> Where:
    """On both ends of a line."""
    return Where(distance.SERVER, tuple(line.server), tuple(line.client))


def start(where: Where, order: Order) -> subprocess.Popen[str]:
    """Let clients begin, on the cores of this process."""
    command = [*where.client, sys.executable, "-m", "bench.tftp.client", json.dumps(asdict(order))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def end(clients: subprocess.Popen[str], order: Order) -> Outcome:
    """Wait for the clients' end."""
    try:
        text, _ = clients.communicate(timeout=max(order.limit, order.seconds) + GRACE)
    except BaseException:
        clients.kill()
        clients.communicate()
        raise
    if clients.returncode != 0:
        raise BenchError("the clients have failed, see above")
    return Outcome(**json.loads(text))


def run(where: Where, order: Order) -> Outcome:
    return end(start(where, order), order)
