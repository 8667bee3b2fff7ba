"""Where log lines go: to standard error, but never at the cost of a client.

Standard error is a pipe to journald, a terminal or a file, and any of them may stall. So lines are
handed to a thread, which writes all that have gathered in one system call.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections import deque
from typing import Final, TextIO

_GATHER: Final = 0.01
"""Seconds in which lines gather: nobody sees the delay, and a burst is one system call."""

_MOST: Final = 20_000
"""Lines that wait for a reader that stalls; a few megabytes. Later ones are counted."""

_FLUSH_WAIT: Final = 1.0
"""Seconds that `flush` waits for lines to be taken, and `close` for the last ones."""


class LineWriter(logging.Handler):
    """Writes records as lines to a stream from a thread of its own, which `close` ends.

    Args:
        stream: it is not closed.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._descriptor: int | None = None
        with contextlib.suppress(OSError, ValueError):
            # Our own, which stays what it is whatever becomes of the stream.
            self._descriptor = os.dup(stream.fileno())
        # Appended to and emptied by different threads, each of which does it in one step.
        self._lines: deque[str] = deque()
        self._left_out = 0
        self._wanted = threading.Event()
        self._is_written = threading.Condition()
        self._is_writing = False
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="bootserve-log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        if len(self._lines) >= _MOST:
            self._left_out += 1
            return
        try:
            self._lines.append(self.format(record) + "\n")
        except Exception:
            self.handleError(record)
        if not self._wanted.is_set():
            self._wanted.set()

    def flush(self) -> None:
        """Wait until the lines so far are written, but not for ever."""
        with self._is_written:
            self._is_written.wait_for(
                lambda: not (self._lines or self._is_writing) or not self._thread.is_alive(),
                _FLUSH_WAIT,
            )

    def close(self) -> None:
        # The thread writes what is left before it ends.
        self._is_closing = True
        self._wanted.set()
        self._thread.join(_FLUSH_WAIT)
        if self._descriptor is not None and not self._thread.is_alive():
            os.close(self._descriptor)
            self._descriptor = None
        super().close()

    def _run(self) -> None:
        while not self._is_closing:
            self._wanted.wait()
            if not self._is_closing:
                time.sleep(_GATHER)
            with self._is_written:
                self._wanted.clear()
                self._is_writing = True
            self._write([self._lines.popleft() for _ in range(len(self._lines))])
            with self._is_written:
                self._is_writing = False
                self._is_written.notify_all()

    def _write(self, lines: list[str]) -> None:
        left_out, self._left_out = self._left_out, 0
        if left_out:
            lines.append(f"(log lines left out because nobody read them: {left_out})\n")
        text = "".join(lines)
        # Nobody is there to be told of an error.
        with contextlib.suppress(OSError, ValueError):
            if self._descriptor is None:
                self._stream.write(text)
                self._stream.flush()
            else:
                # Past the stream's own buffer, on which a later flush would stall or fail again.
                rest = text.encode(errors="backslashreplace")
                while rest:
                    rest = rest[self._take(rest) :]

    def _take(self, data: bytes) -> int:
        assert self._descriptor is not None
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:
            # Whoever shares the terminal with us has made it non-blocking.
            if self._is_closing:
                raise
            time.sleep(_GATHER)
            return 0


class _Formatter(logging.Formatter):
    """The standard one, but a second is spelt out once."""

    _second = -1
    _spelt = ""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        second = int(record.created)
        if second != self._second:
            self._spelt, self._second = super().formatTime(record, datefmt), second
        return self._spelt


def start_logging(level: str) -> None:
    """Send what is logged from ``level`` on to standard error; to be called once in a process."""
    # A record costs half without what no line of ours shows (logging HOWTO, "Optimization").
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None
    if sys.stderr is None:
        # Descriptor 2 is closed, and will be somebody's connection.
        handler: logging.Handler = logging.NullHandler()
    else:
        handler = LineWriter(sys.stderr)
    handler.setFormatter(_Formatter("%(asctime)s %(levelname).1s %(message)s", "%Y-%m-%d %H:%M:%S"))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    # uvicorn's own stages of life say nothing that the service does not say itself.
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
