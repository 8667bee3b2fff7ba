"""The life of the process: open the sockets, start the doors, say ready, drain, leave."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
from collections.abc import AsyncGenerator, Callable
from enum import StrEnum
from functools import partial
from typing import Any

import anyio
import anyio.abc

from bootserve import control
from bootserve.assembly import Assembly
from bootserve.control import Json
from bootserve.doors import Doors
from bootserve.handover import HandoverFailed, NotNow, Start
from bootserve.memory import recall, snapshot
from bootserve.notify import Notifier
from bootserve.resources import calm_collector
from bootserve.runtime import ControlSocket, NoRuntimeDir, own_directory
from bootserve.settings import Settings
from bootserve.succession import Succession
from bootserve.successor import Predecessor
from bootserve.supervisor import Supervisor
from bootserve.terminal import LOOK, Terminal
from bootserve.watch.quiet import QuietLog, keep_telling, tell_all
from bootserve.watch.status import checked_recent

logger = logging.getLogger("bootserve.service")


_loop_errors = QuietLog(logger, most=5)
_refusals = QuietLog(logger, most=5)


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what went wrong in a callback; at the descriptor limit that is thousands a second."""
    error = context.get("exception")
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        _loop_errors.log(
            logging.WARNING,
            "out of descriptors (%s); raise LimitNOFILE or `ulimit -n`",
            error.strerror,
        )
    else:
        loop.default_exception_handler(context)


class State(StrEnum):
    """Where a process is in its life."""

    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"


