"""A netboot to watch, in one terminal: `make demo`.

No root and no second machine: QEMU's own user-mode network is the DHCP server
and names bootserve's entry script as the boot file, so what appears is what a
real machine would show: firmware, iPXE, script, kernel, initramfs.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from . import debian, initramfs, server
from .process import NotHappened

if TYPE_CHECKING:
    from collections.abc import Sequence

PORT = 8080
# How QEMU's user network calls the host it runs on.
HOST_SEEN_FROM_INSIDE = "10.0.2.2"
GREETING = "Hello from a machine that was booted over the network by bootserve."
# On the kernel's command line: end without offering a shell.
ONCE = "demo.once"

INIT = f"""{initramfs.PREPARE}
once=
for word in $(cat /proc/cmdline); do
    [ "$word" = {ONCE} ] && once=yes
done
echo
echo "{GREETING}"
echo
uname -a
free -m
echo
if [ -z "$once" ]; then
    echo "This is a busybox shell in the machine's memory."
    echo "'poweroff -f' or Ctrl-A X ends the demonstration."
    setsid sh -c 'exec sh < /dev/ttyS0 > /dev/ttyS0 2>&1'
fi
poweroff -f
"""

CONFIG = """\
[http]
listen = ["127.0.0.1:{port}"]

[assets]
roots = ["{root}"]

[boot]
default = "demo"

[profiles.demo]
architectures = ["x86_64"]
kernel = "{{arch}}/vmlinuz"
initrds = ["{{arch}}/initramfs"]
cmdline = "{cmdline}"
"""


class CannotShow(RuntimeError):
    """Why there is nothing to watch, in one sentence."""


def say(text: str) -> None:
    print(f"demo: {text}", flush=True)


def show(once: bool) -> int:
    """Run the demonstration; the exit code of the machine."""
    qemu = shutil.which("qemu-system-x86_64")
    if qemu is None:
        raise CannotShow(
            "The program qemu-system-x86_64 is missing: install Debian's package qemu-system-x86."
        )
    found = debian.fetch("amd64", say)
    with tempfile.TemporaryDirectory(prefix="bootserve-demo-") as name:
        directory = Path(name)
        port = PORT if is_free(PORT) else server.free_port()
        if port != PORT:
            say(f"port {PORT} is in use, so this demonstration serves on port {port}")
        config = prepare(directory, found, port, once)
        with server.start(config, "--tftp", "off") as bootserve:
            say(f"bootserve serves {directory}/assets on http://127.0.0.1:{port}/")
            say("switching on a virtual machine; Ctrl-A X switches it off at any time")
            code = run_machine(qemu, port, once)
            say("the machine is off. What bootserve logged of its transfers:")
            bootserve.stop()
            for line in bootserve.log().splitlines():
                if line.rstrip().endswith("complete"):
                    print(f"    {line}")
    return code


def prepare(directory: Path, found: debian.Parts, port: int, once: bool) -> Path:
    """Lay out an asset root as a user would, and the configuration for it."""
    assets = directory / "assets" / "x86_64"
    assets.mkdir(parents=True)
    shutil.copyfile(found.kernel, assets / "vmlinuz")
    (assets / "initramfs").write_bytes(initramfs.system(found.busybox, INIT))
    cmdline = f"console=ttyS0,115200{f' {ONCE}' if once else ''}"
    config = directory / "bootserve.toml"
    config.write_text(CONFIG.format(port=port, root=assets.parent, cmdline=cmdline))
    return config


def run_machine(qemu: str, port: int, once: bool) -> int:
    """Run the machine on this terminal until it is switched off."""
    entry = f"http://{HOST_SEEN_FROM_INSIDE}:{port}/boot.ipxe"
    command = [
        *(qemu, "-accel", "tcg", "-m", "512", "-nographic", "-no-reboot"),
        *("-netdev", f"user,id=n0,bootfile={entry}"),
        *("-device", "e1000,netdev=n0,bootindex=0"),
    ]
    done = subprocess.run(command, stdin=subprocess.DEVNULL if once else None, check=False)
    return done.returncode


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers bind it: a connection in its last minutes does not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.real.demo",
        description="Boot a virtual machine through bootserve on this terminal.",
    )
    parser.add_argument(
        "--once",
        action="store_true",
        help="switch the machine off after its greeting (also when there is no terminal)",
    )
    # Whatever ends us, the server ends with us.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    once: bool = parser.parse_args(arguments).once or not sys.stdin.isatty()
    try:
        return show(once)
    except (CannotShow, debian.FetchError, NotHappened) as error:
        print(error, *getattr(error, "__notes__", ()), sep="\n", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
