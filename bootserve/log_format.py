"""How a log line is spelt: for a person, for journald's stream, as JSON, as a journal's record."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from functools import cache
from typing import Final

from bootserve import journal
from bootserve.events import Event, fields_of
from bootserve.text import printable

_RED: Final = "\x1b[31m"
_YELLOW: Final = "\x1b[33m"
_PLAIN: Final = "\x1b[0m"

_STANDARD: Final = logging.Formatter()


class Text(logging.Formatter):
    """For people: when, how bad, and what.

    Args:
        is_coloured: warnings and errors stand out, on a terminal.
    """

    def __init__(self, *, is_coloured: bool = False) -> None:
        super().__init__()
        self._is_coloured = is_coloured
        self._second = _Second(lambda s: time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(s)))

    def format(self, record: logging.LogRecord) -> str:
        when = self._second.spelt(int(record.created))
        line = f"{when} {record.levelname[0]} {_message(record)}"
        if self._is_coloured and record.levelno >= logging.WARNING:
            return f"{_RED if record.levelno >= logging.ERROR else _YELLOW}{line}{_PLAIN}"
        return line


class PrefixedText(logging.Formatter):
    """For journald's stream, which knows when a line came, and how bad by sd-daemon(3)."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{_priority(record.levelno)}>"
        return prefix + _message(record).replace("\n", "\n" + prefix)


class Json(logging.Formatter):
    """For programs: an object for each line, in ASCII. Time is UTC, as in RFC 3339."""

    def __init__(self) -> None:
        super().__init__()
        self._second = _Second(lambda s: time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(s)))

    def format(self, record: logging.LogRecord) -> str:
        second, millisecond = divmod(int(record.created * 1000), 1000)
        line: dict[str, object] = {
            "timestamp": f"{self._second.spelt(second)}.{millisecond:03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _encodable(record.getMessage()),
        }
        for name, value in fields_of(record).items():
            line[name] = _outward(value)
        if record.exc_info or record.exc_text or record.stack_info:
            line["traceback"] = _encodable(_traceback(record))
        return json.dumps(line)


def journal_record(record: logging.LogRecord) -> bytes:
    """Spell a line as a record of `bootserve.journal`; journald adds who sent it, and when."""
    fields = {
        "MESSAGE": _message(record),
        "PRIORITY": str(_priority(record.levelno)),
        "SYSLOG_IDENTIFIER": "bootserve",
    }
    for name, value in fields_of(record).items():
        if isinstance(value, Event):
            fields["MESSAGE_ID"] = value.value
        else:
            fields[_journal_name(name)] = str(_outward(value))
    return journal.encode(fields)


@cache
def _journal_name(name: str) -> str:
    return f"BOOTSERVE_{name.upper()}"


def _outward(value: object) -> object:
    if isinstance(value, (int, float)):
        return value
    if isinstance(value, Event):
        return value.name.lower()
    return printable(str(value))


def _message(record: logging.LogRecord) -> str:
    message = record.getMessage()
    if record.exc_info or record.exc_text or record.stack_info:
        return f"{message}\n{_traceback(record)}"
    return message


def _traceback(record: logging.LogRecord) -> str:
    if record.exc_info and not record.exc_text:
        # Kept for other handlers, as the standard formatter does.
        record.exc_text = _STANDARD.formatException(record.exc_info)
    return "\n".join(part for part in (record.exc_text, record.stack_info) if part)


def _priority(level: int) -> int:
    """Return what syslog(3) calls this level."""
    if level >= logging.CRITICAL:
        return 2
    if level >= logging.ERROR:
        return 3
    if level >= logging.WARNING:
        return 4
    return 6 if level >= logging.INFO else 7


def _encodable(text: str) -> str:
    """Escape what UTF-8 cannot express, and many readers of JSON refuse."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


class _Second:
    """Spells a second out once, however many lines it has."""

    def __init__(self, spell: Callable[[int], str]) -> None:
        self._spell = spell
        # In one step, for lines of several threads.
        self._last = (-1, "")

    def spelt(self, second: int) -> str:
        last, text = self._last
        if last != second:
            text = self._spell(second)
            self._last = second, text
        return text
