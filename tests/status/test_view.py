"""The screen of `bootserve status`, drawn from what servers may say."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from bootserve.status import units
from bootserve.status.view import View
from bootserve.watch.liveness import Verdict
from bootserve.watch.words import ATTENTION, WORDS, in_words

NOW = 1_800_000_000.0
Json = dict[str, Any]


def transfer(number: int, **said: object) -> Json:
    return {
        "id": number,
        "protocol": "http",
        "client": f"192.0.2.{number % 256}",
        "machine": None,
        "name": "x86_64/initramfs",
        "sent": 262_144_000,
        "total": 524_288_000,
        "started": NOW - 40,
        "seconds": 40.0,
        "rate": 11_200_000.0,
        "mean_rate": 11_000_000.0,
        "pauses": 0,
        "verdict": "moving",
        "end": None,
        "end_text": None,
        "reason": None,
        **said,
    }


def server(transfers: list[Json], recent: list[Json] | None = None, **said: object) -> Json:
    return {
        "pid": 4711,
        "version": "0.1.0",
        "state": "serving",
        "started": NOW - 90061,
        "uptime": 90061.0,
        "http": ["*:80"],
        "tftp": ["*:69"],
        "health": {"status": "ok", "reasons": []},
        "transfers": transfers,
        "recent": recent or [],
        **said,
    }


def screen(
    said: object, width: int = 80, height: int | None = None, encoding: str = "utf-8"
) -> list[str]:
    """The lines of the screen, without colours."""
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(width=width, force_terminal=True, record=True, file=out, legacy_windows=False)
    console.print(View(said, NOW), height=height)
    return console.export_text().splitlines()


def test_one_line_says_who_gets_what_and_how_it_goes() -> None:
    lines = screen([server([transfer(1, machine="db1"), transfer(2)])], 120)
    assert lines[:2] == [
        "bootserve 0.1.0 · serving · pid 4711 · up 1 d 1 h · HTTP *:80 · TFTP *:69",
        "2 in flight · 22.4 MB/s",
    ]
    [line] = [line for line in lines if line.startswith("db1")]
    words = line.split()
    assert words[:4] == ["db1", "192.0.2.1", "x86_64/initramfs", "HTTP"]
    assert set(words[4]) == {"━", "─"}
    assert words[4].count("━") == words[4].count("─")
    assert words[5:] == ["50%", "262/524", "MB", "11.2", "MB/s", "24", "s", "moving"]


def test_eighty_columns_hold_a_mac_address_and_the_longest_verdict() -> None:
    lines = screen([server([transfer(1, machine="52:54:00:12:34:56", verdict="slow")])])
    [line] = [line for line in lines if line.startswith("52:54:00:12:34:56")]
    assert line.endswith("slow but alive")
    for words in ("…/initramfs", " 50% ", "11.2 MB/s", "24 s"):
        assert words in line


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_wide_characters_leave_the_columns_where_they_are(width: int) -> None:
    rows = [transfer(1, machine="db1"), transfer(2, machine="日本語" * 9, name="ブート/" * 20)]
    lines = [line for line in screen([server(rows)], width) if line.endswith("moving")]
    assert len(lines) == 2
    assert cell_len(lines[0]) == cell_len(lines[1]) <= width


def test_those_that_need_attention_come_first_when_there_is_no_room_for_all() -> None:
    odd = {10: "starved", 20: "silent", 30: "slow", 40: "paused", 50: "silent"}
    rows = [transfer(n, client=f"c{n}", verdict=odd.get(n, "moving")) for n in range(1, 9129)]
    lines = screen([server(rows, [transfer(9999, end="complete", end_text="complete")])], 80, 24)
    assert len(lines) <= 24
    shown = [line.split()[0] for line in lines if line.startswith("c") and "%" in line]
    assert shown[:6] == ["c20", "c50", "c40", "c10", "c30", "c1"]
    assert f"and {9128 - len(shown):,} more" in lines
    assert "2 not answering · 1 paused · 1 awaiting disk · 1" in lines[1]
    assert any("complete" in line for line in lines)


def test_the_order_is_that_of_the_beginnings_where_there_is_room() -> None:
    rows = [transfer(n, client=f"c{n}", verdict=v) for n, v in ((3, "moving"), (1, "silent"))]
    rows.append(transfer(2, client="c2", verdict="moving"))
    lines = screen([server(rows)], 80, 24)
    assert [line[:2] for line in lines if "%" in line] == ["c1", "c2", "c3"]


def test_processes_that_drain_are_shown_with_their_transfers() -> None:
    old = server([transfer(7, machine="old1")], pid=4600, state="draining", version="0.0.9")
    new = server([transfer(1, machine="new1")])
    lines = screen([old, new], 140)
    assert lines[0].startswith("bootserve 0.1.0 · serving · pid 4711")
    assert lines[1] == "bootserve 0.0.9 · draining · pid 4600 · up 1 d 1 h · 1 in flight"
    [of_new] = [line for line in lines if line.startswith("new1")]
    [of_old] = [line for line in lines if line.startswith("old1")]
    assert of_new.endswith("4711")
    assert of_old.endswith("4600")


def test_what_has_ended_says_when_and_how_the_latest_first() -> None:
    recent = [
        transfer(
            1, machine="db1", end="client_left", end_text="client closed the connection",
            reason="reset", pauses=2, seconds=93.0, started=NOW - 213,
        ),
        transfer(2, machine="db2", end="complete", end_text="complete", seconds=28.0),
    ]  # fmt: skip
    lines = screen([server([], recent)], 140)
    assert "nothing is in flight" in lines
    [later, earlier] = [line for line in lines if line.split("ago")[1:]]
    assert later.split()[:4] == ["12", "s", "ago", "db2"]
    assert "complete" in later
    assert earlier.startswith("2 min ago  db1 ")
    assert "client closed the connection (reset)" in earlier
    assert earlier.endswith("1:33 11.0 MB/s      2")


def test_what_is_wrong_with_a_server_is_told() -> None:
    broken = server([], health={"reasons": [f"asset root /srv/{n} is gone" for n in range(8)]})
    lines = screen([broken, {"pid": 9, "error": "the server with pid 9 does not answer"}])
    assert "! asset root /srv/0 is gone" in lines
    assert "! and 3 more" in lines
    assert "the server with pid 9 does not answer" in lines


def test_what_is_wrong_is_told_of_the_process_that_it_concerns() -> None:
    late = {"status": "failing", "reasons": ["event loop: late by 2.0 s"]}
    for state in ("serving", "draining"):
        servers = [server([]), server([], pid=9, state=state, health=late)]
        assert "! pid 9: event loop: late by 2.0 s" in screen(servers)


def test_what_comes_from_the_network_drives_no_terminal_and_no_markup() -> None:
    evil = "\x1b[2J\u202e[red]x\n"
    row = transfer(1, machine=evil, client=evil, name=evil, protocol=evil, verdict=evil)
    lines = screen([server([row], [{**row, "end": evil, "end_text": evil, "reason": evil}])], 400)
    text = "\n".join(lines)
    assert r"\x1b[2J\u202e[red]x\n" in text
    assert all(line.isprintable() for line in lines)


def test_a_terminal_without_unicode_gets_ascii() -> None:
    rows = [transfer(1, machine="日本", name="x/" * 60)]
    lines = screen([server(rows, [transfer(2, end="complete")])], 80, encoding="ascii")
    assert all(line.isascii() for line in lines)
    assert any("#" in line for line in lines)


_words = st.text(max_size=60) | st.sampled_from(
    ["日本語" * 20, "\x1b[2J", "e\u0301\ufe0f" * 9, "[bold]x[/]", "a\\b", "\ud800", "👩\u200d🚀"]
)
_odd = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -1, 2**63, 1e308, 1e18, 1e-300])
    | st.floats()
    | _words
    | st.sampled_from([verdict.value for verdict in Verdict])
)
_any = st.recursive(_odd, lambda inner: st.lists(inner, max_size=3), max_leaves=6)
_row = st.builds(
    lambda usual, odd, gone: {k: v for k, v in {**usual, **odd}.items() if k not in gone},
    st.integers(0, 9).map(transfer),
    st.dictionaries(st.sampled_from(sorted(transfer(1))), _any, max_size=5),
    st.sets(st.sampled_from(sorted(transfer(1))), max_size=3),
)
_server = st.builds(
    lambda usual, odd, gone: {k: v for k, v in {**usual, **odd}.items() if k not in gone},
    st.builds(server, st.lists(_row, max_size=8), st.lists(_row, max_size=4)),
    st.dictionaries(st.sampled_from([*server([]), "error"]), _any, max_size=4),
    st.sets(st.sampled_from(sorted(server([]))), max_size=3),
)
_said = st.lists(_server, max_size=3) | _any


@given(_said, st.integers(1, 200), st.none() | st.integers(1, 40), st.booleans())
@example([{}], 1, 1, False)
@example([server([transfer(1, verdict="silent", started=-1e400)])], 17, 3, False)
@example([server([transfer(1, rate=1e-300)])], 80, None, False)
def test_whatever_a_server_says_is_drawn_within_the_terminal(
    said: object, width: int, height: int | None, is_ascii: bool
) -> None:
    # Line by line, because a console would itself cut off what is too wide.
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii" if is_ascii else "utf-8")
    console = Console(width=width, file=out)
    options = console.options.update(height=height)
    drawn = list(View(said, NOW).__rich_console__(console, options))
    assert height is None or len(drawn) <= height
    for text in drawn:
        line = str(text)
        assert cell_len(line) <= width
        assert line.isprintable()
        assert line.isascii() or not is_ascii


def test_every_verdict_has_words_that_fit() -> None:
    assert set(WORDS) == set(Verdict)
    assert set(ATTENTION) <= set(Verdict)
    assert max(len(words) for words in WORDS.values()) <= 14
    assert in_words("silent") == WORDS[Verdict.SILENT]
    assert in_words("of a newer server") == "of a newer server"
    assert in_words(None) == in_words("") == "starting"


@pytest.mark.parametrize(
    ("write", "value", "text"),
    [
        (units.size, 0, "0 B"),
        (units.size, 999, "999 B"),
        (units.size, 999.7, "1.00 kB"),
        (units.size, 1050, "1.05 kB"),
        (units.size, 99_949, "99.9 kB"),
        (units.size, 99_999, "100 kB"),
        (units.size, 999_500, "1.00 MB"),
        (units.rate, 11_200_000, "11.2 MB/s"),
        (units.duration, 4.25, "4.2 s"),
        (units.duration, 59.6, "1:00"),
        (units.duration, 3723, "1:02:03"),
        (units.duration, 273_600, "3 d 4 h"),
        (units.ago, -5, "0 s ago"),
        (units.ago, 3599, "59 min ago"),
        (units.ago, 7200, "2 h ago"),
        (units.ago, 864_000, "10 d ago"),
    ],
)
def test_units(write: Callable[[float], str], value: float, text: str) -> None:
    assert write(value) == text


@given(st.floats(0, 1e18))
def test_sizes_are_short(value: float) -> None:
    assert len(units.size(value)) <= 7
    assert len(units.ago(value)) <= 10
    assert len(units.part(value, value)) <= 14
