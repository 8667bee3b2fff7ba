"""PXELINUX and GRUB boot what the profiles say, whatever stands in them."""

from __future__ import annotations

import itertools
import logging
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bootserve.catalog.assets import AssetNotFound
from bootserve.catalog.catalog import Catalog
from bootserve.catalog.loader_text import Boot, fill_settings, grub_text, pxelinux_text
from bootserve.catalog.machines import identify
from bootserve.catalog.model import Arch
from bootserve.catalog.names import NameQuirk
from bootserve.catalog.profiles import Kernel
from bootserve.settings import load
from tests import needs

_URL = "http://192.0.2.1:8080"
_CLIENT = "192.0.2.57"
_DB1 = "01-52-54-00-12-34-56"
_DB1_UUID = "4c4c4544-0042-3510-8054-b4c04f4d3432"
_NOBODY = "01-52-54-00-00-00-00"
_LAST = {"pxelinux.cfg/": "pxelinux.cfg/default", "grub.cfg-": "grub.cfg"}

_RESCUE = {
    "title": "Rescue system",
    "architectures": ["x86_64", "i386"],
    "kernel": "{arch}/vmlinuz",
    "initrds": ["{arch}/initramfs", "common/firmware.cpio"],
    "cmdline": "console=ttyS0 quiet",
}
_SCRIPT = {"script": "#!ipxe\nexit\n"}
_MACHINE = {
    "name": "db1",
    "mac": "52:54:00:12:34:56",
    "uuid": _DB1_UUID,
    "profile": "rescue",
    "cmdline": "single",
}


def _catalog(root: Path | str = "/nonexistent", **tree: Any) -> Catalog:
    return Catalog(load(flags={"assets": {"roots": [root]}, **tree}))


async def _ask(catalog: Catalog, name: str, client: str = _CLIENT) -> str:
    source = await catalog.open_for_firmware(name, _URL, client=client, note=lambda _: None)
    try:
        return (await source.read(0, source.size)).decode()
    finally:
        source.close()


def _pxelinux(text: str) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Read a configuration as PXELINUX does: what stands before the labels, and each label."""
    before: dict[str, str] = {}
    labels: dict[str, dict[str, str]] = {}
    here = before
    for line in text.split("\n"):
        assert len(line.encode()) < 4096
        assert "\r" not in line
        word, _, rest = line.strip(" ").partition(" ")
        if word == "LABEL":
            here = labels.setdefault(rest, {})
        elif word == "SAY":
            before["SAY"] = before.get("SAY", "") + rest + "\n"
        elif word and not word.startswith("#"):
            assert word in (
                "DEFAULT",
                "PROMPT",
                "TIMEOUT",
                "LINUX",
                "INITRD",
                "APPEND",
                "LOCALBOOT",
            )
            assert word not in here
            here[word] = rest
    return before, labels


def _grub(text: str) -> list[list[str]]:
    """Read a configuration as GRUB does, whose quotes are a shell's: the words of each line."""
    return [words for line in text.split("\n") if (words := shlex.split(line, comments=True))]


def _is_grub(text: str) -> bool:
    """Whether GRUB's own checker takes it."""
    program = needs.program("grub-script-check", "grub-common")
    return subprocess.run([program], input=text.encode(), check=False).returncode == 0


def test_grubs_own_checker_refuses_what_it_cannot_read() -> None:
    assert _is_grub("echo 'a'\n")
    assert not _is_grub("echo 'a\n")


async def test_a_machine_gets_its_profile_by_pxelinux() -> None:
    catalog = _catalog(profiles={"rescue": _RESCUE}, machines=[_MACHINE])
    for name in (_DB1, _DB1_UUID):
        before, labels = _pxelinux(await _ask(catalog, f"bios//pxelinux.cfg/{name}"))
        assert before["DEFAULT"] == "1"
        assert before["PROMPT"] == "0"
        assert labels["1"] == {
            "LINUX": "::/x86_64/vmlinuz",
            "INITRD": "::/x86_64/initramfs,::/common/firmware.cpio",
            "APPEND": "console=ttyS0 quiet single",
        }
        assert labels["2"]["LINUX"] == "::/i386/vmlinuz"


