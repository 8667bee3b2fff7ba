"""Log lines come whole and in order, and whoever does not read them holds nobody up."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import json
import logging
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import IO, TextIO

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bootserve import log
from bootserve.events import Event, with_fields
from bootserve.journal import Journal
from bootserve.log import Format, LineWriter, start_logging
from bootserve.text import printable

DEADLINE = 60
_ROOT = Path(__file__).parent.parent


def _logger(stream: TextIO) -> tuple[logging.Logger, LineWriter]:
    """A logger of its own, which no other test and no `logging.shutdown` knows by name."""
    handler = LineWriter(stream)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.Logger("test", logging.DEBUG)
    logger.addHandler(handler)
    return logger, handler


def _in_time(action: Callable[[], object]) -> None:
    """Do it, in a thread, so that a test of what never blocks fails where it does."""
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    thread.join(DEADLINE)
    assert not thread.is_alive(), "it blocks"


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def _writers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "bootserve-log"}


class _Pipe:
    """A pipe, as to journald, which takes a page and then waits for its reader."""

    def __init__(self) -> None:
        self.reader, writer = os.pipe()
        self.size = fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
        self.stream = os.fdopen(writer, "w")
        self._rest = b""

    def is_full(self) -> bool:
        answer = fcntl.ioctl(self.reader, termios.FIONREAD, bytes(4))
        return int(struct.unpack("i", answer)[0]) >= self.size

    def lines(self, until: str) -> list[str]:
        """Read up to and with the first line that has ``until`` in it."""
        found: list[str] = []
        while not found or until not in found[-1]:
            while b"\n" not in self._rest:
                assert select.select([self.reader], [], [], DEADLINE)[0], found[-3:]
                self._rest += os.read(self.reader, 1 << 20)
            line, _, self._rest = self._rest.partition(b"\n")
            found.append(line.decode())
        return found

    def leave(self) -> None:
        if self.reader >= 0:
            os.close(self.reader)
            self.reader = -1


@pytest.fixture
def pipe() -> Iterator[_Pipe]:
    pipe = _Pipe()
    yield pipe
    # Without a reader a thread that waits for one goes on, and the stream can be closed.
    pipe.leave()
    with contextlib.suppress(BrokenPipeError):
        pipe.stream.close()


@pytest.fixture
def stalled(pipe: _Pipe) -> Iterator[tuple[logging.Logger, LineWriter]]:
    """A logger whose thread is held up by a pipe that nobody reads."""
    logger, handler = _logger(pipe.stream)
    logger.info("x" * 3 * pipe.size)
    _wait(pipe.is_full)
    yield logger, handler
    pipe.leave()
    handler.close()


def test_lines_of_several_threads_come_whole_and_in_order() -> None:
    stream = io.StringIO()
    logger, handler = _logger(stream)
    start = threading.Barrier(4)

    def write(name: int) -> None:
        start.wait()
        for number in range(500):
            logger.info("thread %d line %d %s", name, number, "." * (number % 50))

    threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    handler.close()
    lines = stream.getvalue().splitlines()
    for name in range(4):
        own = [line for line in lines if line.startswith(f"thread {name} ")]
        assert own == [f"thread {name} line {n} {'.' * (n % 50)}" for n in range(500)]
    assert len(lines) == 2000


def test_what_was_logged_is_there_after_a_flush() -> None:
    stream = io.StringIO()
    logger, handler = _logger(stream)
    for number in range(20):
        logger.info("%d", number)
        handler.flush()
        assert stream.getvalue().endswith(f"{number}\n")
    handler.flush()
    handler.close()
    assert stream.getvalue().split() == [str(number) for number in range(20)]


class _Slow(io.StringIO):
    """A stream that takes a line when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Event()
        self.may_go_on = threading.Event()

    def write(self, text: str) -> int:
        self.entered.set()
        assert self.may_go_on.wait(DEADLINE)
        return super().write(text)


