"""What a real journald makes of our records, and a journald that stalls or is away."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bootserve import log
from bootserve.events import Event, with_fields
from bootserve.journal import Journal, encode, is_stream
from bootserve.log import JournalWriter
from bootserve.watch.ledger import End, Ledger
from bootserve.watch.restarts import Restarts
from tests.family import DEADLINE, family, wait_until
from tests.journald import Journald, Record, journald

MAC = "52:54:00:12:34:56"

NAMES = st.from_regex("[A-Z0-9][A-Z0-9_]{0,63}", fullmatch=True)
VALUES = st.text(
    st.one_of(st.characters(), st.characters(categories=["Cs"]), st.sampled_from("\n\0=\r"))
)


def _as_sent(value: str) -> bytes:
    return value.encode(errors="backslashreplace")


def _read(data: bytes) -> dict[str, bytes]:
    """A reader by the letter of systemd's "Native Journal Protocol"."""
    fields: dict[str, bytes] = {}
    while data:
        line, newline, rest = data.partition(b"\n")
        assert newline
        name, equals, value = line.partition(b"=")
        if not equals:
            size = int.from_bytes(rest[:8], "little")
            value, rest = rest[8 : 8 + size], rest[8 + size :]
            assert len(value) == size
            assert rest[:1] == b"\n"
            rest = rest[1:]
        assert name.decode() not in fields
        fields[name.decode()], data = value, rest
    return fields


@given(st.dictionaries(NAMES, VALUES))
@example({"A": "", "B": "\n", "C": "C=\n\nD=1\n", "D": "\0", "E": "\udcff\n", "F": "="})
def test_a_record_is_read_as_it_was_written(fields: dict[str, str]) -> None:
    assert _read(encode(fields)) == {name: _as_sent(value) for name, value in fields.items()}


@pytest.mark.parametrize("name", ["", "_PID", "a", "A-B", "A=B", "A\n", "A" * 65, "\u00c4"])
def test_a_name_that_journald_would_drop_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no name of a journal's field"):
        encode({name: "x"})


@pytest.fixture(scope="module")
def real() -> Iterator[Journald]:
    with journald() as started:
        yield started


@settings(max_examples=25)
@given(values=st.lists(VALUES, min_size=1, max_size=40))
@example(
    values=["", "\n", "a\nb", "\0", "a\0\nb", "\udcff", "\u00fc", "\x1b[2J", "PRIORITY=0\n", "\n=x"]
)
def test_journald_stores_every_value_as_it_is(real: Journald, values: list[str]) -> None:
    run = uuid.uuid4().hex
    with contextlib.closing(Journal(real.path)) as journal:
        for number, value in enumerate(values):
            journal.send(
                encode({"MESSAGE": value, "RUN": run, "VALUE": value, "NUMBER": str(number)})
            )
    records = real.wait_for(len(values), f"RUN={run}")
    assert [record["VALUE"] for record in records] == [_as_sent(value) for value in values]
    assert [record["MESSAGE"] for record in records] == [_as_sent(value) for value in values]
    assert [int(record["NUMBER"]) for record in records] == [*range(len(values))]