async def test_a_machine_gets_its_profile_by_grub() -> None:
    catalog = _catalog(profiles={"rescue": _RESCUE}, machines=[_MACHINE])
    for name in (_DB1, _DB1_UUID):
        text = await _ask(catalog, f"/grub/grub.cfg-{name}")
        assert _is_grub(text)
        lines = _grub(text)
        assert ["set", "timeout=0"] in lines
        assert [
            "linux", "/x86_64/vmlinuz", "console=ttyS0", "quiet", "single"
        ] in lines  # fmt: skip
        assert ["initrd", "/i386/initramfs", "/common/firmware.cpio"] in lines


@pytest.mark.parametrize("before", _LAST)
async def test_whoever_has_no_entry_is_not_found_until_the_loaders_last_name(before: str) -> None:
    catalog = _catalog(
        profiles={"rescue": _RESCUE}, machines=[_MACHINE], boot={"default": "rescue"}
    )
    for said in (_NOBODY, "00112233-4455-6677-8899-aabbccddeeff", "C0000239", "C0", "x"):
        with pytest.raises(AssetNotFound):
            await _ask(catalog, before + said)
    text = await _ask(catalog, _LAST[before])
    assert "quiet" in text
    assert "single" not in text


@pytest.mark.parametrize("before", _LAST)
async def test_a_machine_that_was_seen_at_its_address_is_known_by_it(before: str) -> None:
    catalog = _catalog(profiles={"rescue": _RESCUE}, machines=[_MACHINE])
    identity, _ = identify({"mac": "52:54:00:12:34:56"})
    catalog.sightings.note(_CLIENT, catalog.scripts.sight(identity))
    assert "single" in await _ask(catalog, before + "C0000239")
    assert "single" in await _ask(catalog, _LAST[before])
    # Others have their own addresses, and nobody has another's.
    assert "single" not in await _ask(catalog, _LAST[before], "192.0.2.58")
    for said, client in (("C0000239", "192.0.2.58"), ("C000023A", _CLIENT), (_NOBODY, _CLIENT)):
        with pytest.raises(AssetNotFound):
            await _ask(catalog, before + said, client)


@pytest.mark.parametrize("before", _LAST)
async def test_a_lookup_changes_nothing_of_what_is_known_of_an_address(before: str) -> None:
    catalog = _catalog(profiles={"rescue": _RESCUE}, machines=[_MACHINE])
    await _ask(catalog, before + _DB1)
    assert catalog.sightings.all() == []
    assert "single" not in await _ask(catalog, _LAST[before])


async def test_a_file_of_ones_own_goes_before(tmp_path: Path) -> None:
    (tmp_path / "pxelinux.cfg").mkdir()
    (tmp_path / "pxelinux.cfg" / _DB1).write_text("my own")
    (tmp_path / "grub.cfg").write_text("my own too")
    catalog = _catalog(tmp_path, profiles={"rescue": _RESCUE}, machines=[_MACHINE])
    assert await _ask(catalog, f"pxelinux.cfg/{_DB1}") == "my own"
    assert await _ask(catalog, "grub.cfg") == "my own too"
    assert "Rescue system" in await _ask(catalog, "pxelinux.cfg/default")


async def test_answers_from_the_profiles_are_noted_and_others_are_not(tmp_path: Path) -> None:
    catalog = _catalog(tmp_path, profiles={"rescue": _RESCUE}, machines=[_MACHINE])
    (tmp_path / "grub.cfg").write_text("my own")
    noted: list[NameQuirk] = []
    for name in ("a//pxelinux.cfg/default", f"/grub.cfg-{_DB1}", "grub.cfg"):
        await catalog.open_for_firmware(name, _URL, client=_CLIENT, note=noted.append)
    with pytest.raises(AssetNotFound):
        await catalog.open_for_firmware(
            f"pxelinux.cfg/{_NOBODY}", _URL, client=_CLIENT, note=noted.append
        )
    assert noted == [
        NameQuirk.DOUBLED_SLASHES,
        NameQuirk.PXELINUX_LOOKUP,
        NameQuirk.LEADING_SLASH,
        NameQuirk.GRUB_LOOKUP,
    ]


async def test_over_http_there_are_only_files() -> None:
    catalog = _catalog(profiles={"rescue": _RESCUE}, machines=[_MACHINE])
    with pytest.raises(AssetNotFound):
        await catalog.open("grub.cfg", _URL)


