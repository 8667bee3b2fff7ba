"""Where log lines go: to standard error or the journal, but never at the cost of a client.

Standard error is a pipe to journald, a terminal or a file, and any of them may stall, as journald
itself may. So lines are handed to a thread, which writes all that have gathered: to a stream in one
system call.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Mapping
from itertools import accumulate
from typing import Final, Generic, Literal, TextIO, TypeVar

from bootserve.journal import SOCKET, STREAM_VARIABLE, Journal, is_stream
from bootserve.log_format import Json, PrefixedText, Text, journal_record

Format = Literal["auto", "text", "journal", "json"]

_GATHER: Final = 0.01
"""Seconds in which lines gather: nobody sees the delay, and a burst is one system call."""

_MOST: Final = 20_000
"""Lines that wait for a reader that stalls: a few megabytes, or a dozen with their fields. Later
ones are counted."""

_FLUSH_WAIT: Final = 1.0
"""Seconds that `flush` waits for lines to be taken, and `close` for the last ones."""

_NEWLINE: Final = ord("\n")

_Line = TypeVar("_Line", str, bytes)


class _Writer(logging.Handler, Generic[_Line]):
    """Writes records from a thread of its own, which `close` ends."""

    def __init__(self) -> None:
        super().__init__()
        # Appended to and emptied by different threads, each of which does it in one step.
        self._lines: deque[_Line] = deque()
        # Each is counted by one thread alone.
        self._left_out = 0
        self._lost = 0
        self._told = 0
        self._wanted = threading.Event()
        self._is_written = threading.Condition()
        self._is_writing = False
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="bootserve-log", daemon=True)
        self._thread.start()

    @abstractmethod
    def _spell(self, record: logging.LogRecord) -> _Line: ...

    @abstractmethod
    def _write(self, lines: list[_Line]) -> int:
        """Write lines, however long it takes; return how many are lost."""

    @abstractmethod
    def _release(self) -> None:
        """Close what is ours; the thread has ended."""

    def emit(self, record: logging.LogRecord) -> None:
        if len(self._lines) >= _MOST:
            self._left_out += 1
            return
        try:
            self._lines.append(self._spell(record))
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
        if not self._thread.is_alive():
            self._release()
        super().close()

    def _run(self) -> None:
        while not self._is_closing or self._lines:
            self._wanted.wait()
            if not self._is_closing:
                time.sleep(_GATHER)
            with self._is_written:
                self._wanted.clear()
                self._is_writing = True
            lines = [self._lines.popleft() for _ in range(len(self._lines))]
            left_out = self._left_out
            self._lost += self._write(lines)
            self._tell(left_out + self._lost)
            with self._is_written:
                self._is_writing = False
                self._is_written.notify_all()

    def _tell(self, count: int) -> None:
        """Write how many lines of ``count`` have not been told as missing yet."""
        if count == self._told:
            return
        record = logging.makeLogRecord(
            {
                "name": __name__,
                "levelno": logging.WARNING,
                "levelname": "WARNING",
                "msg": "(log lines left out because nobody took them: %d)",
                "args": (count - self._told,),
            }
        )
        if not self._write([self._spell(record)]):
            self._told = count


class LineWriter(_Writer[str]):
    """Writes records as lines to a stream.

    Args:
        stream: it is not closed.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._descriptor: int | None = None
        self._is_within_line = False
        with contextlib.suppress(OSError, ValueError):
            # Our own, which stays what it is whatever becomes of the stream.
            self._descriptor = os.dup(stream.fileno())
        super().__init__()

    def _spell(self, record: logging.LogRecord) -> str:
        return self.format(record) + "\n"

    def _write(self, lines: list[str]) -> int:
        if self._descriptor is not None:
            return self._write_past_the_stream(lines)
        try:
            self._stream.write("".join(lines))
            self._stream.flush()
        except (OSError, ValueError):
            return len(lines)
        return 0

    def _write_past_the_stream(self, lines: list[str]) -> int:
        """On the stream's own buffer a later flush would stall or fail again."""
        spelt = [line.encode(errors="backslashreplace") for line in lines]
        if spelt and self._is_within_line:
            # What a full disk took of a line is not to become the start of this one.
            spelt[0] = b"\n" + spelt[0]
        rest = b"".join(spelt)
        size = len(rest)
        with contextlib.suppress(OSError):
            while rest:
                taken = self._take(rest)
                if taken:
                    self._is_within_line = rest[taken - 1] != _NEWLINE
                    rest = rest[taken:]
        written = size - len(rest)
        return sum(end > written for end in accumulate(map(len, spelt)))

    def _release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

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


class JournalWriter(_Writer[bytes]):
    """Writes records, with their fields, to systemd's journal.

    Args:
        journal: closed with the writer.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        super().__init__()

    def _spell(self, record: logging.LogRecord) -> bytes:
        return journal_record(record)

    def _write(self, lines: list[bytes]) -> int:
        lost = 0
        for line in lines:
            try:
                self._journal.send(line)
            except OSError:
                lost += 1
        return lost

    def _release(self) -> None:
        self._journal.close()


class NoJournal(Exception):
    """The journal is to be written to, and is not there."""


def start_logging(level: str, form: Format = "auto") -> None:
    """Send what is logged from ``level`` on to where it belongs; to be called once in a process.

    Raises:
        NoJournal: ``form`` asks for it; with a sentence for the operator.
    """
    # A record costs half without what no line of ours shows (logging HOWTO, "Optimization").
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None
    logging.basicConfig(level=level.upper(), handlers=[_output(form, sys.stderr, os.environ)])
    # uvicorn's own stages of life say nothing that the service does not say itself.
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)


def _output(form: Format, stream: TextIO | None, environ: Mapping[str, str]) -> logging.Handler:
    is_journals = stream is not None and _is_journals(stream, environ)
    if form == "journal" or (form == "auto" and is_journals):
        try:
            return JournalWriter(Journal())
        except OSError as error:
            if form == "journal":
                raise NoJournal(
                    f'log.format: "journal" needs systemd-journald, which does not listen at'
                    f' {SOCKET} ({error.strerror}); start it, or set "auto", "text" or "json"'
                ) from error
    if stream is None:
        # Descriptor 2 is closed, and will be somebody's connection.
        return logging.NullHandler()
    handler = LineWriter(stream)
    if form == "json":
        handler.setFormatter(Json())
    elif is_journals:
        handler.setFormatter(PrefixedText())
    else:
        handler.setFormatter(Text(is_coloured=_is_coloured(stream, environ)))
    return handler


def _is_journals(stream: TextIO, environ: Mapping[str, str]) -> bool:
    said = environ.get(STREAM_VARIABLE)
    if not said:
        return False
    try:
        return is_stream(stream.fileno(), said)
    except (OSError, ValueError):
        return False


def _is_coloured(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether colours reach a person who has not declined them (no-color.org)."""
    return stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
