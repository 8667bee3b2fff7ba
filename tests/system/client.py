"""curl in the machine, read at the pace that a test chooses: a client that is as slow as it likes.

What is not read stands in the pipe, in curl and in the kernel's buffers, and soon the server cannot
send any more. So a download is under way for exactly as long as the test wants it to be.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import selectors
import time
from typing import TYPE_CHECKING, Self

from tests.real.process import NotHappened

if TYPE_CHECKING:
    from types import TracebackType

    from .machine import Machine

MIB = 1 << 20
REFUSED = 7
"""curl's exit status where nobody listens."""

SECONDS = 60
_PIECE = 1 << 16


class Download:
    """A running download.

    Args:
        seconds: within which each of the calls must be done.
    """

    def __init__(self, machine: Machine, url: str, *, seconds: float = SECONDS) -> None:
        self.url = url
        self._seconds = seconds
        self._digest = hashlib.sha256()
        self._process = machine.start(
            "curl", "--silent", "--show-error", "--fail", "--no-buffer", "--globoff", url
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._pipe = self._process.stdout
        self.received = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Without a reader curl ends by itself; what was started is nsenter, which waits for it.
        self._pipe.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()

    def read(self, size: int) -> None:
        """Take this many bytes, or all that are left."""
        self._read(self.received + size)

    def finish(self) -> str:
        """Take the rest; the SHA-256 of everything. Fails if curl is not content."""
        self._read(None)
        assert self._process.stderr is not None
        said = self._process.stderr.read().decode(errors="replace").strip()
        status = self._process.wait(self._seconds)
        assert status == 0, f"curl ended with {status} after {self.received} bytes: {said}"
        return self._digest.hexdigest()

    def _read(self, limit: int | None) -> None:
        deadline = time.monotonic() + self._seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._pipe, selectors.EVENT_READ)
            while limit is None or self.received < limit:
                if not selector.select(max(0, deadline - time.monotonic())):
                    raise NotHappened(
                        f"{self.url} stood still for {self._seconds:g} s after {self.received}"
                        " bytes"
                    )
                want = _PIECE if limit is None else min(_PIECE, limit - self.received)
                data = os.read(self._pipe.fileno(), want)
                if not data:
                    return
                self._digest.update(data)
                self.received += len(data)


def fetch(machine: Machine, url: str) -> str:
    """The SHA-256 of what a URL has, by a client that is not slow."""
    with Download(machine, url) as download:
        return download.finish()