async def test_the_menu_of_the_profiles() -> None:
    profiles = {
        "script": _SCRIPT,
        "rescue": _RESCUE,
        "arm": {"kernel": "arm64/Image"},
        "plain": {"kernel": "x86_64/k", "title": "Plain"},
    }
    catalog = _catalog(profiles=profiles, boot={"menu_timeout": 7})
    before, labels = _pxelinux(await _ask(catalog, "pxelinux.cfg/default"))
    assert (before["PROMPT"], before["TIMEOUT"], before["DEFAULT"]) == ("1", "70", "1")
    for line in ("1  Rescue system\n", "2  Rescue system (i386)\n", "3  Plain\n", "local  "):
        assert line in before["SAY"]
    assert labels["3"] == {"LINUX": "::/x86_64/k"}
    assert labels["local"] == {"LOCALBOOT": "0"}
    assert set(labels) == {"1", "2", "3", "local"}

    text = await _ask(catalog, "grub.cfg")
    assert _is_grub(text)
    entries = [line[1] for line in _grub(text) if line[0] == "menuentry"]
    assert entries == [
        "Rescue system",
        "Rescue system",
        "arm",
        "Plain",
        "Back to the firmware, for the next boot device",
    ]
    assert ["set", "timeout=7"] in _grub(text)


async def test_a_menu_that_waits_for_a_person() -> None:
    catalog = _catalog(profiles={"rescue": _RESCUE}, boot={"menu_timeout": 0})
    before, _ = _pxelinux(await _ask(catalog, "pxelinux.cfg/default"))
    assert before["TIMEOUT"] == "0"
    assert ["set", "timeout=-1"] in _grub(await _ask(catalog, "grub.cfg"))


async def test_the_menu_of_what_the_roots_hold(tmp_path: Path) -> None:
    (tmp_path / "x86_64").mkdir()
    for name in ("vmlinuz", "initramfs", "tool.ipxe"):
        (tmp_path / "x86_64" / name).write_text("x")
    (tmp_path / "x86_64" / "cmdline").write_text("quiet\n")
    catalog = _catalog(tmp_path)
    _, labels = _pxelinux(await _ask(catalog, "pxelinux.cfg/default"))
    assert labels["1"] == {
        "LINUX": "::/x86_64/vmlinuz",
        "INITRD": "::/x86_64/initramfs",
        "APPEND": "quiet",
    }
    assert ["linux", "/x86_64/vmlinuz", "quiet"] in _grub(await _ask(catalog, "grub.cfg"))


@pytest.mark.parametrize("name", _LAST.values())
async def test_where_there_is_nothing_to_boot_there_is_no_configuration(
    tmp_path: Path, name: str
) -> None:
    for tree in ({}, {"profiles": {"script": _SCRIPT}}):
        with pytest.raises(AssetNotFound):
            await _ask(_catalog(tmp_path, **tree), name)


@pytest.mark.parametrize(
    "profile", [_SCRIPT, {"kernel": "arm64/Image"}, {"kernel": "x86_64/a b", "initrds": ["\n"]}]
)
async def test_a_machine_whose_profile_the_loader_cannot_boot_goes_back_to_its_firmware(
    profile: dict[str, Any],
) -> None:
    machine = {"mac": "52:54:00:12:34:56", "profile": "it"}
    catalog = _catalog(profiles={"it": profile, "rescue": _RESCUE}, machines=[machine])
    before, labels = _pxelinux(await _ask(catalog, f"pxelinux.cfg/{_DB1}"))
    assert before["DEFAULT"] == "local"
    assert "it is not for PXELINUX" in before["SAY"]
    assert list(labels) == ["local"]
    if profile.get("kernel") != "arm64/Image":
        text = await _ask(catalog, f"grub.cfg-{_DB1}")
        assert _is_grub(text)
        assert "it is not for GRUB" in text
        assert not [line for line in _grub(text) if line[0] == "linux"]
        assert ["exit", "1"] in _grub(text)


