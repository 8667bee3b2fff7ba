"""A hand-over as its new process sees it: the pipe to the process that is to be replaced, and
what that one knew of the machines (see `bootserve.memory`).

Over it goes one JSON object: that this process is ready, or why it cannot be. The pipe's end
without either means that it has died.

Who is ready keeps the pipe and hands it on to whoever takes over from it, together with those that
it has got in this way. So each process that drains has a pipe that ends when nobody serves any
more, unless the one that serves has said before that it leaves in order.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import stat
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Final

import anyio

VARIABLE: Final = "BOOTSERVE_HANDOVER_FD"
"""Names the descriptor of the pipe. Not a setting."""

MEMORY_VARIABLE: Final = "BOOTSERVE_MEMORY_FD"
"""Names the descriptor of a file in memory with what the predecessor knew. Not a setting."""

RELAY_VARIABLE: Final = "BOOTSERVE_TFTP_RELAY_FD"
"""Names the descriptor of a relay to the predecessor's TFTP transfers. Not a setting."""

MAIN_VARIABLE: Final = "BOOTSERVE_MAIN_FD"
"""Names the descriptor of a pipe that ends when systemd has been told of the new process. Not a
setting."""

ELDER_VARIABLE: Final = "BOOTSERVE_ELDER_FD_"
"""With a number behind it, names the descriptor of the pipe to a process that drains and is not the
one that is replaced. Not a setting."""

LONGEST_MEMORY: Final = 32 << 20
"""Bytes of it; what is longer is not read to its end."""

_LOOK: Final = 2.0
"""Seconds from one look for predecessors that have gone to the next."""

LONGEST: Final = 16 * 1024
"""Bytes of an answer; what is longer is none."""

LEAVING: Final = b"leaving\n"
"""What a process says, after its answer, that leaves nobody in its place on purpose."""


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
    """The process that waits for us to be ready, if there is one, and those that it has replaced.

    Args:
        pipe: where to tell it; it is ours from now on.
        memory: what it knew.
        relay: to its TFTP transfers, if these use the listening port; whoever takes it closes it.
        main: a pipe that ends when systemd knows this process; whoever takes it closes it.
        elders: pipes to those that it has replaced and that may still drain; they are ours.
    """

    def __init__(
        self,
        pipe: int | None,
        memory: bytes = b"",
        relay: socket.socket | None = None,
        main: int | None = None,
        elders: Iterable[int] = (),
    ) -> None:
        self._pipe = pipe
        self._pipes = [number for number in (pipe, *elders) if number is not None]
        self.is_there = pipe is not None
        """Whether there is one."""
        self.memory = memory
        self.relay = relay
        self.main = main

    @classmethod
    def take(cls, environ: MutableMapping[str, str] = os.environ) -> Predecessor:
        """Take what the environment names, and the variables with it."""
        memory = _adopt(environ.pop(MEMORY_VARIABLE, ""), stat.S_ISREG)
        relay = _adopt(environ.pop(RELAY_VARIABLE, ""), stat.S_ISSOCK)
        elders = [name for name in environ if name.startswith(ELDER_VARIABLE)]
        adopted = [_adopt(environ.pop(name), stat.S_ISFIFO) for name in elders]
        return cls(
            _adopt(environ.pop(VARIABLE, ""), stat.S_ISFIFO),
            b"" if memory is None else _read_all(memory),
            None if relay is None else socket.socket(fileno=relay),
            _adopt(environ.pop(MAIN_VARIABLE, ""), stat.S_ISFIFO),
            [number for number in adopted if number is not None],
        )

    def tell_ready(self) -> None:
        """Every door is open: the predecessor may close its own."""
        self._answer(Answer())

    def tell_failed(self, problems: Sequence[str]) -> None:
        """This process will not serve, because of ``problems``."""
        self._answer(Answer(tuple(problems) or ("it failed",)))
        self._close(self._pipes)

    def tell_leaving(self) -> None:
        """This process takes no more work, and nobody has to take its place."""
        self._tell(self._pipes, LEAVING)
        self._close(self._pipes)

    def waiting(self) -> dict[str, int]:
        """The pipes, for a successor of our own, by the variables that tell of them.

        Only of those processes that are still there.
        """
        self._forget_gone()
        return {f"{ELDER_VARIABLE}{pipe}": pipe for pipe in self._pipes}

    async def see_off(self) -> None:
        """Free the pipes of those that have gone; return when the last one has."""
        while self._pipes:
            await anyio.sleep(_LOOK)
            self._forget_gone()

    def _forget_gone(self) -> None:
        poll = select.poll()
        for pipe in self._pipes:
            poll.register(pipe, 0)
        # That nobody reads it any more is the only event that a pipe's other end has.
        self._close([pipe for pipe, _ in poll.poll(0)])

    def _answer(self, answer: Answer) -> None:
        # Elders wait for no answer, and would take it for a word about who serves.
        self._tell([pipe for pipe in self._pipes if pipe == self._pipe], answer.encode())

    def _tell(self, pipes: Sequence[int], line: bytes) -> None:
        for pipe in pipes:
            # A predecessor that has gone meanwhile needs a successor all the more.
            with contextlib.suppress(OSError):
                os.write(pipe, line)

    def _close(self, pipes: Iterable[int]) -> None:
        for pipe in tuple(pipes):
            self._pipes.remove(pipe)
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
