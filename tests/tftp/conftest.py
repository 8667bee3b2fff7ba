"""Both kinds of event loop: TFTP's sockets are read directly by ours, and as usual by others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest

from bootserve.loop import DirectLoop


@pytest.hookimpl
def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"direct": DirectLoop, "asyncio": asyncio.SelectorEventLoop}
