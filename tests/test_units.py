"""What `make install` puts where, and whether systemd finds anything to say against it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from bootserve.endpoint import Endpoint
from bootserve.settings import load
from tests import needs
from tests.downloads import assets, finishes, get, slow_download
from tests.family import DEADLINE
from tests.manager import Manager, manager

CHECKOUT = Path(__file__).parent.parent
DIRECTORIES = ("x86_64", "i386", "arm64", "common")


@dataclass
class Host:
    """A host's root, and the prefix that the program has there.

    The prefix leads into the root from this host, too, so that what is installed can be run.
    """

    root: Path
    prefix: Path

    def make(
        self,
        target: str,
        *,
        python: str = sys.executable,
        environ: Mapping[str, str] | None = None,
        umask: int = 0o022,
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                *(needs.program("make", "make"), "--no-print-directory", target),
                *(f"DESTDIR={self.root}", f"PREFIX={self.prefix}", f"PYTHON={python}"),
            ],
            cwd=CHECKOUT,
            # Byte code is for the next start to be fast, not for tests.
            env={
                **os.environ,
                "PIP_NO_COMPILE": "1",
                "SYSTEMD_VERSION": "252",
                **(environ or {}),
            },
            capture_output=True,
            text=True,
            timeout=10 * DEADLINE,
            check=False,
            umask=umask,
        )

    def install(self, **environ: str) -> str:
        done = self.make("install", environ=environ)
        assert done.returncode == 0, done
        return done.stdout

    @property
    def units(self) -> Path:
        return self.root / "usr/local/lib/systemd/system"

    @property
    def config(self) -> Path:
        return self.root / "etc/bootserve/bootserve.toml"

    def files(self) -> set[str]:
        """Everything but the program's own."""
        program = str(self.root) + str(self.prefix)
        return {
            str(path.relative_to(self.root))
            for path in self.root.rglob("*")
            if not str(path).startswith(program) and not path.is_dir()
        }

    def setting(self, unit: str, key: str) -> list[str]:
        """The values of a key, in their order."""
        text = (self.units / unit).read_text()
        return re.findall(rf"^{key}=(.*)$", text, re.MULTILINE)


@contextlib.contextmanager
def _host(folder: Path) -> Iterator[Host]:
    root = folder / "root"
    root.mkdir()
    prefix = folder / "opt"
    prefix.symlink_to(f"{root}{prefix}")
    yield Host(root, prefix)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """Shared, because it takes a while; no test changes it."""
    with _host(tmp_path_factory.mktemp("installed")) as host:
        host.install()
        yield host


@pytest.fixture
def host(installed: Host) -> Iterator[Host]:
    """The same, for tests that change it: what they do is undone."""
    copy = installed.root.with_name("before")
    shutil.copytree(installed.root, copy, symlinks=True)
    yield installed
    shutil.rmtree(installed.root)
    copy.rename(installed.root)


