"""The process that takes this one's place: started, named to the service manager, and watched.

It is this one's child, and systemd does not learn of the end of a process that is not its own. If
it did, it would stop the service, and start it again when this one has drained, which may take
hours. So a process that drains looks after those that came later: when nobody serves any more it
starts another one, and nobody's transfer is cut for that.

Of several that drain, the youngest does it: the others' pipes (see `bootserve.successor`) end when
that one has gone, too. And they adopt what it leaves behind, lest it become systemd's child.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Callable
from typing import Final

import anyio
import anyio.lowlevel

from bootserve.doors import Doors
from bootserve.handover import (
    HandoverFailed,
    NotNow,
    Start,
    Successor,
    how_it_ended,
    start_successor,
)
from bootserve.linux import adopt_orphans
from bootserve.successor import RELAY_VARIABLE
from bootserve.supervisor import Supervisor
from bootserve.systemd import Inherited

logger = logging.getLogger("bootserve.succession")

_LONGEST_PAUSE: Final = 30.0
"""Seconds between two attempts to have somebody serve again; the first is made at once."""

_STEADY: Final = 60.0
"""Seconds of service after which a death has nothing to do with the one before."""

_REAP: Final = 1.0
"""Seconds from one look for children that have ended to the next."""


class Succession:
    """Who serves after this process, for as long as it is here.

    Args:
        start: how to start this program again.
        supervisor: who is told of the process that takes over.
        doors: whose sockets it gets. They stay their owner's.
        memory: returns who writes down what it is to know, and is called in a thread.
        waiting: which pipes it gets, see `bootserve.successor.Predecessor.waiting`.
        relay: makes the end of a relay to the TFTP transfers that go on here, if they need one.
        resign: called as soon as the supervisor knows it.
    """

    def __init__(
        self,
        start: Start,
        supervisor: Supervisor,
        doors: Doors,
        *,
        memory: Callable[[], Callable[[], bytes]],
        waiting: Callable[[], dict[str, int]],
        relay: Callable[[], socket.socket | None],
        resign: Callable[[], None],
    ) -> None:
        self._start = start
        self._supervisor = supervisor
        self._doors = doors
        self._memory = memory
        self._waiting = waiting
        self._relay = relay
        self._resign = resign
        self._kept: list[Inherited] = []
        self._under_way: anyio.CancelScope | None = None
        self._is_over = False
        self._replacing = anyio.Lock()
        self.is_forsaken = False
        """Whether those that came later have died, and nobody serves."""

    async def begin(self) -> Successor:
        """Have a new process take over; the caller takes no more work then, and calls `watch`.

        Raises:
            HandoverFailed: there is none.
        """
        if self._is_over:
            raise NotNow("it is leaving and has nothing to hand over")
        if self._under_way is not None:
            raise NotNow("an upgrade is under way already; wait for it")
        if (why_not := self._supervisor.why_not()) is not None:
            raise HandoverFailed(why_not)
        logger.info("upgrading: starting a new process")
        try:
            with anyio.CancelScope() as self._under_way:
                return await self._begin()
        finally:
            self._under_way = None
        raise NotNow("it was told to stop meanwhile")

    async def _begin(self) -> Successor:
        with contextlib.ExitStack() as stack:
            try:
                others = stack.enter_context(self._supervisor.succession())
            except OSError as error:
                raise HandoverFailed(
                    f"a new process cannot be started: {error.strerror}"
                ) from error
            relay = self._relay()
            if relay is not None:
                stack.enter_context(relay)
                others[RELAY_VARIABLE] = relay.fileno()
            successor = await start_successor(
                self._start,
                self._sockets(),
                memory=self._memory(),
                others={**others, **self._waiting()},
            )
            try:
                # What has cancelled us may have come too late for the start to notice.
                await anyio.lowlevel.checkpoint_if_cancelled()
                self._supervisor.tell_successor(successor.pid)
            except anyio.get_cancelled_exc_class():
                await successor.end()
                raise
            except OSError as error:
                await successor.end()
                raise HandoverFailed(
                    "systemd cannot be told of the new process, which was ended:"
                    f" NOTIFY_SOCKET: {error.strerror or error}"
                ) from error
        self._resign()
        self._keep_managed()
        if self._supervisor.has_started_us:
            # Without it all is well but for the death of one whose predecessor has gone before.
            with contextlib.suppress(OSError):
                adopt_orphans()
        return successor

    async def watch(self, successor: Successor) -> None:
        """Look after those that serve now, until cancelled: have another one serve if nobody does.

        Nobody has to when they have left as they should, or this process is told to stop.
        """
        pause = 0.0
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._keep_reaping)
            while True:
                began = anyio.current_time()
                if not await successor.leaves_a_gap() or self._is_over:
                    break
                if anyio.current_time() - began > _STEADY:
                    pause = 0.0
                found, pause = await self._replace(pause)
                if found is None:
                    break
                successor = found
            self._let_go()

    async def _replace(self, pause: float) -> tuple[Successor | None, float]:
        """Try until somebody serves, or this process is told to stop.

        Returns who it is, and the seconds to wait for, should that one die, too.
        """
        self._reap()
        self.is_forsaken = True
        logger.warning(
            "nobody serves any more: pid %d, which still drains, sees to it", os.getpid()
        )
        while True:
            await anyio.sleep(pause)
            pause = min(max(1.0, 2 * pause), _LONGEST_PAUSE)
            try:
                async with self._replacing:
                    successor = await self.begin()
                    self.is_forsaken = False
            except NotNow:
                self.is_forsaken = False
                return None, pause
            except HandoverFailed as failure:
                logger.error("nobody serves: %s; the next attempt is in %g s", failure, pause)
            except Exception:
                # Whatever goes wrong here is not to cost a client its transfer.
                logger.exception("nobody serves: a defect; the next attempt is in %g s", pause)
            else:
                logger.warning("pid %d has taken over", successor.pid)
                return successor, pause

    async def _keep_reaping(self) -> None:
        while True:
            await anyio.sleep(_REAP)
            # Whoever starts a process waits for its end, too.
            if self._under_way is None:
                self._reap()

    def _reap(self) -> None:
        """Take note of the ends of children, those that were adopted among them."""
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG)) != (0, 0):
                pid, status = ended
                if code := os.waitstatus_to_exitcode(status):
                    logger.warning("pid %d, which had taken over, %s", pid, how_it_ended(code))

    async def settle(self) -> None:
        """Return when no process is being started that is to replace a dead one."""
        async with self._replacing:
            pass

    def end(self) -> None:
        """This process is to stop: whoever comes after it, it is not for this one to see to it."""
        self._is_over = True
        self.is_forsaken = False
        if self._under_way is not None:
            self._under_way.cancel()
        self._let_go()

    def close(self) -> None:
        """Free what is held."""
        self._let_go()

    def _sockets(self) -> list[Inherited]:
        if not self._kept:
            return self._doors.to_hand_over()
        # This process has closed most by now; its own, a new one can bind again.
        own = [item for item in self._doors.to_hand_over() if not item.is_managed]
        return [*self._kept, *own]

    def _keep_managed(self) -> None:
        """Keep what only a service manager can open, for another successor.

        Its own sockets are closed when this process drains. Kept, they would seem to be served
        when no process has them any more.
        """
        if self._kept:
            return
        # Without a descriptor to spare there is none for a successor, either.
        with contextlib.suppress(OSError):
            for item in self._doors.to_hand_over():
                if item.is_managed:
                    self._kept.append(Inherited(item.sock.dup(), item.name))

    def _let_go(self) -> None:
        while self._kept:
            self._kept.pop().sock.close()
