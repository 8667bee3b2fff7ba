"""What the tests read off a serial console is what a person would."""

from __future__ import annotations

import pytest

from .process import words_on_screen


@pytest.mark.parametrize(
    ("console", "words"),
    [
        pytest.param("plain\r\nlines\r\n", "plain\r\nlines\r\n", id="plain"),
        pytest.param("\x1bc\x1b[0;1miPXE\x1b[0m is\x07 here", "iPXE is here", id="colours"),
        pytest.param("boot and pr\x1b[25;11H\x1b[25;12Hess", "boot and press", id="same"),
        pytest.param("a\r\nbc\b\x1b[2;2Hd", "a\r\nbc\bd", id="after a backspace"),
        pytest.param("left\x1b[3;40Hright", "left\nright", id="elsewhere"),
        pytest.param("left\x1b[Htop", "left\ntop", id="home"),
        pytest.param("\x1b[1;1H\x1b[2Jtop", "top", id="home at home"),
    ],
)
def test_a_placed_cursor_breaks_a_line_only_where_it_leaves_it(console: str, words: str) -> None:
    assert words_on_screen(console) == words
