"""Untrusted text on its way to a log or a terminal."""

from __future__ import annotations

import os

_LONGEST = 200
_LONGEST_PATH = 4096
_PUNCTUATION = frozenset(' "(),;')


def printable(text: str, *, longest: int = _LONGEST) -> str:
    r"""Return ``text`` with everything but printable characters escaped, and bounded in length.

    File names, host names and DHCP options come from the network: a newline would forge a log
    line, an escape sequence would drive the terminal of whoever reads it, a bidirectional mark
    would turn it round. Backslashes are doubled, so that an escape cannot be imitated.
    """
    if text.isprintable() and "\\" not in text and len(text) <= longest:
        return text
    if len(text) > longest:
        text = text[:longest] + "…"
    return "".join(char if char.isprintable() and char != "\\" else _escape(char) for char in text)


def as_word(text: str) -> str:
    """The same as one word: in quotes if it could imitate the rest of its line."""
    text = printable(text)
    if text and _PUNCTUATION.isdisjoint(text):
        return text
    return '"' + text.replace('"', '\\"') + '"'


def path_printable(path: os.PathLike[str]) -> str:
    """The same for a path of this host, in full: it may be any bytes, and be no valid UTF-8."""
    return printable(os.fspath(path), longest=_LONGEST_PATH)


def _escape(char: str) -> str:
    return char.encode("unicode_escape", "backslashreplace").decode("ascii")
