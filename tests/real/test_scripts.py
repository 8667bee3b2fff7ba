"""Real iPXE runs the scripts that bootserve serves; its console is read as a person would.

Most machines run the iPXE in QEMU's network card (BIOS), one the undionly.kpxe
and one the ipxe.efi of the distribution.
"""

from __future__ import annotations

import os
import re
import shutil
from typing import TYPE_CHECKING, NamedTuple

import pytest

from . import debian, initramfs, needs
from .process import Process, wait_until
from .script_lab import (
    BOOTED,
    HOST_SEEN_FROM_INSIDE,
    HOSTILE_FOLDER,
    HOSTILE_TAIL,
    HOSTILE_TITLE,
    HOSTILE_WORDS,
    UNICODE_KERNEL,
    Machine,
    Site,
    option,
    profiles_site,
)
from .vm import OVMF_CODE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Power on to a running script takes 6 s; the rest is for slower and busier hosts.
SECONDS = 60
EFI_SECONDS = 150

IPXE_EFI = "/boot/ipxe.efi"

# Machines by their MAC; which profile is whose stands in script_lab.py.
QUOTED = "52:54:00:00:05:01"
QUOTED_EFI = "52:54:00:00:05:02"
STRANGER = "52:54:00:00:06:01"


def expected(mac: str, words: str) -> str:
    """As the kernel gets it: single-spaced, iPXE's settings filled in, nothing else touched."""
    return re.sub(" +", " ", words).replace("${mac}", mac)


class Served(NamedTuple):
    """A site with bootserve running."""

    site: Site
    server: Process


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    site = profiles_site(tmp_path_factory.mktemp("profiles"))
    with site.serve() as server:
        yield Served(site, server)


