"""A process that is replaced while it serves, as its operator and its clients see it."""

from __future__ import annotations

import functools
import os
import shutil
import socket
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

import bootserve
from tests import needs
from tests.downloads import BIG, CONFIG, assets, configure, finishes, get, slow_download
from tests.family import DEADLINE, Family, descriptors, family, is_running, wait_until


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Family]:
    assets(tmp_path)
    with family(tmp_path, CONFIG) as found:
        yield found


# --- what an upgrade does ------------------------------------------------------------------------


def test_a_hangup_signal_brings_the_new_configuration_on_the_same_ports(server: Family) -> None:
    http, tftp = server.ports()
    assert get(http, "name") == b"one"
    configure(server, '"one"', '"two"')
    server.hang_up()
    assert server.leave() == 0
    assert server.ports() == (http, tftp)
    assert get(http, "name") == b"two"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(DEADLINE)
        client.sendto(b"\0\1name\0octet\0", ("127.0.0.1", tftp))
        assert client.recv(2048) == b"\0\3\0\1two"
    assert "Traceback" not in server.log()


def test_new_code_is_what_the_new_process_runs(tmp_path: Path) -> None:
    assets(tmp_path)
    program = tmp_path / "program.py"
    code = "import sys\nfrom bootserve.cli import main\nprint('{}', file=sys.stderr)\nmain()\n"
    program.write_text(code.format("the old code"))
    # The new release has the old one's place, by a symbolic link that the shell went through.
    (tmp_path / "current").symlink_to(".")
    launcher = (sys.executable, "-c", _CHANGE_DIRECTORY, str(tmp_path / "current"))
    with family(tmp_path, CONFIG, launcher=launcher) as server:
        new = tmp_path / "new"
        new.mkdir()
        (new / "program.py").write_text(code.format("the new code"))
        (tmp_path / "current").unlink()
        (tmp_path / "current").symlink_to("new")
        server.replace()
        assert "the old code" in server.log()
        assert "the new code" in server.log()


def test_files_of_another_version_are_nothing_to_a_process_that_runs(tmp_path: Path) -> None:
    """They may lie there for long, if the new version does not come up."""
    assets(tmp_path)
    kernel = tmp_path / "one/x86_64/vmlinuz"
    kernel.parent.mkdir()
    kernel.write_bytes(b"kernel")
    package = tmp_path / "bootserve"
    ours = Path(bootserve.__file__).parent
    shutil.copytree(ours, package, ignore=shutil.ignore_patterns("__pycache__"))
    program = tmp_path / "program.py"
    program.write_text("from bootserve.cli import main\nmain()\n")
    launcher = (sys.executable, "-c", _CHANGE_DIRECTORY, str(tmp_path))
    with family(tmp_path, CONFIG, launcher=launcher) as server:
        http, tftp = server.ports()
        package.rename(tmp_path / "old")
        package.mkdir()
        (package / "__init__.py").write_text("raise SystemExit('this version does not start')\n")
        for name in ("boot.ipxe", "boot.ipxe?mac=52:54:00:12:34:56", "healthz", "metrics"):
            with urllib.request.urlopen(f"http://127.0.0.1:{http}/{name}", timeout=DEADLINE) as got:
                assert got.read(), name
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(DEADLINE)
            for name in ("pxelinux.cfg/default", "boot/grub/grub.cfg"):
                client.sendto(f"\0\1{name}\0octet\0".encode(), ("127.0.0.1", tftp))
                assert client.recv(2048).startswith(b"\0\3\0\1"), name
        assert server.upgrade().returncode == 1
        assert get(http, "name") == b"one"
    assert "this version does not start" in server.log()
    assert "Traceback" not in server.log()


def test_a_defect_in_an_upgrade_by_signal_cuts_nobody_off(tmp_path: Path) -> None:
    assets(tmp_path)
    (tmp_path / "program.py").write_text(
        "from bootserve import cli, succession\n"
        "async def start_successor(*args, **more): raise RuntimeError('no more threads')\n"
        "succession.start_successor = start_successor\n"
        "cli.main()\n"
    )
    launcher = (sys.executable, "-c", _CHANGE_DIRECTORY, str(tmp_path))
    with family(tmp_path, CONFIG, launcher=launcher) as server:
        http, _ = server.ports()
        with slow_download(http) as client:
            server.hang_up()
            server.wait_for_log("RuntimeError: no more threads")
            assert get(http, "name") == b"one"
            assert finishes(client)
        assert f"pid {server.pid} goes on as it was" in server.log()


