"""Whether the process does what it is for, told from memory: no lock, no disk, no /proc.

What takes a disk to find out is looked at by a task of its own, every few seconds; what is told is
the last look, and that a look hangs.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any, Final

import anyio
import anyio.to_thread

from bootserve.watch.budget import HEALTHY_SHARE, Budget
from bootserve.watch.ledger import Ledger
from bootserve.watch.liveness import Verdict

WORST_LAG: Final = 1.0
"""Seconds by which the event loop may be late."""

_LAG_STEP: Final = 0.25
_LAG_MEMORY: Final = 20
"""Seconds between two looks at the event loop's lag, and looks that are remembered."""

CHECK_INTERVAL: Final = 5.0
CHECK_PATIENCE: Final = 10.0
"""Seconds between two looks at a disk, and after which one hangs."""

Check = Callable[[], str | None]
"""Says what is wrong, in a sentence, or ``None``."""


class Health:
    """What `/healthz` and `/readyz` tell.

    Args:
        quick: looks that cost nothing, taken at each report; their names are for the programmer.
        slow: looks that may wait for a disk, taken in threads by `run`.
        loops: how many restart loops were found so far.
        extra: more figures for the report, by name.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        budget: Budget,
        ledger: Ledger,
        *,
        quick: Mapping[str, Check] | None = None,
        slow: Mapping[str, Check] | None = None,
        loops: Callable[[], int] = int,
        extra: Callable[[], Mapping[str, Any]] = dict,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._budget = budget
        self._ledger = ledger
        self._quick = dict(quick or {})
        self._slow = dict(slow or {})
        self._loops = loops
        self._extra = extra
        self._clock = clock
        self._lags: deque[float] = deque(maxlen=_LAG_MEMORY)
        self._expected: float | None = None
        self._found: dict[str, str | None] = {}
        self.is_serving = True
        """Whether new work is taken: not before the doors are open, nor while the process drains.
        Only `/readyz` tells."""

    @property
    def loop_lag(self) -> float:
        """Seconds by which the event loop was late, at worst, in the last few seconds."""
        late = 0.0 if self._expected is None else self._clock() - self._expected
        return max(late, max(self._lags, default=0.0), 0.0)

    def report(self, *, is_ready: bool) -> tuple[int, dict[str, Any]]:
        """Return the HTTP status, 200 or 503, and what is to be told.

        Args:
            is_ready: whether it is asked if new work should be sent here.
        """
        reasons = self.reasons(is_ready=is_ready)
        verdict = {"status": "failing" if reasons else "ok", "reasons": reasons}
        return 503 if reasons else 200, verdict | self.figures()

    def figures(self) -> dict[str, Any]:
        """Return what health is judged by, and what else is counted, by name."""
        budget = self._budget
        protocols: Counter[str] = Counter()
        silent = 0
        for transfer in self._ledger.live:
            protocols[transfer.protocol.lower()] += 1
            silent += transfer.verdict == Verdict.SILENT
        return {
            "transfers": {
                "http": protocols["http"],
                "tftp": protocols["tftp"],
                "silent": silent,
                "refused": budget.refused,
            },
            "restart_loops": self._loops(),
            "descriptors": {"in_use": budget.in_use, "limit": budget.limit},
            "loop_lag_seconds": round(self.loop_lag, 4),
            **self._extra(),
        }

    def reasons(self, *, is_ready: bool) -> list[str]:
        """Return what is wrong, a sentence each; see `report`."""
        reasons = []
        budget = self._budget
        if not budget.is_healthy:
            reasons.append(
                f"descriptors: {budget.in_use} of {budget.limit} are in use, more than"
                f" {HEALTHY_SHARE:.0%}; raise LimitNOFILE or `ulimit -n`"
            )
        lag = self.loop_lag
        if lag > WORST_LAG:
            reasons.append(
                f"event loop: late by {lag:.1f} s; this host is overloaded or stood still"
            )
        reasons += [found for check in self._quick.values() if (found := check()) is not None]
        reasons += [found for found in self._found.values() if found is not None]
        if is_ready and not self.is_serving:
            reasons.append("draining: this process takes no new work")
        return reasons

    async def run(self) -> None:
        """Keep looking, until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._measure_lag)
            for name, check in self._slow.items():
                tasks.start_soon(self._look_again_and_again, name, check)

    async def _measure_lag(self) -> None:
        while True:
            self._expected = self._clock() + _LAG_STEP
            await anyio.sleep(_LAG_STEP)
            self._lags.append(self._clock() - self._expected)

    async def _look_again_and_again(self, name: str, check: Check) -> None:
        # One thread each, so that what hangs holds up nothing but itself.
        limiter = anyio.CapacityLimiter(1)
        while True:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._complain, name)
                try:
                    found = await anyio.to_thread.run_sync(
                        check, limiter=limiter, abandon_on_cancel=True
                    )
                except Exception as error:
                    # Where no thread is to be had, say, transfers go on: they need none.
                    found = f"{name}: cannot be looked at: {error}; {_remedy(error)}"
                self._found[name] = found
                tasks.cancel_scope.cancel()
            await anyio.sleep(CHECK_INTERVAL)

    async def _complain(self, name: str) -> None:
        await anyio.sleep(CHECK_PATIENCE)
        self._found[name] = f"{name}: does not answer since {CHECK_PATIENCE:.0f} s"


def _remedy(error: Exception) -> str:
    if isinstance(error, RuntimeError):
        # CPython's, for a thread that cannot be started: the kernel's reason is lost.
        return "if it is threads that are short, raise TasksMax or `ulimit -u`"
    return "this is a defect, report it"
