from __future__ import annotations

import codecs
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootserve.text import printable

_ANY_TEXT = st.text(st.characters(codec=None), max_size=150)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("x86_64/vmlinuz", "x86_64/vmlinuz"),
        ("grüße.img", "grüße.img"),
        ("a\nb", r"a\nb"),
        ("a\r\tb", r"a\r\tb"),
        ("\x1b[2Jx", r"\x1b[2Jx"),
        ("\x9b2J", r"\x9b2J"),
        ("a\0", r"a\x00"),
        ("a\u202eb", r"a\u202eb"),
        ("a\u2066b\u200f", r"a\u2066b\u200f"),
        ("a\u2028b", r"a\u2028b"),
        ("a\udcffb", r"a\udcffb"),
        ("\U000e0001", r"\U000e0001"),
        (r"a\nb", r"a\\nb"),
    ],
)
def test_what_an_operator_sees(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(_ANY_TEXT)
def test_nothing_drives_a_terminal_or_forges_a_line(text: str) -> None:
    shown = printable(text)
    shown.encode()
    categories = {unicodedata.category(char) for char in shown}
    assert not categories & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


@given(_ANY_TEXT)
def test_what_was_sent_can_be_told_from_what_is_shown(text: str) -> None:
    # An escape that could be imitated would read back as something else.
    shown = "".join(
        char if char.isascii() else char.encode("unicode_escape").decode()
        for char in printable(text)
    )
    assert codecs.decode(shown, "unicode_escape") == text


def test_a_flood_is_cut_and_marked_as_cut() -> None:
    shown = printable("a" * 100_000)
    assert len(shown) < 1000
    assert shown.endswith("…")
    assert printable("a" * 100) == "a" * 100