@pytest.mark.parametrize("size", [100_000, 1_000_000, 20_000_000])
def test_a_record_of_any_size_arrives(real: Journald, size: int) -> None:
    run = uuid.uuid4().hex
    text = os.urandom(size // 2).hex()
    before = len(os.listdir("/proc/self/fd"))
    with contextlib.closing(Journal(real.path)) as journal:
        journal.send(encode({"MESSAGE": text, "RUN": run}))
    [record] = real.wait_for(1, f"RUN={run}")
    assert record["MESSAGE"] == text.encode()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_large_record_comes_as_a_file_that_nobody_can_change(tmp_path: Path) -> None:
    """Without every seal journald takes it from root alone."""
    path = tmp_path / "socket"
    record = encode({"MESSAGE": "x" * 5_000_000})
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as reader:
        reader.bind(str(path))
        with contextlib.closing(Journal(path)) as journal_:
            journal_.send(record)
        data, descriptors, *_ = socket.recv_fds(reader, 1024, 4)
    [descriptor] = descriptors
    with os.fdopen(descriptor, "rb") as file:
        seals = fcntl.fcntl(file, fcntl.F_GET_SEALS)
        assert os.pread(descriptor, len(record) + 1, 0) == record
    assert data == b""
    assert seals == fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


def _logger(path: Path, name: str = "test") -> tuple[logging.Logger, JournalWriter]:
    handler = JournalWriter(Journal(path))
    logger = logging.Logger(name, logging.DEBUG)
    logger.addHandler(handler)
    return logger, handler


def test_a_line_has_its_level_its_text_and_its_fields(real: Journald) -> None:
    logger, handler = _logger(real.path)
    run = uuid.uuid4().hex
    hostile = "a\nPRIORITY=0\x1b[2J\udcff\\"

    def fields(client: str) -> dict[str, object]:
        return {"event": Event.BOOT, "client": client, "sent": 5, "seconds": 0.25, "empty": ""}

    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
        logger.log(level, "%s is here", run, extra=with_fields(fields, hostile))
    handler.close()
    records = real.wait_for(5, f"MESSAGE={run} is here")
    assert [record["PRIORITY"] for record in records] == [b"7", b"6", b"4", b"3", b"2"]
    [sent] = {
        tuple((name, record[name]) for name in sorted(record) if name.startswith("BOOTSERVE_"))
        for record in records
    }
    assert sent == (
        ("BOOTSERVE_CLIENT", rb"a\nPRIORITY=0\x1b[2J\udcff\\"),
        ("BOOTSERVE_SECONDS", b"0.25"),
        ("BOOTSERVE_SENT", b"5"),
    )
    assert {record["SYSLOG_IDENTIFIER"] for record in records} == {b"bootserve"}
    assert {record["MESSAGE_ID"].decode() for record in records} == {Event.BOOT.value}
    assert {record["_PID"] for record in records} == {str(os.getpid()).encode()}


def test_a_traceback_is_part_of_its_record(real: Journald) -> None:
    logger, handler = _logger(real.path)
    run = uuid.uuid4().hex
    try:
        raise RuntimeError(run)
    except RuntimeError:
        logger.exception("it failed", extra=with_fields(lambda: {"run": run}))
    handler.close()
    [record] = real.wait_for(1, f"BOOTSERVE_RUN={run}")
    first, *_, last = record["MESSAGE"].decode().splitlines()
    assert (first, last) == ("it failed", f"RuntimeError: {run}")


# A journald that stalls.


class _Stalled:
    """Bound where journald would be; nothing is read before `read` does."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(DEADLINE)

    def record(self) -> dict[str, bytes]:
        return _read(self._socket.recv(1 << 20))

    def read(self) -> str:
        return self.record()["MESSAGE"].decode()

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("j") / "socket"
    assert len(str(path)) < 108
    return path


@pytest.fixture
def stalled(place: Path) -> Iterator[_Stalled]:
    reader = _Stalled(place)
    yield reader
    reader.close()


def _in_time(action: Callable[[], object]) -> None:
    """Do it, in a thread, so that a test of what never blocks fails where it does."""
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    thread.join(DEADLINE)
    assert not thread.is_alive(), "it blocks"


def test_a_journald_that_stalls_holds_nobody_up_and_is_told_what_it_has_missed(
    place: Path, stalled: _Stalled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "_MOST", 1000)
    logger, handler = _logger(place)
    sent = 0

    def flood() -> None:
        nonlocal sent
        while handler._left_out < 777:
            logger.info("line %d", sent)
            sent += 1

    _in_time(flood)
    assert len(handler._lines) <= 1000
    # Mostly at the end, and once more before that where a busy machine had the flood wait.
    lines: list[int] = []
    left_out = 0
    while left_out < 777:
        message = stalled.read()
        if found := re.fullmatch(
            r"\(log lines left out because nobody took them: (\d+)\)", message
        ):
            left_out += int(found[1])
        else:
            lines.append(int(message.removeprefix("line ")))
    assert left_out == 777
    assert len(lines) == sent - 777
    assert lines == sorted(set(lines))
    logger.info("all is well")
    assert stalled.read() == "all is well"
    handler.close()


def test_a_journald_that_stalls_does_not_hold_the_end_up(
    place: Path, stalled: _Stalled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "_MOST", 1000)
    monkeypatch.setattr(log, "_FLUSH_WAIT", 0.01)
    logger, handler = _logger(place)
    while not handler._left_out:
        logger.info("nobody reads this")
    _in_time(handler.flush)
    _in_time(handler.close)
    stalled.close()
    handler._thread.join(DEADLINE)
    assert not handler._thread.is_alive()
    handler.close()


def test_lines_while_journald_was_away_are_counted_when_it_is_back(
    place: Path, stalled: _Stalled
) -> None:
    logger, handler = _logger(place)
    logger.info("before")
    assert stalled.read() == "before"
    stalled.close()
    place.unlink()
    for number in range(3):
        logger.info("lost %d", number)
        handler.flush()
    back = _Stalled(place)
    logger.info("after")
    assert [back.read(), back.read()] == [
        "after",
        "(log lines left out because nobody took them: 3)",
    ]
    handler.close()
    back.close()


def test_every_way_to_end_and_every_loop_has_its_fields(place: Path, stalled: _Stalled) -> None:
    """A transfer's line says all that its text says, by name."""
    handler = JournalWriter(Journal(place))
    logger = logging.getLogger("bootserve.transfer")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    now = 10.0
    try:
        ledger = Ledger(lambda: now, observers=(Restarts(lambda *_: "; a remedy"),))
        for number, end in enumerate(End):
            name = f"file {number}"
            transfer = ledger.open(
                protocol="TFTP", client="192.0.2.7", machine=None, name=name, total=9
            )
            transfer.sent = number
            transfer.details["blocks sent again"] = number
            transfer.verdict = "slow"
            now += 1.5
            transfer.close(end, "why\nnot")
        for number in range(3):
            transfer = ledger.open(
                protocol="HTTP", client="192.0.2.8", machine=MAC, name="loop", total=9
            )
            if number < 2:
                transfer.sent = number
                transfer.close(End.CLIENT_LEFT)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    for number, end in enumerate(End):
        record = stalled.record()
        assert record.pop("MESSAGE").startswith(b'TFTP 192.0.2.7 "file %d"' % number)
        assert record.pop("PRIORITY") == (b"6" if end.is_normal else b"4")
        assert record == {
            "SYSLOG_IDENTIFIER": b"bootserve",
            "MESSAGE_ID": Event.TRANSFER.value.encode(),
            "BOOTSERVE_PROTOCOL": b"TFTP",
            "BOOTSERVE_CLIENT": b"192.0.2.7",
            "BOOTSERVE_NAME": b"file %d" % number,
            "BOOTSERVE_SENT": b"%d" % number,
            "BOOTSERVE_TOTAL": b"9",
            "BOOTSERVE_SECONDS": b"1.5",
            "BOOTSERVE_END": end.name.lower().encode(),
            "BOOTSERVE_VERDICT": b"slow",
            "BOOTSERVE_REASON": rb"why\nnot",
            **({"BOOTSERVE_BLOCKS_SENT_AGAIN": b"%d" % number} if number else {}),
        }
    stalled.record()
    stalled.record()
    record = stalled.record()
    assert record.pop("MESSAGE").startswith(b"restart loop: " + MAC.encode())
    assert record == {
        "PRIORITY": b"4",
        "SYSLOG_IDENTIFIER": b"bootserve",
        "MESSAGE_ID": Event.LOOP.value.encode(),
        "BOOTSERVE_PROTOCOL": b"HTTP",
        "BOOTSERVE_CLIENT": b"192.0.2.8",
        "BOOTSERVE_MACHINE": MAC.encode(),
        "BOOTSERVE_NAME": b"loop",
        "BOOTSERVE_TOTAL": b"9",
        "BOOTSERVE_BEGINNING": b"3",
        "BOOTSERVE_STOPS": b"0 1",
        "BOOTSERVE_REASON": End.CLIENT_LEFT.value.encode(),
    }
    handler.close()


# Whole servers.

CONFIG = """
[http]
listen = ["127.0.0.1:0"]
[tftp]
listen = ["127.0.0.1:0"]
[assets]
roots = ["assets"]
[service]
runtime_dir = "run"
"""


def _boot(port: int) -> None:
    """What a machine does, as far as the log is concerned."""
    for path in (f"/machine.ipxe?mac={MAC}&buildarch=i386&platform=pcbios", "/boot/vmlinuz"):
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
        with contextlib.closing(client):
            client.request("GET", path)
            answer = client.getresponse()
            assert answer.status == 200
            answer.read()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets/vmlinuz").write_bytes(b"kernel")
    return tmp_path


def _serve(real: Journald, folder: Path, log_format: str) -> list[Record]:
    """Boot a machine from a service of systemd's; return what it has written to the journal."""
    script = 'exec 2>&"$1"; export JOURNAL_STREAM=$2; shift 2; exec "$@"'
    with contextlib.closing(real.stream()) as stream:
        found = os.fstat(stream.fileno())
        launcher = [
            *(*real.inside, "bash", "-c", script, "bash"),
            *(str(stream.fileno()), f"{found.st_dev}:{found.st_ino}"),
        ]
        config = f'{CONFIG}[log]\nformat = "{log_format}"\n'
        with family(folder, config, launcher=launcher, pass_fds=[stream.fileno()]) as server:
            _boot(server.ports()[0])
            os.kill(server.pid, signal.SIGTERM)
            assert server.leave() == 0
            pid = server.pid
    wait_until(lambda: any(b"has left" in r["MESSAGE"] for r in real.records(f"_PID={pid}")))
    return real.records(f"_PID={pid}")


def _own(record: Record) -> dict[str, str]:
    return {k[10:]: v.decode() for k, v in record.items() if k.startswith("BOOTSERVE_")}


def test_a_service_of_systemds_writes_records_without_being_told(
    real: Journald, folder: Path
) -> None:
    records = _serve(real, folder, "auto")
    assert {record["_TRANSPORT"] for record in records} == {b"journal"}
    [boot] = [r for r in records if r.get("MESSAGE_ID") == Event.BOOT.value.encode()]
    [end] = [r for r in records if r.get("MESSAGE_ID") == Event.TRANSFER.value.encode()]
    assert b"gets the script of" in boot["MESSAGE"]
    assert boot["PRIORITY"] == b"6"
    assert _own(boot) == {
        "PROTOCOL": "HTTP",
        "CLIENT": "127.0.0.1",
        "MACHINE": MAC,
        "ARCH": "i386",
        "PLATFORM": "pcbios",
        "SCRIPT": _own(boot)["SCRIPT"],
    }
    seconds = _own(end)["SECONDS"]
    assert 0 <= float(seconds) < DEADLINE
    assert re.search(rb"vmlinuz 6 of 6 bytes in [\d.]+ s: complete$", end["MESSAGE"])
    assert _own(end) == {
        "PROTOCOL": "HTTP",
        "CLIENT": "127.0.0.1",
        "MACHINE": MAC,
        "NAME": "vmlinuz",
        "SENT": "6",
        "TOTAL": "6",
        "SECONDS": seconds,
        "END": "complete",
    }


def test_text_for_journald_has_levels_and_no_time(real: Journald, folder: Path) -> None:
    # A warning: there is no such variable.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BOOTSERVE_HTP_LISTEN", "*:80")
        records = _serve(real, folder, "text")
    assert {record["_TRANSPORT"] for record in records} == {b"stdout"}
    found = {
        record["PRIORITY"].decode(): record["MESSAGE"].decode() for record in reversed(records)
    }
    assert found["4"].startswith("BOOTSERVE_HTP_LISTEN: no such setting")
    assert not any(re.match(rb"<|\d{4}-", record["MESSAGE"]) for record in records)
    assert any(b"gets the script of" in record["MESSAGE"] for record in records)


def test_only_the_very_stream_that_systemd_made_is_journalds(tmp_path: Path) -> None:
    with (tmp_path / "a").open("w") as stream, (tmp_path / "b").open("w") as other:
        found = os.fstat(stream.fileno())
        said = f"{found.st_dev}:{found.st_ino}"
        assert is_stream(stream.fileno(), said)
        assert not is_stream(other.fileno(), said)
        assert not is_stream(stream.fileno(), "")
    assert not is_stream(-1, said)


def test_without_journald_who_asks_for_it_is_told(folder: Path) -> None:
    script = """
import sys
from pathlib import Path
from bootserve import journal, log
from bootserve.cli import main
nothing = Path(sys.argv.pop(1))
log.Journal = lambda: journal.Journal(nothing)
main()
"""
    (folder / "bootserve.toml").write_text(CONFIG + '[log]\nformat = "journal"\n')
    done = subprocess.run(
        [
            *(sys.executable, "-c", script, str(folder / "nothing"), "serve"),
            *("--config", str(folder / "bootserve.toml")),
        ],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith('bootserve: log.format: "journal" needs systemd-journald')
    assert "No such file or directory" in line