@pytest.fixture(scope="module")
def forsaken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine whose kernel is missing for good and at which nobody looks: it takes a minute."""
    site = given_up_site(tmp_path_factory.mktemp("forsaken"))
    with site.serve(), Machine(site, "forsaken") as machine:
        yield machine


@pytest.fixture(scope="module")
def efi(served: Served) -> Iterator[Machine]:
    """A machine with UEFI, on which iPXE hands Linux itself a command line of its own making."""
    found = needs.debian_parts("amd64")
    ovmf = needs.file(OVMF_CODE, "ovmf")
    ipxe = needs.file(IPXE_EFI, "ipxe")
    site = served.site
    site.put(HOSTILE_FOLDER + "/linux", found.kernel.read_bytes())
    init = initramfs.system(found.busybox, initramfs.PROOF_INIT)
    site.put(HOSTILE_FOLDER + "/initramfs", init)
    site.put("x86_64/empty", initramfs.padding(b""))
    firmware = f"if=pflash,unit=0,format=raw,readonly=on,file={ovmf}"
    options = ("-machine", "q35", "-device", "virtio-rng-pci", "-drive", firmware)
    kernel = ("-kernel", str(ipxe))
    with Machine(site, "efi", *options, *kernel, memory=512, mac=QUOTED_EFI) as machine:
        yield machine


@pytest.fixture(scope="module", autouse=True)
def _at_once(request: pytest.FixtureRequest) -> None:
    """What takes long is switched on first; where something is missing, its own test says so."""
    if shutil.which("qemu-system-x86_64"):
        request.getfixturevalue("forsaken")
        if debian.parts("amd64").present() and all(map(os.path.isfile, (OVMF_CODE, IPXE_EFI))):
            request.getfixturevalue("efi")


def given_up_site(directory: Path) -> Site:
    return Site(
        directory,
        '[boot]\nattempts = 2\ndefault = "gone"\n[profiles.gone]\nkernel = "x86_64/gone"\n',
    )


def boots(machine: Machine, server: Process) -> tuple[str, int, str]:
    """What the stub kernel says: its name, the size of its initrds, its command line."""
    with server.shown_on_failure():
        name, size, cmdline = machine.wait_for(BOOTED, SECONDS).groups()
    assert machine.wait_end(10) == 0
    return name, int(size, 16), cmdline


# --- nothing configured -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """An asset root with two kernels, and no profiles."""
    site = Site(tmp_path_factory.mktemp("shelf"), "[boot]\nmenu_timeout = 2\n")
    site.put_kernel("x86_64/a/vmlinuz")
    site.put("x86_64/a/initramfs", bytes(5000))
    site.put("x86_64/a/cmdline", b"console=ttyS0  quiet\n")
    site.put_kernel(HOSTILE_FOLDER.replace("/a ", "/b ") + "/vmlinuz")
    with site.serve() as server:
        yield Served(site, server)


def test_menu_of_the_asset_root_boots_its_first_entry_by_itself(shelf: Served) -> None:
    with Machine(shelf.site, "menu") as machine:
        machine.wait_for(r"^ +x86_64/a/vmlinuz +\(2\)", SECONDS)
        machine.wait_for("Ask the server again", 5)
        assert boots(machine, shelf.server) == ("x86_64/a/vmlinuz", 5000, "console=ttyS0 quiet")
        assert re.search(r"^bootserve: [0-9a-f:]+ \(x86_64 pcbios\)", machine.text(), re.M)


def test_person_takes_another_entry_whatever_its_name(shelf: Served) -> None:
    with Machine(shelf.site, "chosen") as machine:
        machine.wait_for(r"x86_64/a/vmlinuz +\(2\)", SECONDS)
        machine.type("\x1b[B")
        machine.wait_for(r"x86_64/b b%20c #d\?e&f\+g;h=\$i", 5)
        machine.type("\r")
        assert boots(machine, shelf.server)[0].startswith("x86_64/b ")


def test_machine_waits_for_its_first_kernel_and_for_the_server(tmp_path: Path) -> None:
    site = Site(tmp_path, "[boot]\nmenu_timeout = 1\n")
    with Machine(site, "waiting") as machine:
        with site.serve() as server:
            machine.wait_for(
                "Nothing to boot for x86_64: put a kernel into x86_64/ of an asset root", 60
            )
            wait_until(lambda: server.log().count("script of: menu") > 1, 10, "asked again")
        machine.wait_for("attempt 1 of 8 failed .* next in 1 s", 20)
        site.put_kernel("x86_64/vmlinuz")
        with site.serve() as server:
            assert boots(machine, server)[0] == "x86_64/vmlinuz"


# --- something is missing ---------------------------------------------------------------------


def test_machine_boots_when_its_missing_initramfs_appears(served: Served) -> None:
    with Machine(served.site, "late", mac="52:54:00:00:03:01") as machine:
        # A screen is 80 columns wide: the rest of these lines is on the next.
        attempt = (
            r"^bootserve: attempt {} of 8 failed \(error 0x2d0c\w+\), next in {} s, Ctrl-C for "
        )
        for number, pause in ((1, 1), (2, 2), (3, 4)):
            machine.wait_for(attempt.format(number, pause), SECONDS)
        served.site.put("x86_64/late", bytes(100))
        assert boots(machine, served.server) == ("x86_64/plain", 8192 + 100, "")
        # What had come before was not fetched again.
        assert machine.text().count("fetching x86_64/first") == 1


def test_machine_that_cannot_boot_ends_with_a_shell(tmp_path: Path) -> None:
    site = given_up_site(tmp_path)
    with site.serve(), Machine(site, "shell") as machine:
        machine.wait_for("attempt 1 of 2 failed .*next in 1 s", SECONDS)
        machine.wait_for("Press any key for the iPXE shell, or wait 60 s for a reboot", 10)
        machine.type("x")
        machine.wait_for('type "exit" to start over', 10)
        machine.wait_for("^iPXE> ", 10)
        machine.type("exit\r")
        # From the start, with all its attempts; and one can stop the waiting.
        machine.wait_for("(?s)iPXE> .*booting gone.*attempt 1 of 2 failed", 10)
        machine.type("\x03")
        machine.wait_for("(?s)iPXE> .*to start over.*iPXE> ", 10)


# --- quoting ----------------------------------------------------------------------------------


def test_values_of_the_configuration_reach_the_kernel_unharmed(served: Served) -> None:
    with Machine(served.site, "quoted", mac=QUOTED) as machine:
        name, size, cmdline = boots(machine, served.server)
        assert name == HOSTILE_FOLDER + "/vm linuz"
        assert size == 8192 + 100
        words = f"console=ttyS0 ünï=ü {HOSTILE_WORDS} {HOSTILE_TAIL}"
        assert cmdline == expected(QUOTED, words)
        # The console may break a line, and it separates the $ from what would be a setting.
        title = re.sub(r"\s", "", machine.text().partition("booting ")[2])
        assert title.startswith(re.sub(r"\s", "", HOSTILE_TITLE))


def test_file_names_that_are_not_ascii(served: Served) -> None:
    with Machine(served.site, "unicode", mac="52:54:00:00:05:03") as machine:
        assert boots(machine, served.server)[0] == UNICODE_KERNEL


# --- who the machine is -----------------------------------------------------------------------


def test_hostile_identity_changes_nothing(served: Served) -> None:
    # Were a part of it taken for a machine's MAC, that machine's profile would boot.
    uuid = "4c4c4544-0042-3510-8054-b4c04f4d3432"
    serial = "x y||reboot #${mac}&mac=52-54-00-00-0e-11&name=evil,"
    # QEMU takes 32 characters.
    hostname = "h||\nI forged&mac=525400000e11"
    smbios = f"type=1,serial={option(serial)},uuid={uuid}"
    with Machine(
        served.site, "hostile", "-smbios", smbios, mac=STRANGER, hostname=hostname
    ) as machine:
        assert boots(machine, served.server) == ("x86_64/plain", 0, "by-uuid")
    (line,) = [line for line in served.server.log().splitlines() if "forged" in line]
    assert f'({STRANGER}, i386 pcbios) gets the script of: plain; ignored "hostname' in line
    assert r"\nI forged&mac=" in line


def test_32_bit_profile_by_serial_number_on_a_64_bit_machine(served: Served) -> None:
    with Machine(served.site, "narrow", "-smbios", "type=1,serial=CZ 34/01") as machine:
        assert boots(machine, served.server) == ("i386/plain", 0, "by-serial")


def test_32_bit_machine_gets_the_32_bit_kernel_by_an_odd_serial_number(served: Served) -> None:
    smbios = "type=1,serial=CZ+34&01=%41 #7"
    with Machine(served.site, "both", "-smbios", smbios, cpu="i386") as machine:
        assert boots(machine, served.server) == ("i386/plain", 0, "by-serial")


def test_profile_for_another_architecture_says_so(served: Served) -> None:
    with (
        Machine(served.site, "arm", hostname="board-7") as machine,
        served.server.shown_on_failure(),
    ):
        machine.wait_for("bootserve: arm has nothing for i386, only for arm64", SECONDS)
        machine.wait_for("Press any key for the iPXE shell", 10)


# --- other scripts ----------------------------------------------------------------------------


def test_raw_script_runs_as_it_is(served: Served) -> None:
    with Machine(served.site, "raw", mac="52:54:00:00:09:01") as machine:
        url = f"http://{HOST_SEEN_FROM_INSIDE}:{served.site.port}"
        machine.wait_for(f"^raw: {url}\n+raw: as it is", SECONDS)
        machine.wait_for("No bootable device", 20)


def test_rom_is_replaced_over_http_where_there_is_no_tftp(tmp_path: Path) -> None:
    needs.file("/usr/lib/ipxe/undionly.kpxe", "ipxe")
    site = profiles_site(tmp_path, "[ipxe]\nrechain = true\n")
    with site.serve() as server, Machine(site, "rechain", mac=QUOTED) as machine:
        name, _, cmdline = boots(machine, server)
        assert name == HOSTILE_FOLDER + "/vm linuz"
        assert cmdline.endswith(HOSTILE_TAIL)
        machine.wait_for("loading the server's own", 1)
        machine.wait_for("/boot/undionly.kpxe... ok", 1)
        machine.wait_for("using undionly", 1)
        assert machine.text().count("this ROM is an iPXE itself") == 1


# --- those that take long, switched on at the beginning ---------------------------------------


def test_values_of_the_configuration_reach_linux_under_uefi(served: Served, efi: Machine) -> None:
    with served.server.shown_on_failure():
        marker = rf"^{initramfs.MARKER} .* cmdline=<(.*)>\s*$"
        cmdline = efi.wait_for(marker, EFI_SECONDS)[1]
    words = expected(QUOTED_EFI, f"console=ttyS0 {HOSTILE_WORDS} {HOSTILE_TAIL}")
    assert words + " initrd=initrd0 initrd=initrd1" in cmdline
    assert efi.wait_end(30) == 0


def test_forsaken_machine_starts_again_after_a_minute(forsaken: Machine) -> None:
    forsaken.wait_for("Press any key for the iPXE shell, or wait 60 s for a reboot", SECONDS)
    assert forsaken.wait_end(90) == 0
