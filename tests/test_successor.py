"""What a new process says to the one that it is to replace."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootserve.settings import load, unknown_variables
from bootserve.successor import (
    ELDER_VARIABLE,
    LEAVING,
    LONGEST,
    MEMORY_VARIABLE,
    VARIABLE,
    Answer,
    Predecessor,
)


@given(st.lists(st.text()))
def test_an_answer_arrives_as_it_was_given(problems: list[str]) -> None:
    answer = Answer(tuple(problems))
    if len(answer.encode()) < LONGEST // 2:
        assert Answer.decode(answer.encode()) == answer


@given(st.lists(st.text(min_size=1).map(lambda text: text * 3000), min_size=1, max_size=5))
def test_an_answer_is_one_bounded_line_that_still_says_what_is_wrong(problems: list[str]) -> None:
    line = Answer(tuple(problems)).encode()
    assert len(line) <= LONGEST
    assert line.count(b"\n") == 1
    decoded = Answer.decode(line)
    assert decoded is not None
    assert problems[0].startswith(decoded.problems[0])
    assert decoded.problems[0]


@given(st.binary())
def test_noise_is_no_answer(noise: bytes) -> None:
    assert Answer.decode(noise) is None


@pytest.mark.parametrize("line", [b"{}", b'{"problems": "x"}', b'{"problems": [1]}', b"[" * 9999])
def test_what_looks_like_an_answer_is_none(line: bytes) -> None:
    assert Answer.decode(line) is None


def test_a_process_that_cannot_serve_says_so_and_no_more() -> None:
    reading, writing = os.pipe()
    environ = {VARIABLE: str(writing)}
    predecessor = Predecessor.take(environ)
    assert environ == {}
    predecessor.tell_failed(["a", "b"])
    predecessor.tell_failed(["too late"])
    with os.fdopen(reading, "rb") as pipe:
        assert Answer.decode(pipe.read()) == Answer(("a", "b"))
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(writing)


def test_an_answer_for_a_predecessor_that_has_died_reaches_nobody_else() -> None:
    (reading, writing), (elders, elders_pipe) = os.pipe(), os.pipe()
    environ = {VARIABLE: str(writing), f"{ELDER_VARIABLE}7": str(elders_pipe)}
    predecessor = Predecessor.take(environ)
    os.close(reading)
    assert set(predecessor.waiting().values()) == {elders_pipe}
    predecessor.tell_ready()
    predecessor.tell_leaving()
    with os.fdopen(elders, "rb") as pipe:
        assert pipe.read() == LEAVING


def test_all_that_still_drain_are_told_who_leaves_in_order() -> None:
    (reading, writing), (elders, elders_pipe), (gone, gones_pipe) = os.pipe(), os.pipe(), os.pipe()
    environ = {
        VARIABLE: str(writing),
        f"{ELDER_VARIABLE}7": str(elders_pipe),
        f"{ELDER_VARIABLE}x": str(gones_pipe),
    }
    predecessor = Predecessor.take(environ)
    assert environ == {}
    predecessor.tell_ready()
    os.close(gone)
    assert set(predecessor.waiting().values()) == {writing, elders_pipe}
    predecessor.tell_leaving()
    assert predecessor.waiting() == {}
    with os.fdopen(reading, "rb") as pipe:
        assert pipe.read() == Answer().encode() + LEAVING
    with os.fdopen(elders, "rb") as pipe:
        assert pipe.read() == LEAVING


def test_what_the_predecessor_knew_is_taken_once_and_its_file_closed() -> None:
    file = os.memfd_create("memory")
    os.write(file, b"what it knew")
    os.lseek(file, 0, os.SEEK_SET)
    environ = {MEMORY_VARIABLE: str(file)}
    assert Predecessor.take(environ).memory == b"what it knew"
    assert environ == {}
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(file)


@pytest.mark.parametrize("value", ["", "2", "x", "-4", "99999", "9" * 5000])
def test_what_names_no_file_is_no_memory(value: str) -> None:
    assert Predecessor.take({MEMORY_VARIABLE: value}).memory == b""


def test_a_pipe_is_no_memory_and_stays_as_it_is() -> None:
    reading, writing = os.pipe()
    assert Predecessor.take({MEMORY_VARIABLE: str(reading)}).memory == b""
    os.close(reading)
    os.close(writing)


def test_a_predecessor_that_has_died_does_not_keep_us_from_serving() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    Predecessor.take({VARIABLE: str(writing)}).tell_ready()


@pytest.mark.parametrize(
    "value", ["", "x", "-1", "0", "1", "2", "99999999999999999999", "9" * 5000, "1000"]
)
def test_a_variable_that_names_no_pipe_means_no_predecessor(value: str) -> None:
    Predecessor.take({VARIABLE: value}).tell_ready()


def test_a_descriptor_that_is_no_pipe_is_left_alone(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        Predecessor.take({VARIABLE: str(file.fileno())}).tell_ready()
        file.write(b"mine")
    assert (tmp_path / "file").read_bytes() == b"mine"


def test_the_variable_is_gone_before_the_settings_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "not a descriptor")
    Predecessor.take()
    assert load()
    assert unknown_variables() == []
