"""Looks at every connection every few seconds, and ends those whose client is gone."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from bootserve.http.connection import Connection
from bootserve.http.door import DoorState
from bootserve.http.protocol import BootProtocol
from bootserve.watch.liveness import Peer, Verdict, first_to_go
from bootserve.watch.quiet import QuietLog

logger = logging.getLogger("bootserve.http")

_defects = QuietLog(logger, most=1)

_LOOKS_PER_TURN: Final = 32
"""Connections that are looked at, some 15 us each, before others get their turn."""

_GIVEN_UP_PER_SWEEP: Final = 16
"""Silent clients that go at once where descriptors are short; the next sweep tells if more must."""


class Sweep:
    """The looks of one server."""

    def __init__(self, state: DoorState) -> None:
        self._state = state

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            await asyncio.sleep(self._state.limits.sweep_interval)
            await self.once()

    async def once(self) -> None:
        """Look at every connection that is there now."""
        state = self._state
        loop = asyncio.get_running_loop()
        silent: list[tuple[Peer, Connection]] = []
        for number, protocol in enumerate(list(state.connections)):
            if number % _LOOKS_PER_TURN == _LOOKS_PER_TURN - 1:
                await asyncio.sleep(0)
            if not isinstance(protocol, BootProtocol):
                continue
            try:
                silent += _look(protocol, loop.time())
            except Exception as error:
                # A defect in here must not take down what is being sent.
                _defects.log(logging.ERROR, "HTTP: a defect hit the sweep", error=error)
        state.silent = len(silent)
        if state.budget.is_short or not state.budget.may_begin():
            for connection in first_to_go(silent, state.limits, _GIVEN_UP_PER_SWEEP):
                connection.give_up()


def _look(protocol: BootProtocol, now: float) -> list[tuple[Peer, Connection]]:
    """Look at one connection; return it if its client is silent."""
    connection = protocol.connection
    verdict = protocol.look(now)
    if verdict is Verdict.GONE:
        connection.give_up()
    elif verdict is Verdict.SILENT and connection.peer is not None:
        return [(connection.peer, connection)]
    return []