@pytest.mark.parametrize("behind", [[], ["two", "three"]], ids=["alone", "first"])
def test_flush_waits_for_the_line_that_is_being_written_and_for_those_behind_it(
    behind: list[str],
) -> None:
    stream = _Slow()
    logger, handler = _logger(stream)
    logger.info("one")
    assert stream.entered.wait(DEADLINE)
    for line in behind:
        logger.info(line)
    seen: list[str] = []

    def flush() -> None:
        handler.flush()
        seen.append(stream.getvalue())

    flushing = threading.Thread(target=flush)
    flushing.start()
    # One that does not wait is done by now, or almost.
    flushing.join(0.05)
    assert seen == []
    stream.may_go_on.set()
    flushing.join(DEADLINE)
    assert [text.split() for text in seen] == [["one", *behind]]
    handler.close()


def test_the_end_of_the_process_writes_what_is_left() -> None:
    stream = io.StringIO()
    logger, handler = _logger(stream)
    for number in range(3000):
        logger.info("%d", number)
    logging.shutdown([weakref.ref(handler)])
    assert stream.getvalue().split() == [str(number) for number in range(3000)]


def test_close_ends_the_thread_and_leaves_the_stream_open() -> None:
    before = _writers()
    stream = io.StringIO()
    logger, handler = _logger(stream)
    assert len(_writers() - before) == 1
    logger.info("last")
    handler.close()
    assert _writers() == before
    assert stream.getvalue() == "last\n"
    # As logging does once more at exit.
    _in_time(handler.flush)
    _in_time(handler.close)
    _in_time(lambda: logger.info("too late"))


def test_a_reader_that_stalls_holds_nobody_up_and_is_told_what_it_has_missed(
    pipe: _Pipe, stalled: tuple[logging.Logger, LineWriter]
) -> None:
    logger, handler = stalled
    most = log._MOST

    def flood() -> None:
        for number in range(most + 777):
            logger.info("line %d", number)

    _in_time(flood)
    long, *lines, left_out = pipe.lines("left out")
    assert long == "x" * 3 * pipe.size
    assert lines == [f"line {number}" for number in range(most)]
    assert re.findall(r"\d+", left_out) == ["777"]
    logger.info("all is well")
    assert pipe.lines("well") == ["all is well"]
    handler.flush()


def test_what_waits_for_a_reader_is_bounded_however_often_it_stalls(
    pipe: _Pipe, stalled: tuple[logging.Logger, LineWriter], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "_MOST", 10)
    logger, _ = stalled
    for number in range(25):
        logger.info("first %d", number)
    assert pipe.lines("left out")[1:] == [
        *(f"first {number}" for number in range(10)),
        "(log lines left out because nobody took them: 15)",
    ]
    logger.info("x" * 3 * pipe.size)
    _wait(pipe.is_full)
    for number in range(12):
        logger.info("second %d", number)
    assert pipe.lines("left out")[1:] == [
        *(f"second {number}" for number in range(10)),
        "(log lines left out because nobody took them: 2)",
    ]


