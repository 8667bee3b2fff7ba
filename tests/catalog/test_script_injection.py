"""Whatever stands in a value, the script does the same things as with a harmless one."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from bootserve.catalog.catalog import Catalog
from bootserve.catalog.ipxe import ScriptWriter, checked_url, quote
from bootserve.catalog.machines import identify
from bootserve.config_errors import ConfigError
from bootserve.settings import load

from .ipxe_reader import Run, commands, expand, lines

_URL = "http://192.0.2.1:8080"
_HARMLESS = "harmless"
_HOSTILE = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40) | st.lists(
    st.sampled_from(
        [
            *("||", "&&", ";", "#", "\\", "${", "}", "$", "{", "${mac}", "$${mac}", "${${mac}}"),
            *("\n", "\r", "\t", "\v", "\f", "\0", "\x85", "\u2028", "\xa0", " ", "  "),
            *("reboot", "shell", ":start", "--gap", "-", "<b>", "&amp;", "{{ url }}", "{%", "a"),
        ]
    ),
    min_size=1,
    max_size=8,
).map("".join)


def _examples(function: Any) -> Any:
    for text in (
        "a\nreboot",
        "a || reboot",
        "|| reboot",
        "a ;",
        "a && shell",
        "# all gone",
        "ends in \\",
        "\\",
        "a \\ b",
        "${mac}",
        "$${mac}",
        "${${mac}}",
        "$\0{mac}",
        "# ${mac}",
        "#\\",
        " ",
    ):
        function = example(text)(function)
    return function


def _writer(**tree: Any) -> ScriptWriter:
    return Catalog(load(flags={"assets": {"roots": ["/nonexistent"]}, **tree})).scripts


def _profile(title: str, cmdline: str) -> dict[str, Any]:
    return {"kernel": "x86_64/k", "initrds": ["x86_64/i"], "title": title, "cmdline": cmdline}


def _scripts(
    *, title: str = "title", name: str = "name", cmdline: str = "c", more: str = "m"
) -> list[str]:
    machine = {"mac": "525400123456", "profile": "p", "name": name, "cmdline": more}
    writer = _writer(profiles={"p": _profile(title, cmdline)}, machines=[machine])
    identity, _ = identify({"mac": "525400123456"})
    return [writer.machine(_URL, identity)[0], writer.menu(_URL)]


def _same_but_for_the_value(
    script: str, harmless: str, value: str, *, may_use_settings: bool
) -> None:
    ours, theirs = lines(script), lines(harmless)
    assert len(ours) == len(theirs)
    seen = 0
    for line, plain in zip(ours, theirs, strict=True):
        if _HARMLESS not in plain:
            assert line == plain
            continue
        seen += 1
        found, expected = commands(line), commands(plain)
        assert [c.terminator for c in found] == [c.terminator for c in expected]
        for command, like in zip(found, expected, strict=True):
            if _HARMLESS not in like.words:
                assert command == like
                continue
            at = like.words.index(_HARMLESS)
            behind = len(like.words) - at - 1
            words = command.words
            assert words[:at] == like.words[:at]
            assert words[len(words) - behind :] == like.words[at + 1 :]
            middle = words[at : len(words) - behind]
            if not may_use_settings:
                # Nothing but the empty setting is ever replaced in a text.
                assert [expand(word, {"mac": "!", "": ""}) for word in middle] == [
                    word.replace("${}", "") for word in middle
                ]
            if value.isascii() and value.isalnum():
                assert middle == (value,)
    assert seen > 0


@_examples
@given(_HOSTILE)
def test_a_title(text: str) -> None:
    for script, plain in zip(_scripts(title=text), _scripts(title=_HARMLESS), strict=True):
        _same_but_for_the_value(script, plain, text, may_use_settings=False)


@_examples
@given(_HOSTILE)
def test_a_machines_name(text: str) -> None:
    try:
        script = _scripts(name=text)[0]
    except ConfigError:
        return
    _same_but_for_the_value(script, _scripts(name=_HARMLESS)[0], text, may_use_settings=False)


@_examples
@given(_HOSTILE)
def test_command_lines(text: str) -> None:
    for key in ("cmdline", "more"):
        try:
            script = _scripts(**{key: text})[0]
        except ConfigError:
            continue
        plain = _scripts(**{key: _HARMLESS})[0]
        _same_but_for_the_value(script, plain, text, may_use_settings=True)


@_examples
@given(_HOSTILE)
def test_a_command_line_reaches_the_kernel_word_by_word(text: str) -> None:
    try:
        script = _scripts(cmdline=text)[0]
    except ConfigError:
        return
    settings = {"buildarch": "x86_64", "platform": "pcbios", "mac": "MAC"}
    run = Run(dict(settings)).run(script)
    assert run.end == "booted"
    at_the_kernel = run.cmdline.split()
    expected = [expand(word, run.settings) for word in f"{text} m".split()]
    assert at_the_kernel == " ".join(expected).split()


@pytest.mark.parametrize("key", ["mac", "uuid", "serial", "hostname", "ip", "buildarch", "x"])
@pytest.mark.parametrize(
    "value", ["a\nreboot", "${mac}", "|| reboot", "\x1b[2J", "\udcff", "'\"<>", "a" * 10_000]
)
def test_what_a_client_says_of_itself_changes_nothing(key: str, value: str) -> None:
    writer = _writer(profiles={"p": _profile("title", "quiet")}, boot={"default": "p"})
    said = {"mac": "52-54-00-12-34-56", key: value}
    identity, _ = identify(said)
    assert writer.machine(_URL, identity) == writer.machine(_URL, identify({})[0])


@pytest.mark.parametrize(
    "name",
    [
        "vmlinuz-with blank",
        "vmlinuz-#1",
        "vmlinuz-?a=b&c",
        "vmlinuz-%41",
        "vmlinuz-${mac}",
        "vmlinuz-gr\u00fc\u00dfe",
        "vmlinuz-\\",
        "vmlinuz-;",
        "vmlinuz-'\"<&>",
        "vmlinuz- || reboot",
    ],
)
def test_a_file_is_fetched_by_its_name_whatever_stands_in_it(tmp_path: Path, name: str) -> None:
    (tmp_path / "x86_64").mkdir()
    (tmp_path / "x86_64" / name).write_text("x")
    writer = _writer(assets={"roots": [tmp_path]})
    settings = {"buildarch": "x86_64", "platform": "pcbios", "mac": "MAC"}
    run = Run(dict(settings)).run(writer.menu(_URL))
    (url,) = run.fetched
    assert urlsplit(url).query == urlsplit(url).fragment == ""
    link = unquote(urlsplit(url).path)
    assert link.startswith("/profile/")
    script = writer.profile(_URL, link.removeprefix("/profile/"))
    assert script is not None
    run = Run(dict(settings)).run(script)
    assert run.end == "booted"
    (url,) = run.fetched
    assert urlsplit(url).query == urlsplit(url).fragment == ""
    found = unquote(urlsplit(url).path)
    assert found == f"/boot/x86_64/{name}"


def test_a_file_whose_name_is_not_utf8_does_not_take_the_others_with_it(tmp_path: Path) -> None:
    (tmp_path / "x86_64").mkdir()
    for name in ("vmlinuz-\udcff", "initrd-\udcff", "linux", "tool-\udcff.ipxe"):
        (tmp_path / "x86_64" / name).write_text("x")
    writer = _writer(assets={"roots": [tmp_path]})
    script = writer.menu(_URL)
    script.encode()
    run = Run({"buildarch": "x86_64", "platform": "pcbios"}).run(script)
    assert "x86_64/linux" in run.items.values()
    second = writer.profile(_URL, "x86_64/linux")
    assert second is not None
    second.encode()


@pytest.mark.parametrize(
    "url",
    [
        "http://192.0.2.1",
        "http://192.0.2.1:8080",
        "https://boot.example:8443/pxe",
        "http://[2001:db8::1]:80",
        "http://[fe80::1%25eth0]:80",
    ],
)
def test_urls_of_servers(url: str) -> None:
    assert checked_url(url) == checked_url(url + "/") == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "192.0.2.1",
        "ftp://192.0.2.1",
        "http://",
        "http:///boot",
        "http://a b",
        "http://a\nreboot",
        "http://a\n",
        "http://${mac}",
        "http://a;b",
        "http://a#b",
        "http://a/?q",
        "http://a/#f",
        "http://a\\",
        "http://user@a",
        "http://a||b",
        "http://b\u00fccher",
        "http://[",
        "http://]::1[",
        "http://a:b:c",
    ],
)
def test_what_is_no_url_of_a_server(url: str) -> None:
    with pytest.raises(ValueError, match="not the URL of a server"):
        checked_url(url)


@given(st.text("ab1.:[]%/~-${} \n#?@\\", max_size=30))
def test_a_url_that_passes_is_one_word_without_settings(text: str) -> None:
    try:
        url = checked_url(f"http://{text}")
    except ValueError:
        return
    (command,) = commands(f"chain {url}")
    assert command.words == ("chain", str(url))
    assert urlsplit(url).hostname


@given(st.text(st.characters(codec=None), max_size=60))
def test_quoted_text_is_text(text: str) -> None:
    quoted = str(quote(text))
    quoted.encode()
    (command,) = commands(f"echo {quoted}")
    words = [expand(word, {"": ""}) for word in command.words]
    assert words[0] == "echo"
    if text.isprintable() and text.isascii() and "${" not in text:
        assert words[1:] == text.split()


def test_a_name_of_a_profile_is_never_more_than_a_word() -> None:
    for name in ("a b", "a\n", "${mac}", "../x", "", "-x", "a" * 65):
        with pytest.raises((ConfigError, ValidationError)):
            _writer(profiles={name: _profile("t", "")})