@pytest.mark.parametrize(
    "kernel",
    [
        "x86_64/a b",
        "x86_64/a,b",
        "x86_64/a:b",
        "x86_64/%41",
        "x86_64/gr\u00fcn",
        "x86_64/" + "a" * 240,
    ],
)
async def test_a_name_that_pxelinux_cannot_take_is_told_of_once_and_left_out(
    kernel: str, caplog: pytest.LogCaptureFixture
) -> None:
    catalog = _catalog(profiles={"odd": {"kernel": kernel}, "rescue": _RESCUE})
    with caplog.at_level(logging.WARNING, "bootserve.catalog"):
        for _ in range(3):
            _, labels = _pxelinux(await _ask(catalog, "pxelinux.cfg/default"))
            assert labels["1"]["LINUX"] == "::/x86_64/vmlinuz"
    assert len(caplog.messages) == 1
    assert "odd (x86_64): PXELINUX takes only names" in caplog.text
    assert ["linux", "/" + kernel] in _grub(await _ask(catalog, "grub.cfg"))


async def test_a_line_that_is_too_long_for_pxelinux_does_not_become_two() -> None:
    long = {"kernel": "x86_64/k", "cmdline": "a" * 4095 + " LABEL 1"}
    catalog = _catalog(profiles={"long": long, "rescue": _RESCUE})
    _, labels = _pxelinux(await _ask(catalog, "pxelinux.cfg/default"))
    assert labels["1"]["LINUX"] == "::/x86_64/vmlinuz"


async def test_ipxes_settings_in_command_lines(caplog: pytest.LogCaptureFixture) -> None:
    cmdline = (
        "ip=${ip} BOOTIF=01-${net0/mac:hexhyp} mac=${mac} from=${bootserve-url}/x"
        " name=${bootserve-machine} gw=[${gateway}] initrd=initrd.magic"
    )
    profile = {"kernel": "x86_64/k", "cmdline": cmdline}
    machine = {"name": "db1", "mac": "52:54:00:12:34:56", "profile": "p"}
    catalog = _catalog(profiles={"p": profile}, machines=[machine])
    expected = (
        "ip=192.0.2.57 BOOTIF=01-52-54-00-12-34-56 mac=52:54:00:12:34:56"
        " from=http://192.0.2.1:8080/x name=db1 gw=[]"
    )
    with caplog.at_level(logging.WARNING, "bootserve.catalog"):
        for _ in range(2):
            _, labels = _pxelinux(await _ask(catalog, f"pxelinux.cfg/{_DB1}"))
            assert labels["1"]["APPEND"] == expected
    assert caplog.messages == ["p: PXELINUX cannot fill in iPXE's ${gateway}, left out"]
    assert ["linux", "/x86_64/k", *expected.split()] in _grub(
        await _ask(catalog, f"grub.cfg-{_DB1}")
    )


def test_settings_are_replaced_from_the_inside_out() -> None:
    values = {"ip": "1", "a1": "2", "bad": "${ip}\n"}
    assert fill_settings("${a${ip}} ${} $ip ${bad}", values) == ("2  $ip $ {ip}?", set())
    assert fill_settings("${x/y} ${ip", values) == (" ${ip", {"x/y"})


async def test_a_quoted_value_reaches_the_kernel_as_one_through_grub() -> None:
    profile = {"kernel": "x86_64/k", "cmdline": 'dyndbg="file a.c +p" "x=1 2" y="z" q=\'a b\''}
    lines = _grub(await _ask(_catalog(profiles={"p": profile}), "grub.cfg"))
    # GRUB puts each word that has a blank into double quotes for the kernel.
    expected = ["dyndbg=file a.c +p", "x=1 2", "y=z", "q='a", "b'"]
    assert ["linux", "/x86_64/k", *expected] in lines