class Service:
    """One serving process. Owns the doors' sockets from the moment it is made.

    Args:
        on_ready: called once, when every door is open.
        start: how to start this program again.
        supervisor: who is told of the process that takes over.
        predecessor: the process that this one replaces, if it does.
    """

    def __init__(
        self,
        settings: Settings,
        doors: Doors,
        *,
        on_ready: Callable[[], None] = lambda: None,
        start: Start | None = None,
        supervisor: Supervisor | None = None,
        predecessor: Predecessor | None = None,
    ) -> None:
        predecessor = predecessor or Predecessor(None)
        self._settings = settings
        self._doors = doors
        self._on_ready = on_ready
        self._supervisor = supervisor or Supervisor.of_this_process(has_predecessor=False)
        self._terminal = Terminal()
        # Before descriptors are counted.
        self._notifier = Notifier(
            self._supervisor.notify_socket, self._supervisor.watchdog, predecessor.main
        )
        self._parts = Assembly(settings, doors, self._is_ready, lambda: self._state)
        recall(self._parts.catalog, predecessor.memory, with_slowed=settings.lanes.auto_lane)
        self._succession = Succession(
            start or Start.of_this_process(),
            self._supervisor,
            doors,
            memory=partial(snapshot, self._parts.catalog),
            waiting=predecessor.waiting,
            relay=self._parts.tftp.relay_to_successor,
            resign=self._notifier.resign,
        )
        self._predecessor = predecessor
        self._ledger = self._parts.ledger
        self._http = self._parts.http
        self._state = State.STARTING
        self._stop_signals = 0
        self._was_cut = False
        self._tasks: anyio.abc.TaskGroup

    async def run(self) -> bool:
        """Serve until SIGTERM or SIGINT, or until another process has taken over; then finish what
        is in flight. A second signal, or ``service.drain_timeout``, cuts it.

        Returns whether every transfer came to its own end.
        """
        asyncio.get_running_loop().set_exception_handler(_report)
        calm_collector()
        try:
            with contextlib.ExitStack() as stack:
                async with anyio.create_task_group() as self._tasks:
                    await self._tasks.start(self._watch_signals)
                    self._tasks.start_soon(self._watch_terminal)
                    self._tasks.start_soon(self._parts.health.run)
                    self._tasks.start_soon(self._predecessor.see_off)
                    self._tasks.start_soon(keep_telling)
                    self._open_control(stack)
                    if self._predecessor.relay is not None:
                        self._parts.tftp.relay_to_predecessor(self._predecessor.relay)
                    async with anyio.create_task_group() as doors:
                        await doors.start(self._parts.tftp.serve)
                        doors.start_soon(self._http.serve, self._doors.http)
                    await self._succession.settle()
                    self._tasks.cancel_scope.cancel()
        finally:
            self._succession.close()
            self._notifier.close()
            self._doors.close()
            tell_all()
        if self._succession.is_forsaken:
            logger.error("pid %d has left, and nobody serves", os.getpid())
        elif not self._was_cut:
            logger.info("pid %d has left; nothing was cut off", os.getpid())
        return not (self._was_cut or self._succession.is_forsaken)

    async def upgrade(self) -> int:
        """Have a new process take over, and drain; return its process id.

        Raises:
            HandoverFailed: there is none, and this one goes on; it has been logged.
        """
        try:
            if self._is_draining():
                raise NotNow("it is leaving and has nothing to hand over")
            successor = await self._succession.begin()
        except NotNow as failure:
            _refusals.log(logging.WARNING, "no upgrade of pid %d: %s", os.getpid(), failure)
            raise
        except HandoverFailed as failure:
            logger.error("no upgrade, pid %d goes on as it was: %s", os.getpid(), failure)
            raise
        self._http.state.has_successor = True
        self._tasks.start_soon(self._succession.watch, successor)
        self._drain(f"pid {successor.pid} has taken over; this process, pid {os.getpid()}, leaves")
        return successor.pid

    def _is_draining(self) -> bool:
        return self._state is State.DRAINING

    def _is_ready(self) -> None:
        # A process that is to stop already must not replace one that serves.
        if self._state is State.STARTING:
            self._state = State.SERVING
            self._on_ready()
            self._tasks.start_soon(self._notifier.run, self._parts.report)
            # One that came during the start has waited (see `bootserve.__main__`): before now,
            # there was nothing that could be handed over.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})

    async def _watch_signals(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        watched = [signal.SIGTERM, signal.SIGINT]
        # Who starts us with nohup does not want it to mean anything.
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            watched.append(signal.SIGHUP)
        with anyio.open_signal_receiver(*watched) as signals:
            task_status.started()
            async for number in signals:
                if number != signal.SIGHUP:
                    self._stop(number)
                elif not self._terminal.is_gone():
                    self._tasks.start_soon(self._upgrade_on_signal)
                else:
                    self._succession.end()
                    self._drain("stopping, because the terminal was closed")

    async def _watch_terminal(self) -> None:
        was_there = False
        while self._terminal.is_expected(anyio.current_time()):
            was_there = True
            await anyio.sleep(LOOK)
        if was_there:
            logger.info("the terminal of the start was closed; SIGHUP means an upgrade from now on")

    async def _upgrade_on_signal(self) -> None:
        try:
            await self.upgrade()
        except HandoverFailed:
            pass
        except Exception:
            # Whatever goes wrong here is not to cost a client its transfer.
            logger.exception("a defect hit the upgrade, pid %d goes on as it was", os.getpid())

    def _stop(self, number: int) -> None:
        self._succession.end()
        if self._stop_signals == 0 or not self._supervisor.repeats(number):
            self._stop_signals += 1
        if self._stop_signals > 1:
            self._cut("stopped")
        elif not self._is_draining():
            self._drain("stopping")
        else:
            logger.info(
                "stopping already; transfers that go on to their end: %d (%s cuts them off)",
                len(self._ledger.live),
                self._supervisor.what_cuts,
            )

    def _drain(self, why: str) -> None:
        if self._is_draining():
            return
        # Until it serves, the one that it is to replace does.
        if self._state is State.SERVING and not self._http.state.has_successor:
            self._predecessor.tell_leaving()
        self._state = State.DRAINING
        logger.info(
            "%s: no new requests; transfers that go on to their end: %d (%s cuts them off)",
            why,
            len(self._ledger.live),
            self._supervisor.what_cuts,
        )
        self._parts.drain()
        self._notifier.look()
        # Mostly transfers have sockets of their own, and a successor may have this port now.
        if not self._parts.tftp.needs_sockets:
            for sock in self._doors.tftp:
                sock.close()
        if self._settings.service.drain_timeout is not None:
            self._tasks.start_soon(self._limit_drain, self._settings.service.drain_timeout)

    async def _limit_drain(self, seconds: float) -> None:
        await anyio.sleep(seconds)
        self._cut(f"service.drain_timeout, {seconds:g} s, is over")

    def _cut(self, why: str) -> None:
        # What is not yet a transfer, or is a script, is one in the eyes of its client.
        self._was_cut |= bool(self._ledger.live or self._http.server_state.tasks)
        level = logging.WARNING if self._was_cut else logging.INFO
        logger.log(level, "%s; transfers cut off: %d", why, len(self._ledger.live))
        self._http.cut()
        self._tasks.cancel_scope.cancel()

    def _open_control(self, stack: contextlib.ExitStack) -> None:
        """Be found by ``bootserve upgrade`` and ``status``, if there is a place for that."""
        try:
            directory = own_directory(self._settings.service.runtime_dir)
            control_socket = stack.enter_context(contextlib.closing(ControlSocket(directory)))
        except NoRuntimeDir as error:
            logger.warning("%s", error)
            return
        commands = {"state": self._tell_state, "upgrade": self._upgrade_on_request}
        reports = {"status": self._tell_status}
        self._tasks.start_soon(control.serve, control_socket.listener, commands, reports)

    async def _tell_state(self) -> Json:
        return {"pid": os.getpid(), "state": self._state}

    def _tell_status(self, request: Json) -> AsyncGenerator[bytes, None]:
        return self._parts.status.pieces(checked_recent(request.get("recent")))

    async def _upgrade_on_request(self) -> Json:
        try:
            return {"pid": await self.upgrade()}
        except HandoverFailed as failure:
            return {"error": "; ".join(failure.problems)}
