"""What machines do with our scripts, run by an interpreter that knows only iPXE's rules."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from bootserve.catalog.catalog import Catalog
from bootserve.catalog.ipxe import ScriptWriter
from bootserve.catalog.machines import Identity, identify
from bootserve.settings import load

from .ipxe_reader import Run

_URL = "http://192.0.2.1:8080"
_BOTH = {
    "kernel": "{arch}/vmlinuz",
    "initrds": ["{arch}/initrd", "common/more"],
    "cmdline": "quiet arch={arch} mac=${mac}",
    "architectures": ["x86_64", "i386"],
}


def _writer(root: Path | None = None, **tree: Any) -> ScriptWriter:
    roots = {"assets": {"roots": [root or Path("/nonexistent")]}}
    return Catalog(load(flags={**roots, **tree})).scripts


def _client(buildarch: str = "x86_64", platform: str = "pcbios", **more: str) -> dict[str, str]:
    return {
        "mac": "52-54-00-12-34-56",
        "uuid": "4c4c4544-0042-3510-8054-b4c04f4d3432",
        "serial": "7XK2P",
        "hostname": "node1",
        "ip": "192.0.2.9",
        "buildarch": buildarch,
        "platform": platform,
        "errno": "0x4c0a6035",
        **more,
    }


def _profile_script(**profile: Any) -> str:
    script = _writer(profiles={"debian": profile}).profile(_URL, "debian")
    assert script is not None
    return script


def test_the_entry_script_says_who_is_there() -> None:
    run = Run(_client()).run(_writer().entry(_URL))
    (url,) = run.fetched
    assert run.end == f"chained {url}"
    assert url.startswith(f"{_URL}/machine.ipxe?")
    said = {key: value for key, (value,) in parse_qs(urlsplit(url).query).items()}
    identity, complaints = identify(said)
    assert complaints == []
    assert identity == Identity(
        "52:54:00:12:34:56", "4c4c4544-0042-3510-8054-b4c04f4d3432", "7XK2P", "node1"
    )
    assert (said["buildarch"], said["platform"], said["ip"]) == ("x86_64", "pcbios", "192.0.2.9")


def test_a_server_that_is_away_is_asked_again_with_growing_pauses_and_then_left() -> None:
    run = Run(_client(), fetch=lambda _: False).run(_writer().entry(_URL))
    assert len(run.fetched) == 8
    assert run.pauses == [1, 2, 4, 8, 16, 32, 64, 60]
    assert run.end == "reboot"
    assert any("cannot go on" in line for line in run.said)


def test_somebody_at_the_console_gets_a_shell() -> None:
    run = Run(_client(), fetch=lambda _: False, somebody_watches=True)
    assert run.run(_writer().entry(_URL)).end == "shell"


@pytest.mark.parametrize("attempts", [1, 3, 100])
def test_attempts_are_as_many_as_the_settings_say(attempts: int) -> None:
    writer = _writer(boot={"attempts": attempts})
    run = Run(_client(), fetch=lambda _: False).run(writer.entry(_URL))
    assert len(run.fetched) == attempts
    assert max(run.pauses) <= 64


def test_each_file_has_its_own_attempts() -> None:
    asked: list[str] = []

    def every_third(url: str) -> bool:
        asked.append(url)
        return asked.count(url) == 3

    run = Run(_client(), fetch=every_third).run(_profile_script(**_BOTH))
    assert run.end == "booted"
    assert run.pauses == [1, 2] * 3
    assert len(run.images) == 3


@pytest.mark.parametrize(
    ("buildarch", "platform", "cpu_is_64_bit", "expected"),
    [
        ("x86_64", "pcbios", True, "x86_64"),
        ("x86_64", "efi", True, "x86_64"),
        ("i386", "pcbios", True, "x86_64"),
        ("i386", "pcbios", False, "i386"),
        # 32-bit UEFI cannot start a 64-bit kernel without help.
        ("i386", "efi", True, "i386"),
    ],
)
def test_the_kernel_for_the_machine(
    buildarch: str, platform: str, cpu_is_64_bit: bool, expected: str
) -> None:
    run = Run(_client(buildarch, platform), cpu_is_64_bit=cpu_is_64_bit)
    run.run(_profile_script(**_BOTH))
    assert run.end == "booted"
    assert run.images == [
        f"{_URL}/boot/{expected}/vmlinuz",
        f"{_URL}/boot/{expected}/initrd",
        f"{_URL}/boot/common/more",
    ]
    extra = " initrd=initrd0 initrd=initrd1" if platform == "efi" else ""
    assert run.cmdline == f"quiet arch={expected} mac=52-54-00-12-34-56{extra}"


@pytest.mark.parametrize(
    ("kernel", "buildarch", "platform", "cpu_is_64_bit", "boots"),
    [
        ("i386/k", "x86_64", "pcbios", True, True),
        ("i386/k", "x86_64", "efi", True, False),
        ("i386/k", "i386", "efi", True, True),
        ("x86_64/k", "i386", "pcbios", False, False),
        ("x86_64/k", "arm64", "efi", True, False),
        ("arm64/k", "arm64", "efi", True, True),
        ("arm64/k", "x86_64", "efi", True, False),
    ],
)
def test_a_kernel_of_one_architecture(
    kernel: str, buildarch: str, platform: str, cpu_is_64_bit: bool, boots: bool
) -> None:
    run = Run(_client(buildarch, platform), cpu_is_64_bit=cpu_is_64_bit)
    run.run(_profile_script(kernel=kernel, title="Old Debian"))
    if boots:
        assert (run.end, run.images) == ("booted", [f"{_URL}/boot/{kernel}"])
    else:
        assert (run.end, run.fetched) == ("reboot", [])
        assert any("Old Debian has nothing for" in line for line in run.said)


def test_a_machine_gets_its_own_profile_and_command_line() -> None:
    writer = _writer(
        profiles={"debian": _BOTH, "rescue": {"kernel": "x86_64/rescue"}},
        machines=[
            {"name": "front", "mac": "525400123456", "profile": "rescue", "cmdline": "a={arch}"}
        ],
        boot={"default": "debian"},
    )
    script, what = writer.machine(_URL, Identity(mac="52:54:00:12:34:56"))
    run = Run(_client()).run(script)
    assert (what, run.images) == ("rescue", [f"{_URL}/boot/x86_64/rescue"])
    assert run.cmdline == "a=x86_64"
    assert run.settings["bootserve-machine"] == "front"
    _, what = writer.machine(_URL, Identity(mac="52:54:00:12:34:57"))
    assert what == "debian"


def test_a_raw_script_is_sent_as_it_is() -> None:
    raw = "#!ipxe\necho ${mac} || # as it is\\\n  shell"
    assert _profile_script(script=raw) == raw


def test_without_a_default_a_stranger_gets_a_menu_of_the_profiles() -> None:
    writer = _writer(
        profiles={
            "arm": {"kernel": "arm64/k"},
            "debian": {**_BOTH, "title": "Debian 13"},
            "rescue": {"kernel": "x86_64/rescue", "title": "Rescue & repair"},
        },
        boot={"menu_timeout": 7},
    )
    script, what = writer.machine(_URL, Identity())
    assert what == "menu"
    run = Run(_client()).run(script)
    assert run.menu_timeout == 7000
    assert list(run.items.values())[:2] == ["Debian 13", "Rescue & repair"]
    assert run.fetched == [f"{_URL}/profile/debian"]
    arm = Run(_client("arm64", "efi")).run(script)
    assert arm.fetched == [f"{_URL}/profile/arm"]


@pytest.mark.parametrize(
    ("item", "end"),
    [
        ("ask", f"chained {_URL}/boot.ipxe"),
        ("disk", "exit"),
        ("shell", "shell"),
        ("reboot", "reboot"),
    ],
)
def test_what_every_menu_offers(item: str, end: str) -> None:
    run = Run(_client(), choose=lambda *_: item).run(_writer().menu(_URL))
    assert run.end == end


def test_a_menu_of_nothing_says_what_to_do_and_asks_again() -> None:
    run = Run(_client()).run(_writer().menu(_URL))
    assert run.end == f"chained {_URL}/boot.ipxe"
    assert any("put a kernel into x86_64/ of an asset root" in line for line in run.said)


def test_nothing_configured_is_a_menu_of_what_lies_there(tmp_path: Path) -> None:
    for name in ("x86_64/vmlinuz-6.1", "x86_64/initrd.img-6.1", "i386/linux", "x86_64/tool.ipxe"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    writer = _writer(tmp_path)
    script = writer.menu(_URL)
    run = Run(_client()).run(script)
    assert {"x86_64/tool.ipxe", "x86_64/vmlinuz-6.1", "i386/linux"} < set(run.items.values())
    keys = {title: key for key, title in run.items.items()}
    tool = Run(_client(), choose=lambda *_: keys["x86_64/tool.ipxe"]).run(script)
    assert tool.end == f"chained {_URL}/boot/x86_64/tool.ipxe"
    kernel = Run(_client(), choose=lambda *_: keys["x86_64/vmlinuz-6.1"]).run(script)
    second = writer.profile(_URL, kernel.fetched[0].removeprefix(f"{_URL}/profile/"))
    assert second is not None
    booted = Run(_client()).run(second)
    assert booted.images == [
        f"{_URL}/boot/x86_64/vmlinuz-6.1",
        f"{_URL}/boot/x86_64/initrd.img-6.1",
    ]


def test_an_uefi_machine_is_not_offered_what_it_cannot_start(tmp_path: Path) -> None:
    for name in ("x86_64/linux", "i386/linux"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("x")
    run = Run(_client("x86_64", "efi")).run(_writer(tmp_path).menu(_URL))
    assert "x86_64/linux" in run.items.values()
    assert "i386/linux" not in run.items.values()


def test_a_profile_that_is_none() -> None:
    assert _writer(profiles={"debian": _BOTH}).profile(_URL, "debain") is None
    assert _writer().profile(_URL, "../../etc/passwd") is None


@pytest.mark.parametrize(
    ("platform", "chip", "chained"),
    [("pcbios", "82540em", True), ("pcbios", "undionly", False), ("efi", "82540em", False)],
)
def test_a_rom_that_is_an_ipxe_loads_ours_first(platform: str, chip: str, chained: bool) -> None:
    writer = _writer(ipxe={"rechain": True}, tftp={"listen": ["*:6969", "*:69"]})
    run = Run(_client(platform=platform, **{"netX/chip": chip})).run(writer.entry(_URL))
    assert (run.fetched[0] == "tftp://192.0.2.1/undionly.kpxe") == chained
    failing = Run(_client(**{"netX/chip": chip}), fetch=lambda url: url.startswith("http"))
    failing.run(writer.entry(_URL))
    assert failing.end.startswith(f"chained {_URL}/machine.ipxe?")


def test_a_rom_is_sent_to_a_tftp_port_that_is_surely_open() -> None:
    # An optional address may not have been to be had; whoever is sent there waits for nobody.
    writer = _writer(ipxe={"rechain": True}, tftp={"listen": ["*:6969", "*:69?"]})
    run = Run(_client(**{"netX/chip": "82540em"})).run(writer.entry(_URL))
    assert run.fetched == ["tftp://192.0.2.1:6969/undionly.kpxe"]


def test_without_tftp_a_rom_loads_ours_by_http() -> None:
    writer = _writer(ipxe={"rechain": True}, tftp={"listen": ["off"]})
    run = Run(_client(**{"netX/chip": "82540em"})).run(writer.entry("http://[2001:db8::1]:80"))
    assert run.fetched == ["http://[2001:db8::1]:80/boot/undionly.kpxe"]


@pytest.mark.parametrize("fetch_works", [True, False])
@pytest.mark.parametrize("choice", ["item0", "ask", "disk", "shell", "reboot"])
@pytest.mark.parametrize("buildarch", ["x86_64", "i386", "arm64", "riscv64"])
def test_no_way_through_a_script_ends_in_silence(
    buildarch: str, choice: str, fetch_works: bool
) -> None:
    writer = _writer(profiles={"a": _BOTH, "b": {"kernel": "arm64/k"}})
    scripts = [writer.entry(_URL), writer.menu(_URL), writer.profile(_URL, "a")]
    for script in scripts:
        assert script is not None
        run = Run(
            _client(buildarch),
            fetch=lambda _: fetch_works,
            choose=lambda default, items: choice if choice in items else default,
        ).run(script)
        assert run.end in ("booted", "shell", "reboot", "exit") or run.end.startswith("chained")


_RACK: dict[str, Any] = {
    "profiles": {
        "debian": {**_BOTH, "title": "Debian 100%s {x}"},
        "rescue": {"kernel": "x86_64/rescue"},
        "raw": {"script": "#!ipxe\necho ${mac} %s\nexit\n"},
    },
    "machines": [
        {"name": "front", "mac": "525400000001", "profile": "debian", "cmdline": "a=1"},
        {"name": "back", "mac": "525400000002", "profile": "debian", "cmdline": "a=2"},
        {"name": "n%s%d", "serial": "S%s", "profile": "debian"},
        {"name": "other", "hostname": "node1", "profile": "rescue", "cmdline": "a=1"},
        {"name": "odd", "uuid": "4c4c4544-0042-3510-8054-b4c04f4d3432", "profile": "raw"},
    ],
}
_RACK_ASKS: list[Callable[[ScriptWriter, str], object]] = [
    ScriptWriter.entry,
    ScriptWriter.menu,
    *(
        lambda writer, url, identity=identity: writer.machine(url, identity)
        for identity in (
            Identity(),
            Identity(mac="52:54:00:00:00:01"),
            Identity(mac="52:54:00:00:00:02"),
            Identity(serial="S%s"),
            Identity(hostname="node1"),
            Identity(uuid="4c4c4544-0042-3510-8054-b4c04f4d3432"),
            Identity(mac="52:54:00:00:00:03", hostname="stranger"),
        )
    ),
    *(
        lambda writer, url, name=name: writer.profile(url, name)
        for name in ("debian", "rescue", "raw", "", "none", "front")
    ),
]
_RACK_URLS = (_URL, "http://192.0.2.1:80", "https://boot.example/x", "http://[2001:db8::1]:8080")


@pytest.mark.parametrize("default", [None, "debian", "raw"])
def test_a_script_that_is_remembered_is_the_script_that_would_be_written(
    default: str | None,
) -> None:
    tree = {**_RACK, "boot": {"default": default} if default else {}}
    writer = _writer(**tree)
    asks = list(itertools.product(range(len(_RACK_ASKS)), _RACK_URLS)) * 3
    random.Random(1).shuffle(asks)
    fresh = {
        (index, url): _RACK_ASKS[index](_writer(**tree), url) for index, url in dict.fromkeys(asks)
    }
    for index, url in asks:
        assert _RACK_ASKS[index](writer, url) == fresh[index, url]


def test_machines_of_one_profile_do_not_get_each_others_script() -> None:
    writer = _writer(**_RACK)
    for _ in range(3):
        for name, cmdline, said in (
            ("front", "a=1", {"mac": "52:54:00:00:00:01"}),
            ("back", "a=2", {"mac": "52:54:00:00:00:02"}),
            ("n%s%d", "", {"serial": "S%s"}),
        ):
            script, what = writer.machine(_URL, Identity(**said))
            run = Run(_client(platform="pcbios")).run(script)
            assert what == "debian"
            assert run.settings["bootserve-machine"] == name
            expected = ["quiet", "arch=x86_64", "mac=52-54-00-12-34-56", *cmdline.split()]
            assert run.cmdline.split() == expected
        stranger = writer.profile(_URL, "debian")
        assert stranger is not None
        assert "bootserve-machine" not in Run(_client()).run(stranger).settings


def test_what_lies_in_a_root_is_not_remembered(tmp_path: Path) -> None:
    (tmp_path / "x86_64").mkdir()
    writer = _writer(tmp_path)
    for name in ("vmlinuz-1", "vmlinuz-2"):
        (tmp_path / "x86_64" / name).write_text("x")
        assert f"x86_64/{name}" in writer.menu(_URL)
        assert writer.profile(_URL, f"x86_64/{name}") is not None
        (tmp_path / "x86_64" / name).unlink()
        assert f"x86_64/{name}" not in writer.menu(_URL)
        assert writer.profile(_URL, f"x86_64/{name}") is None
