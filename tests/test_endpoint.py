from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootserve.endpoint import Endpoint


@pytest.mark.parametrize(
    ("text", "host", "port", "is_optional"),
    [
        ("*:8080", None, 8080, False),
        (":8080", None, 8080, False),
        ("*:80?", None, 80, True),
        ("192.0.2.1:80", "192.0.2.1", 80, False),
        ("192.0.2.1:80?", "192.0.2.1", 80, True),
        ("0.0.0.0:69", "0.0.0.0", 69, False),
        ("localhost:8080", "127.0.0.1", 8080, False),
        ("[::1]:8080", "::1", 8080, False),
        ("[::]:0", "::", 0, False),
        ("[2001:DB8:0::1]:65535", "2001:db8::1", 65535, False),
        ("[fe80::1%eth0]:69", "fe80::1%eth0", 69, False),
    ],
)
def test_forms(text: str, host: str | None, port: int, is_optional: bool) -> None:
    found = Endpoint.parse(text)
    assert (found.host, found.port, found.is_optional) == (host, port, is_optional)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "?",
        "8080",
        "*",
        "*:",
        "*:http",
        "*:-1",
        "*:65536",
        "*:80??",
        "*:80 ",
        "*:\u0668\u0660",
        "*:99999999999",
        "::1:8080",
        "[::1]",
        "[::1]8080",
        "[192.0.2.1]:80",
        "[]:80",
        "192.0.2.256:80",
        "192.0.2.1 :80",
        "bootserver.example:80",
        "http://192.0.2.1:80",
        "192.0.2.1:80\n",
    ],
)
def test_what_is_no_endpoint_is_refused_with_examples_of_what_is(text: str) -> None:
    with pytest.raises(ValueError, match=r"write ADDR:PORT, for example .*:8080") as refusal:
        Endpoint.parse(text)
    assert len(str(refusal.value).splitlines()) == 1


@pytest.mark.parametrize("value", [None, 80, b"*:80", ["*:80"], True])
def test_only_text_is_an_endpoint(value: object) -> None:
    with pytest.raises(ValueError, match="write ADDR:PORT"):
        Endpoint.parse(value)


@given(
    address=st.none() | st.ip_addresses(),
    port=st.integers(0, 65535),
    is_optional=st.booleans(),
)
def test_what_is_printed_reads_back(address: object, port: int, is_optional: bool) -> None:
    endpoint = Endpoint(None if address is None else str(address), port, is_optional)
    text = f"{endpoint}{'?' if is_optional else ''}"
    assert Endpoint.parse(text) == endpoint
