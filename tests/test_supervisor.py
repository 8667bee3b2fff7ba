"""Upgrades under somebody who waits for the server's first process: systemd, a container's init."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest

from bootserve.supervisor import Supervisor
from tests import needs
from tests.downloads import CONFIG as DOWNLOADS
from tests.downloads import assets, finishes, slow_download
from tests.family import Family, family, is_running, parent, wait_until
from tests.manager import CONFIG, manager, service


def _is_serving(server: Family) -> bool:
    banner = server.banner()
    port = int(banner.rpartition("http://127.0.0.1:")[2].split("/")[0].split()[0])
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("is_abstract", [False, True])
def test_systemd_is_told_of_readiness_and_of_every_new_main_process(
    is_abstract: bool, tmp_path: Path
) -> None:
    address = f"@bootserve-test-{os.getpid()}" if is_abstract else str(tmp_path / "notify")
    with manager(address) as systemd, service(tmp_path, address) as server:
        first = systemd.receive()
        assert (first.pid, first.fields) == (server.pid, {"READY": "1"})
        # Which kind of DHCP server there is, nobody can ask: the journal has no use for all lines.
        assert "bootserve dhcp-config dnsmasq|isc|kea --config" in server.banner()
        for _ in range(2):
            new = server.replace()
            systemd.wait_for("MAINPID", str(new))
            # It speaks for itself from then on, and not before.
            systemd.wait_for("STATUS", pid=new)
        assert server.leave() == 0
        assert systemd.refused == []


def test_systemd_is_told_who_replaces_a_main_process_that_died(tmp_path: Path) -> None:
    assets(tmp_path)
    address = str(tmp_path / "notify")
    with (
        manager(address) as systemd,
        service(tmp_path, address, config=DOWNLOADS) as server,
        slow_download(server.ports()[0]) as client,
    ):
        second, third = server.replace(), server.replace()
        systemd.wait_for("STATUS", pid=third)
        wait_until(lambda: not is_running(second))
        os.kill(third, signal.SIGKILL)
        newest = int(systemd.wait_for("MAINPID", pid=server.pid).fields["MAINPID"])
        assert newest not in (server.pid, second, third)
        systemd.wait_for("STATUS", pid=newest)
        # It is not systemd's child as long as that one could take its end for the service's.
        assert parent(newest) == server.pid
        assert finishes(client)
        assert server.leave() == 0
        assert systemd.refused == []


def test_a_systemd_that_names_its_process_to_the_watchdog_only_is_told_as_well(
    tmp_path: Path,
) -> None:
    """Those before 248: they would take the end of the old process for that of the service."""
    address = str(tmp_path / "notify")
    environ = (f"NOTIFY_SOCKET={address}", "WATCHDOG_USEC=60000000")
    # The shell becomes the program, under the same number.
    as_systemd = ("env", "-u", "SYSTEMD_EXEC_PID", *environ, "sh", "-c")
    launcher = (*as_systemd, 'WATCHDOG_PID=$$ exec "$@"', "sh")
    with manager(address) as systemd, family(tmp_path, CONFIG, launcher=launcher) as server:
        systemd.wait_for("READY", "1", pid=server.pid)
        for _ in range(2):
            new = server.replace()
            systemd.wait_for("MAINPID", str(new))
            systemd.wait_for("WATCHDOG", pid=new)
        assert systemd.refused == []


def test_a_service_whose_manager_cannot_be_told_is_not_upgraded(tmp_path: Path) -> None:
    with service(tmp_path, "") as server:
        done = server.upgrade()
        assert done.returncode == 1
        [line] = done.stderr.splitlines()
        assert "Type=notify" in line
        assert "starting a new process" not in server.log()
        assert _is_serving(server)


def test_a_manager_that_does_not_listen_any_more_keeps_the_old_process(tmp_path: Path) -> None:
    with service(tmp_path, str(tmp_path / "nobody")) as server:
        done = server.upgrade()
        assert done.returncode == 1
        [line] = done.stderr.splitlines()
        assert "NOTIFY_SOCKET: No such file or directory" in line
        assert server.process.poll() is None
        assert _is_serving(server)


def test_the_child_of_a_containers_init_says_why_it_cannot_be_replaced(tmp_path: Path) -> None:
    needs.root()
    unshare = needs.program("unshare", "util-linux")
    # It does as tini does: the container ends with this child.
    (tmp_path / "tini").symlink_to(needs.program("sh", "dash"))
    init = (str(tmp_path / "tini"), "-c", '"$@" & wait "$!"; exit', "init")
    launcher = (unshare, "--pid", "--fork", "--mount-proc", "--kill-child", "--", *init)
    with family(tmp_path, CONFIG, launcher=launcher) as server:
        done = server.upgrade()
        assert done.returncode == 1
        [line] = done.stderr.splitlines()
        assert "PID 1, " in line
        assert "has started this process" in line
        assert _is_serving(server)


@pytest.mark.parametrize("init", ["", "systemd", "init", "runit", "python3", "sh"])
def test_an_init_that_outlives_its_children_is_no_obstacle(init: str) -> None:
    assert Supervisor(7, init).why_not() is None


def test_who_has_replaced_another_is_free_whoever_its_parent_becomes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "getppid", lambda: 1)
    monkeypatch.setattr("bootserve.supervisor._name_of_init", lambda: "tini")
    first = Supervisor.of_this_process(has_predecessor=False, environ={})
    assert "tini" in str(first.why_not())
    assert Supervisor.of_this_process(has_predecessor=True, environ={}).why_not() is None


def test_a_variable_that_a_service_has_left_to_its_children_says_nothing_of_us() -> None:
    environ = {"SYSTEMD_EXEC_PID": "1", "NOTIFY_SOCKET": ""}
    assert Supervisor.of_this_process(has_predecessor=False, environ=environ).why_not() is None