@pytest.mark.parametrize(
    ("arches", "cpu", "platform", "expected"),
    [
        ([Arch.X86_64, Arch.I386], "x86_64", "efi", Arch.X86_64),
        ([Arch.X86_64, Arch.I386], "i386", "efi", Arch.I386),
        ([Arch.X86_64, Arch.I386], "i386", "pc", Arch.I386),
        ([Arch.X86_64], "i386", "pc", Arch.X86_64),
        ([Arch.X86_64], "i386", "efi", None),
        ([Arch.I386], "x86_64", "pc", Arch.I386),
        ([Arch.I386], "x86_64", "efi", None),
        ([Arch.ARM64, Arch.X86_64], "arm64", "efi", Arch.ARM64),
        ([Arch.X86_64], "arm64", "efi", None),
    ],
)
def test_grub_shows_what_its_cpu_can_start(
    arches: list[Arch], cpu: str, platform: str, expected: Arch | None
) -> None:
    boots = [Boot(arch, Kernel(arch, arch, (), ""), tuple(arches)) for arch in arches]
    shown = []
    variables = {"$bootserve_cpu": cpu, "$bootserve_cpu-$grub_platform": f"{cpu}-{platform}"}
    lines = _grub(grub_text(boots))
    for line, after in itertools.pairwise(lines):
        if after[0] == "menuentry" and line[:2] == ["if", "["]:
            tests = " ".join(line[2:-2]).split(" -o ")
            pairs = [test.split(" = ") for test in tests]
            if any(variables[left] == right for left, right in pairs):
                shown.append(after[1])
    assert shown == ([expected] if expected else [])


def test_a_title_that_looks_like_an_option_of_grubs_is_a_title() -> None:
    boot = Boot("--class", Kernel(Arch.X86_64, "k", (), ""), (Arch.X86_64,))
    assert ["menuentry", " --class", "{"] in _grub(grub_text([boot]))


_HOSTILE = st.text(st.characters(codec="utf-8"), max_size=30) | st.lists(
    st.sampled_from(
        [
            *(
                "'",
                '"',
                "\\",
                "$",
                "${",
                "}",
                "{",
                ";",
                "|",
                "&",
                "#",
                "*",
                "?",
                "<",
                ">",
                "(",
                "`",
            ),
            *(
                "\n",
                "\r",
                "\t",
                "\0",
                "\x85",
                "\u2028",
                " ",
                "  ",
                "LABEL x",
                "}\nreboot",
                "a",
                "=",
            ),
            *("initrd=x", "$root", "{{ boot }}", "{%", "&amp;", "<b>"),
        ]
    ),
    max_size=8,
).map("".join)


@settings(max_examples=150)
@given(title=_HOSTILE, name=_HOSTILE, cmdline=_HOSTILE)
@example(title="'", name="a'b", cmdline="'; reboot; '")
@example(title="a\n}\nreboot", name="$root", cmdline='a="b c')
@example(title="\\", name="\\", cmdline="\\")
def test_whatever_stands_in_a_value_grub_sees_the_same_commands(
    title: str, name: str, cmdline: str
) -> None:
    def text(title: str, name: str, cmdline: str) -> str:
        kernel = Kernel(Arch.X86_64, name, (name,), cmdline)
        return grub_text([Boot(title, kernel, (Arch.X86_64,))], says=[title])

    written = text(title, name, cmdline)
    assert _is_grub(written)
    ours, plain = _grub(written), _grub(text("t", "n", "c"))
    assert [line[0] for line in ours] == [line[0] for line in plain]
    shown = "".join(char if char.isprintable() else "?" for char in name)
    [linux] = [line for line in ours if line[0] == "linux"]
    [initrd] = [line for line in ours if line[0] == "initrd"]
    assert linux[1] == "/" + shown
    assert initrd == ["initrd", "/" + shown]
    as_one = "".join(char if char.isprintable() else "?" for char in cmdline)
    if '"' not in as_one:
        assert linux[2:] == [w for w in as_one.split(" ") if w and not w.startswith("initrd=")]


@given(title=_HOSTILE, cmdline=_HOSTILE)
@example(title="a\nLABEL 1", cmdline="a\nLABEL 1")
@example(title="", cmdline="-")
def test_whatever_stands_in_a_value_pxelinux_sees_the_same_lines(title: str, cmdline: str) -> None:
    kernel = Kernel(Arch.X86_64, "k", ("i",), cmdline)
    text = pxelinux_text([Boot(title, kernel, (Arch.X86_64,))], is_menu=True, says=[title])
    before, labels = _pxelinux(text)
    assert set(before) == {"SAY", "DEFAULT", "PROMPT", "TIMEOUT"}
    assert set(labels) == {"1", "local"}
    assert labels["1"]["LINUX"] == "::/k"
    assert labels["1"]["INITRD"] == "::/i"