def test_a_reader_that_stalls_does_not_hold_the_end_up(
    pipe: _Pipe,
    stalled: tuple[logging.Logger, LineWriter],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(log, "_FLUSH_WAIT", 0.01)
    logger, handler = stalled
    [thread] = [thread for thread in _writers() if thread.is_alive()]
    logger.info("nobody reads this")
    _in_time(handler.flush)
    _in_time(handler.close)
    _in_time(handler.close)
    pipe.leave()
    thread.join(DEADLINE)
    assert not thread.is_alive()


def test_a_stream_that_was_closed_harms_nobody() -> None:
    stream = io.StringIO()
    logger, handler = _logger(stream)
    stream.close()
    for number in range(3):
        logger.info("%d", number)
        handler.flush()
    handler.close()


def test_a_file_that_was_closed_harms_nobody_who_has_its_descriptor_now(tmp_path: Path) -> None:
    stream = (tmp_path / "log").open("w")
    number = stream.fileno()
    logger, handler = _logger(stream)
    stream.close()
    with (tmp_path / "other").open("w") as other:
        assert other.fileno() == number
        logger.info("this is not for a client")
        handler.close()
    assert (tmp_path / "other").read_text() == ""


def test_a_pipe_that_somebody_has_made_non_blocking_gets_every_line(pipe: _Pipe) -> None:
    os.set_blocking(pipe.stream.fileno(), False)
    logger, handler = _logger(pipe.stream)
    for number in range(2000):
        logger.info("line %d", number)
    _wait(pipe.is_full)
    logger.info("last")
    assert pipe.lines("last") == [*(f"line {number}" for number in range(2000)), "last"]
    handler.close()


def test_what_cannot_be_encoded_costs_no_other_line(pipe: _Pipe) -> None:
    logger, handler = _logger(pipe.stream)
    for text in ("before", "file \udcff", "h\u00fc", "after"):
        logger.info(text)
    assert pipe.lines("after") == ["before", "file \\udcff", "h\u00fc", "after"]
    handler.close()


def test_a_reader_that_has_left_harms_nobody(pipe: _Pipe) -> None:
    logger, handler = _logger(pipe.stream)
    logger.info("first")
    assert pipe.lines("first") == ["first"]
    pipe.leave()
    for number in range(3):
        logger.info("%d %s", number, "x" * 10_000)
        handler.flush()
    handler.close()


class _FullDisk(io.StringIO):
    is_full = True

    def write(self, text: str) -> int:
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(text)


def test_a_disk_that_was_full_gets_later_lines_and_how_many_are_missing() -> None:
    stream = _FullDisk()
    logger, handler = _logger(stream)
    logger.info("lost")
    handler.flush()
    stream.is_full = False
    logger.info("kept")
    handler.close()
    told = "(log lines left out because nobody took them: 1)"
    assert stream.getvalue().splitlines() == ["kept", told]


def test_a_line_of_which_a_full_disk_took_a_part_stays_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file system takes what it has room for, and then nothing, as write(2) says."""
    room, write = [25], os.write

    def write_to_disk(descriptor: int, data: bytes) -> int:
        if data and not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = write(descriptor, data[: room[0]])
        room[0] -= count
        return count

    with (tmp_path / "log").open("w") as stream:
        logger, handler = _logger(stream)
        monkeypatch.setattr(os, "write", write_to_disk)
        for line in ("a line of twenty letters", "lost"):
            logger.info(line)
            handler.flush()
        logger.info("cut " + "x" * 100)
        handler.flush()
        assert (tmp_path / "log").read_text() == "a line of twenty letters\n"
        room[0] = 9
        logger.info("cut " + "y" * 100)
        handler.flush()
        room[0] = 1000
        logger.info("kept")
        handler.close()
    assert (tmp_path / "log").read_text().splitlines() == [
        "a line of twenty letters",
        "cut yyyyy",
        "kept",
        "(log lines left out because nobody took them: 3)",
    ]


def test_a_line_that_cannot_be_formatted_costs_no_other(
    capsys: pytest.CaptureFixture[str],
) -> None:
    stream = io.StringIO()
    logger, handler = _logger(stream)
    logger.info("before")
    logger.info("%d", "no number")
    logger.info("after")
    handler.close()
    assert stream.getvalue() == "before\nafter\n"
    assert "no number" in capsys.readouterr().err


@contextlib.contextmanager
def _started(stream: TextIO, form: Format = "auto") -> Iterator[logging.Handler]:
    """What `start_logging` has set up, which is undone before pytest takes its own away."""
    uvicorn = logging.getLogger("uvicorn.error")
    levels = logging.root.level, uvicorn.level
    with pytest.MonkeyPatch.context() as patch:
        for name in ("logThreads", "logProcesses", "logMultiprocessing", "_srcfile"):
            patch.setattr(logging, name, getattr(logging, name))
        patch.setattr(logging.root, "handlers", [])
        patch.setattr(sys, "stderr", stream)
        try:
            start_logging("info", form)
            [handler] = logging.root.handlers
            yield handler
            handler.close()
        finally:
            logging.root.setLevel(levels[0])
            uvicorn.setLevel(levels[1])


@settings(max_examples=30)
@given(
    times=st.lists(
        st.one_of(
            st.floats(1_700_000_000, 1_700_000_003),
            # Around the ends of summer time in Europe and in America.
            st.floats(1_761_440_395, 1_761_440_405),
            st.floats(0, 4_000_000_000),
        ),
        max_size=30,
    )
)
@example(times=[1_700_000_000.9999, 1_700_000_001.0, 1_700_000_000.5, 1_700_000_001.9999999])
def test_every_line_has_its_own_second(times: list[float]) -> None:
    stream = io.StringIO()
    with _started(stream) as handler:
        for number, created in enumerate(times):
            record = logging.makeLogRecord(
                {"msg": "%d", "args": (number,), "created": created, "levelname": "INFO"}
            )
            handler.handle(record)
        handler.flush()
    assert stream.getvalue().splitlines() == [
        f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(created))} I {number}"
        for number, created in enumerate(times)
    ]


def test_a_line_says_when_how_bad_and_what() -> None:
    stream = io.StringIO()
    with _started(stream):
        logging.getLogger("bootserve.x").warning("disk of %s is %d %% full", "node1", 99)
        logging.getLogger("bootserve.x").debug("not wanted")
        logging.getLogger("uvicorn.error").info("not ours")
        try:
            raise RuntimeError("boom")
        except RuntimeError:
            logging.getLogger("bootserve.x").exception("it failed")
    first, second, *trace = stream.getvalue().splitlines()
    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
    assert re.fullmatch(stamp + " W disk of node1 is 99 % full", first)
    assert re.fullmatch(stamp + " E it failed", second)
    assert trace[-1] == "RuntimeError: boom"


@settings(max_examples=30)
@given(
    message=st.text(st.one_of(st.characters(), st.characters(categories=["Cs"]))),
    value=st.one_of(
        st.text(st.characters(categories=["L", "N", "P"], exclude_characters="\\"), min_size=1),
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
    ),
    created=st.floats(0, 4_000_000_000),
)
@example(message="two\nlines \x1b[2J \udcff \u202e", value="\u00fc", created=1_700_000_000.9999)
def test_a_line_of_json_is_an_object_in_ascii(
    message: str, value: str | float, created: float
) -> None:
    stream = io.StringIO()
    with _started(stream, "json") as handler:
        record = logging.makeLogRecord(
            {
                "name": "bootserve.x",
                "levelname": "WARNING",
                "levelno": logging.WARNING,
                "msg": message,
                "created": created,
                **with_fields(lambda: {"event": Event.LOOP, "said": value, "machine": None}),
            }
        )
        handler.handle(record)
        handler.flush()
    text = stream.getvalue()
    assert text.isascii()
    assert text.endswith("\n")
    assert text.count("\n") == 1
    line = json.loads(text)
    moment = datetime.fromisoformat(line.pop("timestamp"))
    assert moment.utcoffset() == timedelta(0)
    assert 0 <= created - moment.timestamp() < 0.0011
    assert line == {
        "level": "warning",
        "logger": "bootserve.x",
        "event": "loop",
        "message": message.encode(errors="backslashreplace").decode(),
        "said": printable(value) if isinstance(value, str) else value,
    }


def test_a_traceback_in_json_is_a_field() -> None:
    stream = io.StringIO()
    with _started(stream, "json"):
        try:
            raise RuntimeError("boom")
        except RuntimeError:
            logging.getLogger("bootserve.x").exception("it failed")
    line = json.loads(stream.getvalue())
    assert (line["level"], line["message"]) == ("error", "it failed")
    assert line["traceback"].splitlines()[-1] == "RuntimeError: boom"


@pytest.mark.parametrize(
    ("terminal", "no_color", "is_coloured"),
    [("xterm", "", True), ("xterm", "1", False), ("dumb", "", False)],
)
def test_on_a_terminal_what_is_wrong_stands_out(
    monkeypatch: pytest.MonkeyPatch, terminal: str, no_color: str, is_coloured: bool
) -> None:
    monkeypatch.setenv("TERM", terminal)
    monkeypatch.setenv("NO_COLOR", no_color)
    reader, writer = pty.openpty()
    with os.fdopen(writer, "w") as stream, _started(stream):
        for say in (logging.info, logging.warning, logging.error):
            say("it is so")
    shown = os.read(reader, 4096).decode()
    os.close(reader)
    fine, bad, worse = shown.splitlines()
    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d "
    assert re.fullmatch(stamp + "I it is so", fine)
    for line, letter, colour in ((bad, "W", r"\x1b\[33m"), (worse, "E", r"\x1b\[31m")):
        start, end = (colour, r"\x1b\[0m") if is_coloured else ("", "")
        assert re.fullmatch(f"{start}{stamp}{letter} it is so{end}", line)


def test_where_the_journal_takes_no_records_its_stream_gets_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "Journal", partial(Journal, tmp_path / "nothing"))
    with (tmp_path / "log").open("w") as stream:
        found = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        with _started(stream):
            logging.warning("first\nsecond")
    assert (tmp_path / "log").read_text() == "<4>first\n<4>second\n"


# A whole process. Python's own buffers are part of what is proven, so they are as by default.


def _environment(**more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    return {**kept, "PYTHONPATH": str(_ROOT), **more}


@pytest.mark.parametrize(
    ("end", "code", "last"),
    [
        ("", 0, "999"),
        ("sys.exit(3)", 3, "999"),
        ("raise RuntimeError('boom')", 1, "RuntimeError: boom"),
    ],
    ids=["end", "exit", "error"],
)
def test_no_line_is_lost_however_a_program_ends(end: str, code: int, last: str) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-c"),
            "import logging, sys\nfrom bootserve.log import start_logging\nstart_logging('info')\n"
            f"for n in range(1000): logging.info('%d', n)\n{end}",
        ],
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == code
    numbers = re.findall(r"^\S+ \S+ I (\d+)$", done.stderr, re.MULTILINE)
    assert numbers == [str(number) for number in range(1000)]
    if code == 1:
        assert last in done.stderr


class _Server:
    """`bootserve serve` with a standard error of the test's choice."""

    def __init__(self, folder: Path, stderr: IO[str] | int | None) -> None:
        serve = ["-m", "bootserve", "serve", "--root", str(folder)]
        doors = ["--http", "127.0.0.1:0", "--tftp", "off"]
        command = [sys.executable, *serve, *doors]
        if stderr is None:
            command = ["/bin/sh", "-c", 'exec "$@" 2>&-', "sh", *command]
        self.process = subprocess.Popen(
            command, env=_environment(), stdout=subprocess.PIPE, stderr=stderr, text=True
        )
        banner = ""
        assert self.process.stdout is not None
        while "is ready" not in banner:
            assert select.select([self.process.stdout], [], [], DEADLINE)[0], banner
            more = os.read(self.process.stdout.fileno(), 65536).decode()
            assert more, f"it ended: {banner}"
            banner += more
        [port] = re.findall(r"^HTTP .*http://127\.0\.0\.1:(\d+)", banner, re.MULTILINE)
        self.port = int(port)

    def ask(self, times: int, path: str = "/boot.ipxe") -> None:
        """Get a path, by default that of the entry script, so many times one after the other."""
        with socket.create_connection(("127.0.0.1", self.port), DEADLINE) as client:
            for _ in range(times):
                client.sendall(f"GET {path} HTTP/1.1\r\nHost: boot.example\r\n\r\n".encode())
                answer = b""
                while b"\r\n\r\n" not in answer or b"content-length" not in answer:
                    answer += (more := client.recv(65536))
                    assert more
                [length] = re.findall(rb"content-length: (\d+)", answer)
                rest = int(length) - len(answer.partition(b"\r\n\r\n")[2])
                while rest > 0:
                    rest -= len(client.recv(rest))

    def stop(self) -> int:
        """Tell it to end; a program that holds on is none that an operator can stop."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[IO[str] | int | None], _Server]]:
    servers: list[_Server] = []

    def start(stderr: IO[str] | int | None) -> _Server:
        (tmp_path / "x86_64").mkdir()
        (tmp_path / "x86_64/vmlinuz").write_bytes(b"kernel")
        servers.append(_Server(tmp_path, stderr))
        return servers[-1]

    yield start
    for server in servers:
        server.process.kill()
        server.process.communicate()


Serve = Callable[[IO[str] | int | None], _Server]


def test_a_server_that_is_stopped_has_written_every_line(serve: Serve) -> None:
    server = serve(subprocess.PIPE)
    server.ask(50)
    server.process.send_signal(signal.SIGTERM)
    _, text = server.process.communicate(timeout=DEADLINE)
    lines = text.splitlines()
    assert len([line for line in lines if "gets the entry script" in line]) == 50
    assert "stopping: no new requests" in lines[-2]
    assert "has left; nothing was cut off" in lines[-1]
    assert server.process.returncode == 0


def test_a_server_that_is_stopped_has_counted_what_it_left_out(serve: Serve) -> None:
    server = serve(subprocess.PIPE)
    server.ask(73, "/boot/nothing")
    server.process.send_signal(signal.SIGTERM)
    _, text = server.process.communicate(timeout=DEADLINE)
    lines = text.splitlines()
    assert len([line for line in lines if line.endswith("nothing: not found")]) == 50
    [counted] = [line for line in lines if "left out" in line]
    assert counted.endswith("W left out 23 lines like those before")


def test_a_server_that_is_to_write_json_writes_nothing_else(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOOTSERVE_LOG_FORMAT", "json")
    server = serve(subprocess.PIPE)
    server.ask(1, "/machine.ipxe?mac=52:54:00:12:34:56&platform=a%0Ab")
    server.ask(1, "/boot/x86_64/vmlinuz")
    server.process.send_signal(signal.SIGTERM)
    _, text = server.process.communicate(timeout=DEADLINE)
    lines = [json.loads(line) for line in text.splitlines()]
    [boot] = [line for line in lines if line.get("event") == "boot"]
    assert boot["machine"] == "52:54:00:12:34:56"
    assert boot["platform"] == r"a\nb"
    [transfer] = [line for line in lines if line.get("event") == "transfer"]
    assert transfer["name"] == "x86_64/vmlinuz"
    assert (transfer["sent"], transfer["total"], transfer["end"]) == (6, 6, "complete")


def test_a_server_whose_log_nobody_reads_serves_and_stops(serve: Serve) -> None:
    reader, writer = os.pipe()
    try:
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
        server = serve(writer)
        os.close(writer)
        server.ask(500)
        assert server.stop() == 0
    finally:
        os.close(reader)


def test_a_server_whose_log_reader_has_left_serves_and_stops(serve: Serve) -> None:
    reader, writer = os.pipe()
    server = serve(writer)
    os.close(writer)
    os.close(reader)
    server.ask(3)
    assert server.stop() == 0


def test_a_server_whose_log_is_on_a_full_disk_serves_and_stops(serve: Serve) -> None:
    with open("/dev/full", "w") as full:
        server = serve(full)
    server.ask(3)
    assert server.stop() == 0


def test_a_server_without_standard_error_serves_and_stops(serve: Serve) -> None:
    server = serve(None)
    server.ask(3)
    assert server.stop() == 0


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bootserve", "serve", "--root", str(tmp_path / "none")],
        env=_environment(BOOTSERVE_HTP_LISTEN="*:80"),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 1
    assert f"assets.roots: {tmp_path / 'none'} does not exist" in done.stderr
    assert "BOOTSERVE_HTP_LISTEN" in done.stderr
    assert "Traceback" not in done.stderr
