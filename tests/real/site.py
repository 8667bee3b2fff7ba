"""A network with bootserve and DHCP in it that boots machines into Debian's kernel.

Each machine prints one line when it is up: what CPU its kernel runs on, the
checksum of a file that came in its second initramfs image, and its command
line. So a wrong kernel, a corrupt transfer and a lost option are all seen.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import debian, initramfs, needs, server
from .lab import SERVER, TFTP_CARD, Lab

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .process import Process
    from .vm import Vm

CMDLINE = "console=ttyS0,115200 bootserve.test=yes"
PADDING = 32 * 1024 * 1024
# From power on to the marker takes about 40 s with two emulated machines on
# two cores; the rest is for slower hosts.
BOOT_SECONDS = 150

CONFIG = f"""\
[http]
listen = ["*:8080"]

[tftp]
listen = ["*:69"]

[assets]
roots = ["{{root}}"]

[ipxe]
rechain = true

[boot]
default = "debian"

[profiles.debian]
architectures = ["x86_64", "i386"]
kernel = "{{{{arch}}}}/vmlinuz"
initrds = ["{{{{arch}}}}/initramfs", "{{{{arch}}}}/padding.cpio"]
cmdline = "{CMDLINE}"
"""

# For one card, that of iPXE's own TFTP client: nothing but TFTP, and no second try of anything.
TFTP_SCRIPT = f"""\
#!ipxe
kernel tftp://{SERVER}/x86_64/vmlinuz {CMDLINE}
initrd tftp://{SERVER}/x86_64/initramfs
initrd tftp://{SERVER}/x86_64/padding.cpio
boot
"""
# dnsmasq takes the last of the lines that fit.
TFTP_DHCP = f"""
dhcp-mac=set:by-tftp,{TFTP_CARD.mac}
dhcp-boot=tag:by-tftp,by-tftp.ipxe,,{SERVER}
"""

MARKER = rf"^{initramfs.MARKER} arch=(\S+) sha256=(\S+) cmdline=<(.*)>\s*$"
UNAME = {"x86_64": "x86_64", "i386": "i686"}
_DEBIANS: dict[str, debian.Architecture] = {"x86_64": "amd64", "i386": "i386"}


@dataclass(frozen=True)
class Site:
    """A network with bootserve in it, and what it serves."""

    lab: Lab
    server: Process
    root: Path
    checksums: dict[str, str]

    def size(self, *names: str) -> int:
        return sum((self.root / name).stat().st_size for name in names)

    def boots(self, vm: Vm, architecture: str) -> None:
        """The machine comes up with this architecture's kernel, complete, and ends."""
        with vm, self.server.shown_on_failure():
            uname, checksum, cmdline = vm.wait_for(MARKER, BOOT_SECONDS).groups()
            assert uname == UNAME[architecture]
            assert checksum == self.checksums[architecture]
            # The script may add the names of the initrds, and UEFI the kernel's
            # own, but what was configured stands together.
            assert CMDLINE in cmdline
            assert vm.wait_end(30) == 0

    def completed(self, vm: Vm, name: str) -> list[str]:
        return server.completed(self.server, vm.card.address, name)


def place_kernel(root: Path, architecture: str, padding: int) -> str:
    """Put a kernel and its initramfs images below an asset root; the checksum of the padding."""
    found = needs.debian_parts(_DEBIANS[architecture])
    # Different for each, so that a mix-up cannot look right.
    data = random.Random(architecture).randbytes(padding)
    (root / architecture).mkdir(parents=True)
    (root / architecture / "vmlinuz").write_bytes(found.kernel.read_bytes())
    (root / architecture / "initramfs").write_bytes(
        initramfs.system(found.busybox, initramfs.PROOF_INIT)
    )
    (root / architecture / "padding.cpio").write_bytes(initramfs.padding(data))
    return hashlib.sha256(data).hexdigest()


@contextlib.contextmanager
def boot_site(directory: Path) -> Iterator[Site]:
    """A running site whose files, logs and consoles lie in ``directory``."""
    needs.root()
    root = directory / "assets"
    checksums = {name: place_kernel(root, name, PADDING) for name in UNAME}
    (root / "by-tftp.ipxe").write_text(TFTP_SCRIPT)
    needs.file("/usr/lib/ipxe/undionly.kpxe", "ipxe")
    config = directory / "bootserve.toml"
    config.write_text(CONFIG.format(root=root))
    with Lab(directory) as lab:
        started = lab.bootserve(config)
        lab.dhcp(server.dhcp_config("dnsmasq", config, SERVER) + TFTP_DHCP)
        yield Site(lab, started, root, checksums)
