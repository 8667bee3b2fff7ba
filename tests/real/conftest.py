"""Whatever ends a run of these tests, no machine and no namespace stays behind."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session", autouse=True)
def _termination_cleans_up() -> Iterator[None]:
    """A job cut short gets SIGTERM; taken as a Ctrl-C, it lets fixtures end what they began."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    yield
    signal.signal(signal.SIGTERM, before)
