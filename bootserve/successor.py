"""A hand-over as its new process sees it: the pipe to the process that is to be replaced, and
what that one knew of the machines (see `bootserve.memory`).

Over it goes one JSON object: that this process is ready, or why it cannot be. The pipe's end
without either means that it has died.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Final

VARIABLE: Final = "BOOTSERVE_HANDOVER_FD"
"""Names the descriptor of the pipe. Not a setting."""

MEMORY_VARIABLE: Final = "BOOTSERVE_MEMORY_FD"
"""Names the descriptor of a file in memory with what the predecessor knew. Not a setting."""

RELAY_VARIABLE: Final = "BOOTSERVE_TFTP_RELAY_FD"
"""Names the descriptor of a relay to the predecessor's TFTP transfers. Not a setting."""

MAIN_VARIABLE: Final = "BOOTSERVE_MAIN_FD"
"""Names the descriptor of a pipe that ends when systemd has been told of the new process. Not a
setting."""

LONGEST_MEMORY: Final = 32 << 20
"""Bytes of it; what is longer is not read to its end."""

LONGEST: Final = 16 * 1024
"""Bytes of an answer; what is longer is none."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a new process says: it is ready if there are no ``problems``."""

    problems: tuple[str, ...] = ()

    def encode(self) -> bytes:
        """Return the answer as a line of at most `LONGEST` bytes."""
        line = json.dumps({"problems": self.problems}).encode() + b"\n"
        if len(line) > LONGEST:
            return Answer((*self.problems[:1], "and more, see the log"))._shortened()
        return line

    def _shortened(self) -> bytes:
        # A character takes up to 12 bytes in JSON.
        short = [problem[: LONGEST // 32] for problem in self.problems]
        return json.dumps({"problems": short}).encode() + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> Answer | None:
        """Read an answer; ``None`` if it is none."""
        try:
            problems = json.loads(line)["problems"]
        except (ValueError, LookupError, TypeError, RecursionError):
            return None
        if isinstance(problems, list) and all(isinstance(item, str) for item in problems):
            return cls(tuple(problems))
        return None


class Predecessor:
    """The process that waits for us to be ready, if there is one.

    Args:
        pipe: where to tell it; it is ours from now on.
        memory: what it knew.
        relay: to its TFTP transfers, if these use the listening port; whoever takes it closes it.
        main: a pipe that ends when systemd knows this process; whoever takes it closes it.
    """

    def __init__(
        self,
        pipe: int | None,
        memory: bytes = b"",
        relay: socket.socket | None = None,
        main: int | None = None,
    ) -> None:
        self._pipe = pipe
        self.memory = memory
        self.relay = relay
        self.main = main

    @property
    def is_there(self) -> bool:
        """Whether somebody still waits."""
        return self._pipe is not None

    @classmethod
    def take(cls, environ: MutableMapping[str, str] = os.environ) -> Predecessor:
        """Take what the environment names, and the variables with it."""
        memory = _adopt(environ.pop(MEMORY_VARIABLE, ""), stat.S_ISREG)
        relay = _adopt(environ.pop(RELAY_VARIABLE, ""), stat.S_ISSOCK)
        return cls(
            _adopt(environ.pop(VARIABLE, ""), stat.S_ISFIFO),
            b"" if memory is None else _read_all(memory),
            None if relay is None else socket.socket(fileno=relay),
            _adopt(environ.pop(MAIN_VARIABLE, ""), stat.S_ISFIFO),
        )

    def tell_ready(self) -> None:
        """Every door is open: the predecessor may close its own."""
        self._tell(Answer())

    def tell_failed(self, problems: Sequence[str]) -> None:
        """This process will not serve, because of ``problems``."""
        self._tell(Answer(tuple(problems) or ("it failed",)))

    def _tell(self, answer: Answer) -> None:
        if self._pipe is None:
            return
        pipe, self._pipe = self._pipe, None
        # A predecessor that has died meanwhile needs a successor all the more.
        with contextlib.suppress(OSError):
            os.write(pipe, answer.encode())
        os.close(pipe)


def _adopt(number: str, is_right: Callable[[int], bool]) -> int | None:
    """Return a descriptor that is ours from now on, if it is one and of the right type."""
    if not (number.isascii() and number.isdigit() and 0 < len(number) < 10 and int(number) > 2):
        return None
    try:
        if not is_right(os.fstat(int(number)).st_mode):
            return None
        os.set_inheritable(int(number), False)
    except OSError:
        return None
    return int(number)


def _read_all(descriptor: int) -> bytes:
    try:
        with os.fdopen(descriptor, "rb", closefd=True) as file:
            return file.read(LONGEST_MEMORY)
    except OSError:
        return b""
