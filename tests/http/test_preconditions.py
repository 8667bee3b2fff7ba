"""Ranges and conditions: the examples of RFC 9110, and what 32-bit firmware makes of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootserve.http.preconditions import Answer, Validators, evaluate

VALIDATORS = Validators('"xyzzy"', 784111777)
DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
LATER = "Sun, 06 Nov 1994 08:49:38 GMT"
EARLIER = "Sun, 06 Nov 1994 08:49:36 GMT"
SIZE = 10000
WHOLE = Answer(200, 0, SIZE)
GIB = 1 << 30


@pytest.mark.parametrize(
    ("field", "size", "answer"),
    [
        # RFC 9110, section 14.1.2, for a representation of 10000 bytes.
        ("bytes=0-499", SIZE, Answer(206, 0, 500)),
        ("bytes=500-999", SIZE, Answer(206, 500, 500)),
        ("bytes=-500", SIZE, Answer(206, 9500, 500)),
        ("bytes=9500-", SIZE, Answer(206, 9500, 500)),
        # Beyond the end.
        ("bytes=9500-20000", SIZE, Answer(206, 9500, 500)),
        ("bytes=-20000", SIZE, Answer(206, 0, SIZE)),
        ("bytes=10000-", SIZE, Answer(416)),
        ("bytes=0-0", 0, Answer(416)),
        ("bytes=-0", SIZE, Answer(416)),
        ("bytes=-5", 0, Answer(416)),
        # One unit only, in any case; several ranges may be answered with everything.
        ("BYTES=0-499", SIZE, Answer(206, 0, 500)),
        ("seconds=0-499", SIZE, WHOLE),
        ("bytes=0-0,-1", SIZE, WHOLE),
        ("bytes", SIZE, WHOLE),
        # Malformed.
        ("bytes=5-4", SIZE, Answer(416)),
        ("bytes=u-u", SIZE, Answer(416)),
        ("bytes=-", SIZE, Answer(416)),
        ("bytes=", SIZE, Answer(416)),
        ("bytes=--5", SIZE, Answer(416)),
        ("bytes=0x10-", SIZE, Answer(416)),
        ("bytes=" + "9" * 5000 + "-", SIZE, Answer(416)),
        ("bytes=1 0 - 1 1", SIZE, Answer(416)),
        # Below what a 32-bit number can be.
        ("bytes=-9999999999-5", SIZE, Answer(416)),
        ("bytes=-2147483649-5", SIZE, Answer(416)),
        # 32-bit iPXE beyond 2 GiB prints its offsets as negative numbers.
        ("bytes=-2147483648--2147483137", 3 * GIB, Answer(206, 2 * GIB, 512)),
        ("bytes=2147483136--2147483137", 3 * GIB, Answer(206, 2147483136, 1024)),
    ],
)
def test_ranges(field: str, size: int, answer: Answer) -> None:
    assert evaluate({"range": field}, VALIDATORS, size) == answer


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"if-none-match": '"xyzzy"'}, 304),
        ({"if-none-match": 'W/"xyzzy"'}, 304),
        ({"if-none-match": '"r2d2xxxx", "xyzzy", "c3piozzzz"'}, 304),
        ({"if-none-match": "*"}, 304),
        ({"if-none-match": '"other"'}, 200),
        ({"if-modified-since": DATE}, 304),
        ({"if-modified-since": LATER}, 304),
        ({"if-modified-since": EARLIER}, 200),
        ({"if-modified-since": "yesterday"}, 200),
        # Section 13.1.3: the date is ignored where there is a tag.
        ({"if-none-match": '"other"', "if-modified-since": LATER}, 200),
        ({"if-match": '"xyzzy"'}, 200),
        ({"if-match": 'W/"xyzzy"'}, 412),
        ({"if-match": '"other"'}, 412),
        ({"if-unmodified-since": EARLIER}, 412),
        ({"if-unmodified-since": DATE}, 200),
        # Section 13.2.2: a range counts only where the conditions let the request through.
        ({"range": "bytes=0-1", "if-none-match": '"xyzzy"'}, 304),
        ({"range": "bytes=0-1", "if-range": '"xyzzy"'}, 206),
        ({"range": "bytes=0-1", "if-range": 'W/"xyzzy"'}, 200),
        ({"range": "bytes=0-1", "if-range": '"other"'}, 200),
        ({"range": "bytes=0-1", "if-range": DATE}, 206),
        ({"range": "bytes=0-1", "if-range": LATER}, 200),
        ({"range": "bytes=0-1", "if-range": "gibberish"}, 200),
    ],
)
def test_conditions(headers: dict[str, str], status: int) -> None:
    assert evaluate(headers, VALIDATORS, SIZE).status == status


@given(
    st.dictionaries(
        st.sampled_from(["range", "if-range", "if-match", "if-none-match", "if-modified-since"]),
        st.one_of(
            st.text(max_size=40),
            st.from_regex(r"bytes=-?[0-9]{0,12}-{1,2}[0-9]{0,12}", fullmatch=True),
            st.sampled_from([DATE, '"xyzzy"', "*"]),
        ),
    ),
    st.integers(0, 1 << 40),
)
def test_whatever_is_asked_the_answer_lies_inside_the_file(
    headers: dict[str, str], size: int
) -> None:
    answer = evaluate(headers, VALIDATORS, size)
    assert answer.status in (200, 206, 304, 412, 416)
    assert 0 <= answer.start <= answer.start + answer.length <= size
    assert answer.length >= 0
    if answer.status == 206:
        assert answer.length > 0
