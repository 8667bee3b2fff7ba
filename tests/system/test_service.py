"""bootserve as systemd's service, in a Debian that has nothing else to do.

Every test finds the socket units listening and the service not running, with the configuration
that was installed.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.real import needs
from tests.real.process import Process
from tests.real.script_lab import BOOTED, HOST_SEEN_FROM_INSIDE, stub_kernel

from .client import MIB, REFUSED
from .service import CONFIG, LARGE, SECRET, SMALL, SOCKET, UNIT, Service

if TYPE_CHECKING:
    from pathlib import Path

    from .machine import Machine

# WatchdogSec= of the unit, and all that comes after it.
WATCHDOG_SECONDS = 120

PROOF = """
[boot]
default = "proof"

[profiles.proof]
kernel = "x86_64/proof"
cmdline = "token={credential:secret_token}"
"""

MISTAKE = """
[profiles.mistaken]
kernl = "x86_64/vmlinuz"
"""


# --- what is installed


def test_the_units_are_in_order(service: Service) -> None:
    machine = service.machine
    assert machine.run("systemd-analyze", "verify", UNIT, SOCKET) == ""
    assert machine.run("systemctl", "is-enabled", SOCKET).strip() == "enabled"


def test_the_sandbox_is_tight(service: Service) -> None:
    text = service.machine.run("systemd-analyze", "security", "--no-pager", UNIT)
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", text)
    assert found is not None
    assert float(found[1]) <= 1.5, text


# --- the first client starts it


@pytest.mark.parametrize("door", ["http", "tftp"])
def test_the_first_client_starts_it(service: Service, door: str) -> None:
    assert service.state("ActiveState") == "inactive"
    assert service.serves("small") if door == "http" else service.serves_by_tftp("small")
    assert service.state("ActiveState") == "active"


def test_it_runs_as_a_user_without_any_privilege(service: Service) -> None:
    assert service.serves("small")
    status = dict(
        line.split(":\t", 1)
        for line in service.machine.run("cat", f"/proc/{service.main_pid()}/status").splitlines()
        if ":\t" in line
    )
    user = service.machine.run("id", "--user", "bootserve").strip()
    assert user != "0"
    assert set(status["Uid"].split()) == {user}
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name], 16) == 0, name
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"


@pytest.mark.parametrize("process", ["the first", "one that has taken over"])
def test_a_machine_boots_through_it_with_a_secret_of_systemds(
    service: Service, tmp_path: Path, process: str
) -> None:
    """A BIOS with iPXE, which finds nothing else on its network."""
    service.put("x86_64/proof", stub_kernel("proof"))
    service.machine.write_secret(SECRET, "s3cr3t")
    service.configure(PROOF)
    if process != "the first":
        assert service.serves("small")
        service.reload_alone()
    with _Bios(service.machine, tmp_path) as bios:
        booted = bios.wait_for(BOOTED, 120)
    assert booted[1] == "proof"
    assert "token=s3cr3t" in booted[3].split()


def test_status_says_what_it_does(service: Service) -> None:
    with service.download("large") as download:
        download.read(MIB)
        service.wait(
            lambda: service.state("StatusText").endswith("; 1 transfer to 1 client"),
            "a status with one transfer",
        )
        download.finish()
    service.wait(lambda: service.state("StatusText").endswith("; idle"), "a status without any")
    assert service.state("StatusText").startswith("HTTP on *:80, TFTP on *:69;")


def test_the_journal_tells_of_a_transfer(service: Service) -> None:
    since = service.machine.cursor()
    assert service.serves("small")
    service.wait_said(f"small {SMALL} of {SMALL} bytes", since)


# --- it is looked after


@pytest.mark.parametrize("process", ["the first", "one that has taken over"])
def test_a_process_that_hangs_is_restarted(service: Service, process: str) -> None:
    assert service.serves("small")
    if process != "the first":
        service.reload_alone()
    hung = service.main_pid()
    restarts = service.restarts()
    service.machine.run("sh", "-c", f"kill -STOP {hung}")
    service.wait(lambda: service.restarts() > restarts, "a restart", WATCHDOG_SECONDS)
    service.wait_state("ActiveState", "active")
    assert service.main_pid() not in (0, hung)
    assert not service.is_alive(hung)
    assert service.serves("small")
    assert service.serves_by_tftp("small")


@pytest.mark.parametrize("process", ["the first", "one that has taken over"])
def test_a_process_that_dies_is_restarted(service: Service, process: str) -> None:
    assert service.serves("small")
    if process != "the first":
        service.reload_alone()
    dead = service.main_pid()
    restarts = service.restarts()
    since = service.machine.cursor()
    service.machine.run("sh", "-c", f"kill -KILL {dead}")
    # The sockets have never been closed: who comes now waits, and is served.
    assert service.serves("small")
    assert service.restarts() > restarts
    assert service.main_pid() not in (0, dead)
    # It is the end of the process that was noticed, not the silence after it.
    assert "status=9/KILL" in service.said(since)


def test_a_reload_cuts_nothing(service: Service) -> None:
    with service.download("large") as slow:
        slow.read(MIB)
        old = service.main_pid()
        since = service.machine.cursor()
        service.machine.run("systemctl", "reload", UNIT)
        new = service.main_pid()
        assert new != old
        assert service.serves("small")
        assert service.serves_by_tftp("small")
        # The old one is still there, for this client alone.
        assert service.is_alive(old)
        assert slow.received < LARGE / 2
        assert slow.finish() == service.digests["large"]
    service.wait(lambda: not service.is_alive(old), "the end of the process that was replaced")
    assert service.main_pid() == new
    assert service.state("ActiveState") == "active"
    # Of no message from a process that may not send any, for one. That the new process is the old
    # one's child is true, and no longer when that one has left.
    assert [one for one in service.complaints(since) if "not our child" not in one] == []


@pytest.mark.parametrize("reloads", [1, 2])
def test_whoever_dies_after_a_reload_is_replaced_at_once(service: Service, reloads: int) -> None:
    with service.download("large") as slow:
        slow.read(MIB)
        old = service.main_pid()
        since = service.machine.cursor()
        service.machine.run("systemctl", "reload", UNIT)
        if reloads == 2:
            service.reload_alone()
        died = service.main_pid()
        service.machine.run("sh", "-c", f"kill -KILL {died}")
        service.wait(lambda: service.main_pid() not in (old, died), "another main process")
        assert service.serves("small")
        assert service.serves_by_tftp("small")
        assert service.is_alive(old)
        assert slow.finish() == service.digests["large"]
    service.wait(lambda: not service.is_alive(old), "the end of the first process")
    assert service.state("ActiveState") == "active"
    assert service.restarts() == 0
    assert [one for one in service.complaints(since) if "not our child" not in one] == []
    # It is systemd's own child now, whose death systemd sees.
    pid = service.main_pid()
    service.machine.run("sh", "-c", f"kill -KILL {pid}")
    service.wait(lambda: service.main_pid() not in (0, pid), "a restart by systemd")


def test_a_reload_with_a_mistake_in_the_configuration_changes_nothing(service: Service) -> None:
    assert service.serves("small")
    serving = service.main_pid()
    service.configure(MISTAKE)
    since = service.machine.cursor()
    assert service.machine.try_to("systemctl", "reload", UNIT).returncode != 0
    assert service.main_pid() == serving
    assert service.serves("small")
    service.wait_said("profiles.mistaken.kernl", since)


def test_a_start_with_a_mistake_in_the_configuration_says_it_and_is_tried_again(
    service: Service,
) -> None:
    machine = service.machine
    service.configure(MISTAKE)
    since = machine.cursor()
    assert machine.try_to("systemctl", "start", UNIT).returncode != 0
    service.wait_said("profiles.mistaken.kernl", since)
    first, *_ = service.said_by_processes(since)
    assert len(first) == 1, first
    assert first[0].startswith(f"bootserve: {CONFIG}: profiles.mistaken.kernl: ")
    # Who comes now finds the socket, and waits.
    with service.download("small") as waiting:
        service.configure("")
        assert waiting.finish() == service.digests["small"]
    assert service.state("ActiveState") == "active"


def test_a_stop_lets_a_download_end(service: Service) -> None:
    with service.download("large") as slow:
        slow.read(MIB)
        process = service.main_pid()
        with service.machine.running_command("systemctl", "stop", SOCKET, UNIT) as stopping:
            service.wait(lambda: not service.listens(process), "a process that listens no more")
            assert service.state("ActiveState") == "deactivating"
            assert service.state("StatusText") == "draining, 1 transfer to go"
            assert stopping.poll() is None
            assert slow.received < LARGE / 2
            assert slow.finish() == service.digests["large"]
    assert service.state("ActiveState") == "inactive"
    assert service.state("Result") == "success"
    assert service.state("ExecMainStatus") == "0"
    # This client took a second, and others take hours.
    assert service.state("TimeoutStopUSec") == "infinity"
    assert service.machine.try_to("curl", "-s", "http://127.0.0.1").returncode == REFUSED


def test_a_stop_lets_downloads_of_a_replaced_process_end(service: Service) -> None:
    with service.download("large") as first:
        first.read(MIB)
        service.machine.run("systemctl", "reload", UNIT)
        with service.download("large") as second:
            second.read(MIB)
            main = service.main_pid()
            with service.machine.running_command("systemctl", "stop", SOCKET, UNIT):
                service.wait(lambda: not service.listens(main), "a process that listens no more")
                assert second.finish() == service.digests["large"]
                # Then systemd sends SIGTERM once more to what is left.
                service.wait(lambda: not service.is_alive(main), "the end of the main process")
                assert first.received < LARGE / 2
                assert first.finish() == service.digests["large"]
    assert service.state("ActiveState") == "inactive"
    assert service.state("Result") == "success"


def test_a_stop_can_be_cut_short(service: Service) -> None:
    with service.download("large") as slow:
        slow.read(MIB)
        with service.machine.running_command("systemctl", "stop", SOCKET, UNIT):
            service.wait_state("StatusText", "draining, 1 transfer to go")
            service.machine.run("systemctl", "kill", "--signal=INT", UNIT)
    assert service.state("ActiveState") == "failed"
    assert service.state("Result") == "exit-code"


def test_whoever_comes_during_a_stop_is_served_by_the_next_process(service: Service) -> None:
    """As long as the socket units listen, a stop is a restart when somebody wants something."""
    with service.download("large") as slow:
        slow.read(MIB)
        old = service.main_pid()
        with service.machine.running_command("systemctl", "stop", UNIT):
            service.wait(lambda: not service.listens(old), "a process that listens no more")
            with service.download("small") as waiting:
                assert slow.finish() == service.digests["large"]
                assert waiting.finish() == service.digests["small"]
    assert service.state("ActiveState") == "active"
    assert service.main_pid() != old


class _Bios(Process):
    """A virtual machine whose network ends at the service's loopback device."""

    def __init__(self, machine: Machine, directory: Path) -> None:
        console = directory / "bios.console"
        super().__init__(
            "bios",
            [
                *machine.network(),
                needs.program("qemu-system-x86_64", "qemu-system-x86"),
                *("-accel", "tcg", "-m", "64", "-nodefaults", "-no-reboot", "-nographic"),
                *("-monitor", "none", "-serial", f"file:{console}"),
                *("-netdev", f"user,id=n0,bootfile=http://{HOST_SEEN_FROM_INSIDE}/boot.ipxe"),
                *("-device", "virtio-net-pci,netdev=n0,bootindex=1"),
            ],
            directory,
        )
        self.watched = console
        self.evidence = [console, self.err]