_CHANGE_DIRECTORY = """
import os, sys
directory, python, _, _, *arguments = sys.argv[1:]
os.chdir(directory)
os.environ["PWD"] = directory
os.execv(python, [python, "program.py", *arguments])
"""


def test_the_old_process_stays_as_long_as_its_last_client_takes(server: Family) -> None:
    http, _ = server.ports()
    with slow_download(http) as client:
        new = server.replace()
        get(http, "name")
        assert server.process.poll() is None
        assert finishes(client)
    assert server.leave() == 0
    assert is_running(new)
    assert f"{len(BIG)} of {len(BIG)} bytes" in server.log()


def test_an_upgrade_says_who_took_over_from_whom(server: Family) -> None:
    done = server.upgrade()
    assert done.returncode == 0
    assert done.stdout.endswith(f" has taken over from pid {server.pid}\n")
    new = int(done.stdout.split()[1])
    server.wait_for_log(f"pid {new} has taken over; this process, pid {server.pid}, leaves")


def test_upgrades_in_a_chain_leave_no_descriptors_and_no_processes_behind(server: Family) -> None:
    http, _ = server.ports()
    wait_until(lambda: server.process.poll() is None)
    before = descriptors(server.pid)
    pids = [server.pid]
    for _ in range(10):
        pids.append(server.replace())
    # The pipe to its predecessor goes a moment after that one.
    wait_until(lambda: descriptors(pids[-1]) == before)
    assert server.leave() == 0
    wait_until(lambda: [pid for pid in pids if is_running(pid)] == pids[-1:])
    assert get(http, "name") == b"one"


def test_a_failed_upgrade_leaves_no_descriptors_behind(server: Family) -> None:
    before = descriptors(server.pid)
    configure(server, "roots", "rots")
    for _ in range(3):
        assert server.upgrade().returncode == 1
    assert descriptors(server.pid) == before


# --- what may go wrong ---------------------------------------------------------------------------


def test_a_broken_configuration_leaves_the_old_process_serving(server: Family) -> None:
    http, _ = server.ports()
    configure(server, "roots", "rots")
    done = server.upgrade()
    assert done.returncode == 1
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith(f"bootserve: {server.folder / 'bootserve.toml'}: assets.rots: ")
    assert "did you mean 'roots'?" in line
    server.wait_for_log(
        f"no upgrade, pid {server.pid} goes on as it was: {line[len('bootserve: ') :]}"
    )
    assert get(http, "name") == b"one"
    configure(server, "rots", "roots")
    server.replace()


def test_a_new_address_that_is_busy_leaves_the_old_process_serving(server: Family) -> None:
    http, _ = server.ports()
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        configure(server, '"127.0.0.1:0"]\n[tftp]', f'"127.0.0.1:0", "127.0.0.1:{port}"]\n[tftp]')
        server.hang_up()
        server.wait_for_log(
            f"pid {server.pid} goes on as it was: HTTP cannot listen on 127.0.0.1:{port}"
        )
    assert get(http, "name") == b"one"
    server.replace()


def test_only_one_upgrade_at_a_time_and_none_while_leaving(server: Family) -> None:
    http, _ = server.ports()
    with slow_download(http) as client:
        # The new process reads its configuration from a pipe, and so waits as long as we like.
        path = server.folder / "bootserve.toml"
        path.unlink()
        os.mkfifo(path)
        server.hang_up()
        server.wait_for_log("starting a new process")
        server.hang_up()
        server.wait_for_log("an upgrade is under way already")
        path.write_text(CONFIG)
        server.wait_for_log("has taken over")
        server.hang_up()
        server.wait_for_log("it is leaving and has nothing to hand over")
        assert finishes(client)
    assert server.leave() == 0
    assert server.log().count("starting a new process") == 1
    assert "goes on as it was" not in server.log()


