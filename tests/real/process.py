"""Child processes whose output can be watched, and waiting for real conditions."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from types import TracebackType

POLL = 0.05
TAIL_LINES = 40

_PLACEMENTS = re.compile(r"(?:\x1b\[[0-9;]*H)*\x1b\[(?:[0-9]*;([0-9]+))?H")
"""Cursor placements one after the other; the column of the last (ECMA-48, CUP; 1 if not given)."""
_DRAWING = re.compile(r"\x1b(?:\[[0-9;=?]*[A-Za-z]|.)|[\x00\x07]")


class NotHappened(AssertionError):
    """What a test waited for did not come; the text shows the ends of the logs."""


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Return as soon as `condition` holds; fail when `seconds` have passed without it."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise NotHappened(f"not within {seconds:g} s: {what}")
        time.sleep(POLL)


class Process:
    """A child process with its output in files, ended with the `with` block.

    `watched` is the file that `wait_for` reads: the process's own output, or
    for a virtual machine its serial console.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        directory: Path,
        *,
        cwd: Path | None = None,
    ) -> None:
        self.name = name
        self.out = directory / f"{name}.out"
        self.err = directory / f"{name}.err"
        self.watched = self.out
        self.evidence: list[Path] = [self.out, self.err]
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self._popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=cwd,
                env=environment(),
                # Ctrl-C is for pytest; the children are ended in order by it.
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def running(self) -> bool:
        return self._popen.poll() is None

    def text(self) -> str:
        return read(self.watched)

    def log(self) -> str:
        return read(self.err)

    def wait_for(self, pattern: str, seconds: float) -> re.Match[str]:
        """The first match of `pattern` (a regular expression) in what is watched."""
        found: list[re.Match[str]] = []

        def seen() -> bool:
            # Asked before reading: what a process printed before its end counts.
            alive = self.running
            match = re.search(pattern, self.text(), re.MULTILINE)
            if match:
                found.append(match)
                return True
            if not alive:
                raise NotHappened(
                    f"{self.name} ended with {self._popen.returncode} before {pattern!r}"
                )
            return False

        with self.shown_on_failure():
            wait_until(seen, seconds, f"{pattern!r} from {self.name}")
        return found[0]

    def wait_end(self, seconds: float) -> int:
        """The exit code, once the process has ended by itself."""
        with self.shown_on_failure():
            wait_until(lambda: not self.running, seconds, f"the end of {self.name}")
        return self._popen.wait()

    def stop(self, seconds: float = 5) -> int:
        """End the process as a service manager would; the exit code."""
        if self.running:
            self._popen.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self._popen.wait(seconds)
            self._popen.kill()
        return self._popen.wait()

    @contextlib.contextmanager
    def shown_on_failure(self) -> Iterator[None]:
        """Whatever fails in the block is told with the ends of this process's logs."""
        try:
            yield
        except Exception as error:
            for path in self.evidence:
                error.add_note(tail(path))
            raise


def environment() -> dict[str, str]:
    """Ours without bootserve's settings: those of whoever runs the tests are not part of them."""
    return {k: v for k, v in os.environ.items() if not k.startswith("BOOTSERVE_")}


def read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""


def tail(path: Path) -> str:
    plain = words_on_screen(read(path)).replace("\b", "").replace("\r", "\n")
    lines = [line for line in plain.split("\n") if line.strip()]
    return "\n".join([f"--- the end of {path.name}:", *lines[-TAIL_LINES:]])


def words_on_screen(console: str) -> str:
    """What a serial console says as a person reads it: without what draws and colours.

    Text that is placed elsewhere on the screen begins a line. A busy machine's SeaBIOS also places
    the cursor where it stands already, in the middle of a word; that is no new line.
    """
    words = ""
    end = 0
    for placement in _PLACEMENTS.finditer(console):
        words += _DRAWING.sub("", console[end : placement.start()])
        line = words[max(words.rfind("\n"), words.rfind("\r")) + 1 :]
        column = len(line) - 2 * line.count("\b") + 1
        if int(placement[1] or 1) != column:
            words += "\n"
        end = placement.end()
    return words + _DRAWING.sub("", console[end:])
