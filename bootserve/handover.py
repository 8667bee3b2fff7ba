"""A hand-over as the old process sees it: start a fresh one, give it the sockets, hear from it.

The new process is this program started again as it was started the first time: the same
interpreter, arguments, environment and directory, but whatever code and configuration are there
now. It gets copies of the listening sockets (see `bootserve.systemd`), so that both processes
accept from the same queues until the old one closes its own; nothing that waits in them is lost.
For that reason nobody may ever shutdown() one of these sockets: that would end it for both.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeVar

import anyio
import anyio.to_thread

from bootserve.successor import LEAVING, LONGEST, MEMORY_VARIABLE, VARIABLE, Answer
from bootserve.systemd import Inherited
from bootserve.text import printable

TIMEOUT: Final = 60.0
"""Seconds within which a new process must be ready. Then it is ended, and the old one stays."""

_LOOK: Final = 0.2
"""Seconds from one look for the end of a process to the next."""

_END_TIMEOUT: Final = 5.0
"""Seconds that it may take to end by SIGTERM before it is killed."""

# Read now: an upgrade begins with other files in the place of ours.
_LAUNCHER: Final = Path(__file__).with_name("_launch.py").read_text()


_Result = TypeVar("_Result")
_NONE: Final[Mapping[str, int]] = MappingProxyType({})


class HandoverFailed(Exception):
    """There is no new process. Each of ``problems`` is a sentence, not yet safe to print."""

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems

    def __str__(self) -> str:
        """The sentences on one line, safe to print."""
        return "; ".join(printable(problem, longest=LONGEST) for problem in self.problems)


class NotNow(HandoverFailed):
    """Nothing is wrong; this process is leaving, or being replaced already."""


@dataclass(frozen=True, slots=True)
class Start:
    """How this process was started; to be looked at before anything changes."""

    program: tuple[str, ...]
    directory: str | None

    @classmethod
    def of_this_process(cls) -> Start:
        # orig_argv[0] may be a name in PATH, or lead round a virtual environment.
        return cls((sys.executable or sys.orig_argv[0], *sys.orig_argv[1:]), _directory())


def _directory() -> str | None:
    """The working directory, by the name that its user knows it by.

    Where releases lie side by side and a symbolic link says which is current, that name leads to
    the new one.
    """
    try:
        here = Path.cwd()
    except OSError:
        return None
    named = Path(os.environ.get("PWD", ""))
    try:
        return str(named if named.is_absolute() and named.samefile(here) else here)
    except OSError:
        return str(here)


class Successor:
    """A process that has taken over.

    Args:
        pipe: where it says that it leaves, and whose end tells that nobody serves any more, see
            `bootserve.successor`; it is this object's from now on.
    """

    def __init__(self, process: subprocess.Popen[bytes], pipe: int) -> None:
        self._process = process
        self._pipe = pipe

    @property
    def pid(self) -> int:
        return self._process.pid

    async def leaves_a_gap(self) -> bool:
        """Wait until it, or whoever has succeeded it, serves no more; whether it did not say so."""
        self._process.returncode = 0  # which only tells subprocess that others reap it
        try:
            if await _read_line(self._pipe) == LEAVING:
                return False
        finally:
            os.close(self._pipe)
        # A program older than this rule has closed the pipe, and nothing more is known of it.
        with anyio.move_on_after(_END_TIMEOUT):
            while not self._has_ended():  # noqa: ASYNC110 (it is the kernel that knows)
                await anyio.sleep(_LOOK)
        return self._has_ended()

    def _has_ended(self) -> bool:
        # How it ended is for whoever reaps it to tell.
        with contextlib.suppress(ChildProcessError):
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        return True

    async def end(self) -> None:
        """Have it end, because it is not needed after all."""
        os.close(self._pipe)
        with anyio.CancelScope(shield=True):
            await _end(self._process)


async def start_successor(
    start: Start,
    sockets: Sequence[Inherited],
    *,
    within: float = TIMEOUT,
    memory: Callable[[], bytes] = bytes,
    others: Mapping[str, int] = _NONE,
) -> Successor:
    """Start a new process with copies of ``sockets``, and wait until it is ready.

    When this is cancelled, the process is ended.

    Args:
        within: seconds.
        memory: writes down what the new process is to know; called in a thread.
        others: more descriptors, by the variables that tell the new process of them.

    Raises:
        HandoverFailed: it is not ready, and has been ended.
    """
    try:
        reading, writing = os.pipe()
    except OSError as error:
        raise _cannot_start(error) from error
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, reading)
        try:
            process = await _in_thread(
                _start, start, sockets, {VARIABLE: writing, **others}, memory
            )
        except RuntimeError as error:  # no more threads are to be had
            raise _cannot_start(error) from error
        finally:
            os.close(writing)
        try:
            with anyio.fail_after(within):
                answer = Answer.decode(await _read_line(reading))
        except TimeoutError:
            await _end(process)
            raise HandoverFailed(
                f"the new process, pid {process.pid}, was not ready within {within:g} s and was"
                " ended"
            ) from None
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await _end(process)
            raise
        if answer == Answer():
            stack.pop_all()
            return Successor(process, reading)
        with anyio.CancelScope(shield=True):
            # It is about to end by itself.
            if not await _has_ended(process):
                await _end(process)
        if answer is not None:
            raise HandoverFailed(*answer.problems)
        how = how_it_ended(process.returncode)
        raise HandoverFailed(f"the new process, pid {process.pid}, {how} before it was ready")


async def _in_thread(function: Callable[..., _Result], *args: object) -> _Result:
    # Of the threads that all share, every one may be waiting for a disk.
    return await anyio.to_thread.run_sync(function, *args, limiter=anyio.CapacityLimiter(1))


def _start(
    start: Start,
    sockets: Sequence[Inherited],
    others: dict[str, int],
    memory: Callable[[], bytes],
) -> subprocess.Popen[bytes]:
    with contextlib.ExitStack() as stack:
        # A sandbox may not know files in memory; that is no reason to keep the old program.
        with contextlib.suppress(OSError):
            file = os.fdopen(os.memfd_create("bootserve-memory"), "w+b", buffering=0)
            stack.enter_context(file)
            file.write(memory())
            file.seek(0)
            others[MEMORY_VARIABLE] = file.fileno()
        return _launch(start, sockets, others)


def _launch(
    start: Start, sockets: Sequence[Inherited], others: Mapping[str, int]
) -> subprocess.Popen[bytes]:
    """Start the new process; ``others`` are descriptors by the variables that tell it of them."""
    descriptors = [item.sock.fileno() for item in sockets]
    numbers = ",".join(map(str, descriptors))
    named = ",".join(f"{variable}={descriptor}" for variable, descriptor in others.items())
    launcher = (start.program[0], "-I", "-S", "-c", _LAUNCHER, numbers, named)
    # A child inherits what its parent's thread blocks: SIGHUP waits until the new process is ready.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        return subprocess.Popen(  # noqa: S603 (our own command line, without a shell)
            (*launcher, *start.program),
            cwd=start.directory,
            pass_fds=(*descriptors, *others.values()),
            env={**os.environ, "LISTEN_FDNAMES": ":".join(item.name for item in sockets)},
        )
    except (OSError, ValueError) as error:
        raise _cannot_start(error) from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _cannot_start(error: Exception) -> HandoverFailed:
    why = str(error)
    if isinstance(error, OSError):
        why = error.strerror or why
        if error.filename is not None:
            why = f"{os.fsdecode(error.filename)}: {why}"
    return HandoverFailed(f"a new process cannot be started: {why}")


async def _read_line(pipe: int) -> bytes:
    os.set_blocking(pipe, False)
    data = b""
    while not data.endswith(b"\n") and len(data) <= LONGEST:
        try:
            # No byte of what may come behind the line.
            more = os.read(pipe, 1)
        except BlockingIOError:
            await anyio.wait_readable(pipe)
            continue
        if not more:
            break
        data += more
    return data


async def _end(process: subprocess.Popen[bytes]) -> None:
    # Gently at first: it may have accepted a request already.
    process.terminate()
    if not await _has_ended(process):
        process.kill()
        await _in_thread(process.wait)


async def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Wait a while for a process to end."""
    try:
        await _in_thread(process.wait, _END_TIMEOUT)
    except subprocess.TimeoutExpired:
        return False
    return True


def how_it_ended(returncode: int) -> str:
    """Return the middle of a sentence that begins with a process."""
    if returncode >= 0:
        return f"ended with exit status {returncode}"
    try:
        return f"was ended by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"was ended by signal {-returncode}"