def test_many_who_ask_for_the_same_upgrade_are_told_and_fill_no_log(server: Family) -> None:
    path = server.folder / "bootserve.toml"
    path.unlink()
    os.mkfifo(path)
    server.hang_up()
    server.wait_for_log("starting a new process")
    [control] = (server.folder / "run").iterdir()
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(DEADLINE)
        client.connect(str(control))
        for _ in range(50):
            client.sendall(b'{"command": "upgrade"}\n')
            assert b"under way already" in client.recv(4096)
    path.write_text(CONFIG)
    server.wait_for_log("has taken over")
    assert 1 <= server.log().count("under way already") <= 10


def test_a_stop_in_the_middle_of_an_upgrade_ends_both(server: Family) -> None:
    path = server.folder / "bootserve.toml"
    path.unlink()
    os.mkfifo(path)
    server.hang_up()
    server.wait_for_log("starting a new process")
    server.process.terminate()
    assert server.leave() == 0
    assert "has taken over" not in server.log()
    assert f"no upgrade of pid {server.pid}: it was told to stop meanwhile" in server.log()
    assert "goes on as it was" not in server.log()
    with pytest.raises(ProcessLookupError):
        os.killpg(server.pid, 0)


# Its configuration comes from a pipe, and so it starts as slowly as we like.
_SLOW_START = """
import os, sys
os.unlink(sys.argv[-1])
os.mkfifo(sys.argv[-1])
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_a_hangup_signal_during_the_start_waits_until_there_is_something_to_replace(
    tmp_path: Path,
) -> None:
    assets(tmp_path)
    launcher = (sys.executable, "-c", _SLOW_START)
    with family(tmp_path, CONFIG, launcher=launcher, is_ready=False) as server:
        path = server.folder / "bootserve.toml"
        wait_until(path.is_fifo)
        for started in range(2):
            # This waits until somebody reads it.
            with path.open("w") as config:
                server.hang_up(server.successor() if started else server.pid)
                config.write(CONFIG)
            wait_until(lambda: server.log().count("starting a new process") > started)  # noqa: B023
        path.write_text(CONFIG)
        assert server.leave() == 0
        wait_until(lambda: server.log().count("has taken over") == 2)
        http, _ = server.ports()
        assert get(http, "name") == b"one"


# --- no request is refused -----------------------------------------------------------------------


def _all_grew(counts: list[int], before: list[int]) -> bool:
    return all(now > then + 1 for now, then in zip(counts, before, strict=True))


def test_no_request_is_refused_while_processes_change(server: Family) -> None:
    http, tftp = server.ports()
    is_over = threading.Event()
    failures: list[str] = []
    counts = [0] * 9

    def ask_by_http(index: int) -> None:
        while not is_over.is_set():
            try:
                assert get(http, "name") == b"one"
            except (OSError, AssertionError) as error:
                failures.append(repr(error))
            counts[index] += 1

    def ask_by_tftp(index: int) -> None:
        while not is_over.is_set():
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.settimeout(DEADLINE)
                # Asked once: a request that is lost stays lost.
                client.sendto(b"\0\1name\0octet\0", ("127.0.0.1", tftp))
                try:
                    data, session = client.recvfrom(2048)
                    client.sendto(b"\0\4\0\1", session)
                    assert data == b"\0\3\0\1one"
                except (OSError, AssertionError) as error:
                    failures.append(repr(error))
            counts[index] += 1

    threads = [threading.Thread(target=ask_by_http, args=(index,)) for index in range(8)]
    threads.append(threading.Thread(target=ask_by_tftp, args=(8,)))
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            before = list(counts)
            server.replace()
            # Each client has met the new process, too.
            wait_until(functools.partial(_all_grew, counts, before))
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert server.leave() == 0


def test_pid_1_of_a_container_says_why_it_cannot_be_replaced(tmp_path: Path) -> None:
    needs.root()
    unshare = needs.program("unshare", "util-linux")
    assets(tmp_path)
    launcher = (unshare, "--pid", "--fork", "--kill-child", "--")
    with family(tmp_path, CONFIG, launcher=launcher) as server:
        done = server.upgrade()
        assert done.returncode == 1
        [line] = done.stderr.splitlines()
        assert "as PID 1 of a container" in line
        http, _ = server.ports()
        assert get(http, "name") == b"one"
