"""Waiting for a disk in a thread, while the event loop goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread

from bootserve.catalog.opening import AssetUnavailable

_Result = TypeVar("_Result")

_NO_THREAD = "can't start new thread"
"""What CPython's RuntimeError says; the kernel's own reason is lost."""


async def wait_in_thread(
    look: Callable[[], _Result], name: str, limiter: anyio.CapacityLimiter | None = None
) -> _Result:
    """Return what ``look`` does. Cancelled, it does not wait for the thread's end.

    Args:
        name: of what is looked for or at.
        limiter: of how many threads wait at the same time; anyio's own if there is none.

    Raises:
        AssetUnavailable: no thread is to be had.
    """
    try:
        return await anyio.to_thread.run_sync(look, limiter=limiter, abandon_on_cancel=True)
    except RuntimeError as error:
        if str(error) != _NO_THREAD:
            raise
        raise AssetUnavailable(
            name, "no thread is to be had to wait for its disk; raise TasksMax or `ulimit -u`"
        ) from error