def _analyze(*args: str | Path) -> subprocess.CompletedProcess[str]:
    program = needs.program("systemd-analyze", "systemd")
    return subprocess.run(
        [program, *map(str, args)],
        # Nothing of this host's own: what is installed here is judged.
        env={**os.environ, "SYSTEMD_LOG_LEVEL": "warning", "SYSTEMD_PAGER": "cat"},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


def test_systemd_has_nothing_to_say_against_the_units(installed: Host) -> None:
    done = _analyze(
        "verify", installed.units / "bootserve.service", installed.units / "bootserve.socket"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_service_is_exposed_to_little(installed: Host) -> None:
    done = _analyze(
        *("security", "--offline=true", "--threshold=15"), installed.units / "bootserve.service"
    )
    assert done.returncode == 0, done.stdout
    [level] = re.findall(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert float(level) <= 1.5


def test_users_and_directories_are_made_as_they_should(installed: Host, tmp_path: Path) -> None:
    needs.root()  # it gives files to others
    sysusers = needs.program("systemd-sysusers", "systemd")
    tmpfiles = needs.program("systemd-tmpfiles", "systemd")
    root = tmp_path / "root"
    shutil.copytree(installed.root, root, symlinks=True)
    run = subprocess.run
    run([sysusers, f"--root={root}"], check=True, timeout=DEADLINE, capture_output=True)
    [user] = (root / "etc/passwd").read_text().splitlines()
    name, _, uid, gid, _, _, shell = user.split(":")
    assert (name, shell) == ("bootserve", "/usr/sbin/nologin")
    run([tmpfiles, f"--root={root}", "--create"], check=True, timeout=DEADLINE)

    def of(path: str) -> tuple[int, str]:
        facts = (root / path).stat()
        return facts.st_uid, f"{facts.st_mode & 0o777:o}"

    # The service may read its configuration and the assets, write neither, and read no secret.
    assert of("etc/bootserve") == (0, "750")
    assert of("etc/bootserve/bootserve.toml") == (0, "640")
    assert of("etc/bootserve/secrets") == (0, "700")
    assert {of(f"var/lib/bootserve/{name}") for name in DIRECTORIES} == {(0, "755")}
    assert int(uid) != 0
    assert gid == uid


def test_the_program_is_at_home_at_its_prefix(installed: Host) -> None:
    staging = f"{installed.root}{installed.prefix}.new"
    assert not Path(staging).exists()
    program = Path(f"{installed.root}{installed.prefix}")
    # A shell finds the interpreter where its path is too long for the kernel's first line.
    start = (program / "bin/bootserve").read_text().splitlines()[:2]
    assert any(f"{installed.prefix}/bin/python" in line for line in start)
    for path in (program / "pyvenv.cfg", *(program / "bin").iterdir()):
        if path.is_file() and not path.is_symlink():
            assert staging not in path.read_text()
    done = subprocess.run(
        [installed.prefix / "bin/bootserve", "check", "--config", installed.config, "--root", "."],
        cwd=installed.root / "var/lib/bootserve",
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "fine" in done.stdout
    assert os.readlink(installed.root / "usr/local/bin/bootserve") == str(
        installed.prefix / "bin/bootserve"
    )


def test_the_example_listens_where_the_socket_unit_does(installed: Host) -> None:
    settings = load(installed.config)
    [http] = installed.setting("bootserve.socket", "ListenStream")
    [tftp] = installed.setting("bootserve.socket", "ListenDatagram")
    assert settings.http.listen == (Endpoint.parse(f"*:{http}"),)
    assert settings.tftp.listen == (Endpoint.parse(f"*:{tftp}"),)
    assert settings.assets.roots == (Path("/var/lib/bootserve"),)
    for name in DIRECTORIES:
        assert (installed.root / "var/lib/bootserve" / name).is_dir()
    assert (installed.root / "var/lib/bootserve/README.md").is_file()


def test_what_the_example_has_commented_out_is_right_as_well(
    installed: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = installed.config.read_text()
    path = tmp_path / "bootserve.toml"
    path.write_text(re.sub(r"(?m)^# (?=\[|\w+ = )", "", text))
    (tmp_path / "secret_token").write_text("x")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    settings = load(path)
    assert settings.boot.default == "rescue"
    assert settings.machines[0].profile == "rescue"
    assert str(settings.profiles["rescue"].cmdline).endswith("token=x")


# As systemd does it between fork() and execve().
_SYSTEMD = """
import os, sys
pid = str(os.getpid())
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
names = "bootserve.socket:bootserve.socket"
os.environ.update(LISTEN_PID=pid, LISTEN_FDS="2", LISTEN_FDNAMES=names, SYSTEMD_EXEC_PID=pid)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Service:
    """The unit's commands, run as systemd runs them, with other ports and assets.

    systemd's sockets are those of ListenStream= and ListenDatagram=: one for both families.
    """

    def __init__(self, host: Host, folder: Path, systemd: Manager) -> None:
        self._host = host
        self._folder = folder
        self._systemd = systemd
        self._tcp = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        self._udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        self._udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self._udp.bind(("::", 0))
        self.port = int(self._tcp.getsockname()[1])
        self._environ = {
            **os.environ,
            "NOTIFY_SOCKET": systemd.address,
            "RUNTIME_DIRECTORY": str(folder / "run"),
            "BOOTSERVE_HTTP_LISTEN": f"*:{self.port}",
            "BOOTSERVE_TFTP_LISTEN": f"*:{self._udp.getsockname()[1]}",
            "BOOTSERVE_ASSETS_ROOTS": str(folder / "one"),
        }
        self.process: subprocess.Popen[bytes]

    def _command(self, key: str) -> list[str]:
        [line] = self._host.setting("bootserve.service", key)
        line = line.replace("/etc/bootserve", str(self._host.config.parent))
        return line.replace("$MAINPID", str(self._systemd.main)).split()

    def __enter__(self) -> Service:
        numbers = self._tcp.fileno(), self._udp.fileno()
        with (self._folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _SYSTEMD, *map(str, numbers), *self._command("ExecStart")],
                cwd="/",
                env=self._environ,
                pass_fds=numbers,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )
        self._systemd.wait_for("READY", "1")
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._tcp.close()
        self._udp.close()

    def reload(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._command("ExecReload"),
            cwd="/",
            env=self._environ,
            capture_output=True,
            text=True,
            timeout=2 * DEADLINE,
            check=False,
        )


def test_a_server_that_runs_is_replaced_by_what_is_installed_over_it(
    host: Host, tmp_path: Path
) -> None:
    assets(tmp_path)
    around = sorted(path.name for path in CHECKOUT.iterdir())
    with (
        manager(str(tmp_path / "notify")) as systemd,
        Service(host, tmp_path, systemd) as service,
        slow_download(service.port) as client,
    ):
        host.install()
        # Its program has been replaced, and it is none the worse for it.
        assert get(service.port, "name") == b"one"
        done = service.reload()
        assert done.returncode == 0, done
        new = int(systemd.wait_for("MAINPID", pid=service.process.pid).fields["MAINPID"])
        assert "; 1 transfer" not in systemd.wait_for("STATUS", pid=new).fields["STATUS"]
        assert get(service.port, "name") == b"one"
        assert finishes(client)
        assert service.process.wait(DEADLINE) == 0
        # A reload that cannot work fails, and says why.
        host.config.write_text("[http]\nlistn = 1\n")
        done = service.reload()
        assert done.returncode == 1
        assert "http.listn" in done.stderr
        assert get(service.port, "name") == b"one"
        assert systemd.refused == []
    assert sorted(path.name for path in CHECKOUT.iterdir()) == around


def test_a_second_installation_keeps_what_is_the_operators(host: Host) -> None:
    before = host.files()
    host.config.write_text("# mine\n")
    assert host.install() == ""
    assert host.files() == before
    # As if an older version had brought another example.
    (host.prefix / "share/bootserve/bootserve.toml").write_text("# older\n")
    assert "bootserve.toml.new" in host.install()
    assert host.config.read_text() == "# mine\n"
    example = host.config.with_name("bootserve.toml.new")
    assert example.read_text() == (CHECKOUT / "systemd/bootserve.toml").read_text()


def test_an_installation_that_fails_changes_nothing(host: Host) -> None:
    before = host.files()
    inode = Path(f"{host.root}{host.prefix}").stat().st_ino
    done = host.make(
        "install",
        environ={
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": "http://127.0.0.1:1/",
            "PIP_EXTRA_INDEX_URL": "",
            "PIP_FIND_LINKS": "",
            "PIP_NO_CACHE_DIR": "1",
            "PIP_RETRIES": "0",
        },
    )
    assert done.returncode != 0
    assert "nothing was changed" in done.stderr
    assert host.files() == before
    assert Path(f"{host.root}{host.prefix}").stat().st_ino == inode
    assert not Path(f"{host.root}{host.prefix}.new").exists()


@pytest.mark.parametrize(
    ("prefix", "complaint"),
    [
        ("/opt/boot serve", "letters, digits"),
        ("opt/bootserve", "by its whole path"),
        ("/", "by its whole path"),
        ("/usr", "is not bootserve's"),
        ("/opt/../usr", "dots"),
        ("/home/somebody/bootserve", "out of reach"),
    ],
)
def test_a_prefix_that_will_not_do_is_refused_at_once(
    prefix: str, complaint: str, installed: Host
) -> None:
    before = installed.files()
    done = Host(installed.root, Path(prefix)).make("install")
    assert done.returncode != 0
    [line] = [line for line in done.stderr.splitlines() if line.startswith("bootserve: ")]
    assert complaint in line
    assert installed.files() == before


@pytest.mark.parametrize("target", ["install", "uninstall"])
def test_a_folder_with_other_things_in_it_is_not_taken_for_the_programs(
    target: str, host: Host
) -> None:
    """/usr/local is one: ``bootserve`` in its ``bin`` is the link to the program's."""
    command = host.root / "usr/local/bin/bootserve"
    command.unlink()
    command.write_text("#!/bin/sh\n")
    other = host.root / "usr/local/share/doc"
    other.mkdir(parents=True)
    before = host.files()
    done = Host(host.root, Path("/usr/local")).make(target)
    assert done.returncode != 0
    assert "is not bootserve's" in done.stderr
    assert host.files() == before
    assert other.is_dir()


def test_the_services_user_gets_at_it_whatever_the_umask_is(host: Host) -> None:
    shutil.rmtree(host.root / "usr")
    shutil.rmtree(host.root / "var")
    done = host.make("install", umask=0o077)
    assert done.returncode == 0, done
    program = Path(f"{host.root}{host.prefix}")
    for folder in ("usr/local/bin", "usr/local/lib/systemd/system", "var/lib/bootserve/x86_64"):
        assert (host.root / folder).stat().st_mode & 0o777 == 0o755, folder
    assert (program / "share/bootserve/bootserve.toml").stat().st_mode & 0o777 == 0o644
    assert (host.config.parent / "secrets").stat().st_mode & 0o777 == 0o700


def test_a_package_may_be_built_below_home(host: Host, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\n[ "$1" = -c ] && echo /usr/bin/python3\n')
    python.chmod(0o755)
    done = Host(Path(f"/home/..{host.root}"), host.prefix).make("install", python=str(python))
    # It gets as far as this interpreter, which is none, can get.
    assert "could not make a virtual environment" in done.stderr


def test_longer_pauses_are_for_systemds_that_know_them(host: Host) -> None:
    backoff = host.units / "bootserve.service.d/backoff.conf"
    assert not backoff.exists()
    host.install(SYSTEMD_VERSION="254")
    assert "RestartSteps=" in backoff.read_text()


def test_the_script_that_installs_is_sound() -> None:
    shellcheck = needs.program("shellcheck", "shellcheck")
    script = CHECKOUT / "systemd/install.sh"
    done = subprocess.run([shellcheck, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_what_was_installed_is_removed_and_nothing_else(host: Host) -> None:
    host.config.write_text("# mine\n")
    asset = host.root / "var/lib/bootserve/x86_64/vmlinuz"
    asset.write_bytes(b"kernel")
    done = host.make("uninstall")
    assert done.returncode == 0, done
    assert host.files() == {"etc/bootserve/bootserve.toml", "var/lib/bootserve/x86_64/vmlinuz"}
    assert not host.prefix.exists()
    assert f"{host.config.parent} is yours" in done.stdout
    assert f"{asset.parent.parent} is yours" in done.stdout


def test_what_nobody_has_touched_is_removed_without_a_trace(host: Host) -> None:
    done = host.make("uninstall")
    assert (done.returncode, done.stderr) == (0, "")
    assert host.files() == set()
    assert not host.config.parent.exists()
    assert not (host.root / "var/lib/bootserve").exists()
