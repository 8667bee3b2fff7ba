"""What the host lets this process have: descriptors, and how Python spends its time."""

from __future__ import annotations

import contextlib
import gc
import logging
import resource
from pathlib import Path
from typing import Final

logger = logging.getLogger("bootserve.service")

_YOUNG_OBJECTS: Final = 10_000
_DESCRIPTORS_PER_SESSION: Final = 2


def calm_collector() -> None:
    """Keep Python's garbage collector from being the longest wait of a new client.

    What lives since the start need not be looked at again. Beyond that, a transfer is some fifty
    objects that all go when it ends, without a collector: it finds little, so it may look seldom.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, 50, 10)


def open_descriptors() -> int:
    """How many are open now; only for the start, as it takes one itself."""
    return len(list(Path("/proc/self/fd").iterdir())) - 1


def raised_descriptor_limit() -> int | None:
    """Raise our limit of descriptors to what we may have, and return it; ``None``: no limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    return None if soft == resource.RLIM_INFINITY else soft


def affordable_sessions(wanted: int, limit: int | None) -> int:
    """Leave TFTP not more than half of the descriptors.

    Anybody can start a TFTP transfer with one datagram; HTTP must live on.
    """
    if limit is None:
        return wanted
    most = max(1, limit // 2 // _DESCRIPTORS_PER_SESSION)
    if most < wanted:
        logger.warning(
            "with %d descriptors TFTP serves %d transfers at once, not %d; raise LimitNOFILE",
            limit,
            most,
            wanted,
        )
    return min(wanted, most)
