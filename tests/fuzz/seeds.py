"""What real clients send, as bytes: where a fuzzer begins.

Caught on the wire from the programs named, but for those whose names say that they are from a
vendor's documents or from reports of others.
"""

from __future__ import annotations

REQUESTS: dict[str, bytes] = {
    "iPXE": b"\0\1undionly.kpxe\0octet\0blksize\0" + b"1432\0tsize\0" + b"0\0",
    "iPXE asks for autoexec.ipxe": b"\0\1autoexec.ipxe\0octet\0blksize\0"
    + b"1432\0tsize\0"
    + b"0\0",
    "OVMF, for the size": b"\0\1ipxe.efi\0octet\0tsize\0"
    + b"0\0blksize\0"
    + b"1468\0windowsize\0"
    + b"4\0",
    "OVMF, for the file": b"\0\1ipxe.efi\0octet\0blksize\0" + b"1468\0windowsize\0" + b"4\0",
    "PXELINUX": b"\0\1pxelinux.cfg/default\0octet\0tsize\0" + b"0\0blksize\0" + b"1408\0",
    "PXELINUX, two slashes": b"\0\1boot//ldlinux.c32\0octet\0tsize\0" + b"0\0blksize\0" + b"1408\0",
    "GRUB": b"\0\1/grub/x86_64-efi/normal.mod\0octet\0blksize\0" + b"1024\0tsize\0" + b"0\0",
    "shim": b"\0\1/grubx64.efi\0octet\0tsize\0" + b"0\0blksize\0" + b"1468\0windowsize\0" + b"4\0",
    "curl": b"\0\1kernel\0octet\0tsize\0" + b"0\0blksize\0" + b"512\0timeout\0" + b"6\0",
    "curl, no options": b"\0\1kernel\0octet\0",
    "tftp-hpa, ascii": b"\0\1kernel\0netascii\0",
    "atftp": b"\0\1kernel\0octet\0tsize\0"
    + b"0\0timeout\0"
    + b"3\0blksize\0"
    + b"1428\0windowsize\0"
    + b"16\0",
    "busybox": b"\0\1kernel\0octet\0blksize\0" + b"1428\0tsize\0" + b"0\0",
    "tftpy": b"\0\1kernel\0octet\0blksize\0" + b"1432\0tsize\0" + b"0\0",
    "Windows' bootmgr (reported)": b"\0\1\\Boot\\BCD\0octet\0tsize\0" + b"0\0blksize\0" + b"1456\0",
    "Windows' bootmgr, windows (reported)": (
        b"\0\1\\Boot\\boot.wim\0octet\0tsize\0"
        + b"0\0blksize\0"
        + b"1456\0windowsize\0"
        + b"4\0msftwindow\0"
        + b"31416\0"
    ),
    "U-Boot (documents)": b"\0\1uImage\0octet\0timeout\0"
    + b"5\0tsize\0"
    + b"0\0blksize\0"
    + b"1468\0",
    "Intel's boot agent, padded (reported)": b"\0\1pxelinux.0\0octet\0tsize\0" + b"0\0" + bytes(60),
    "an upload": b"\0\2kernel\0octet\0",
    "a mode of RFC 783": b"\0\1kernel\0mail\0",
    "not UTF-8": b"\0\1ker\xffnel\0octet\0blksize\0" + b"abc\0",
    "every option at once": (
        b"\0\1kernel\0OCTET\0BLKSIZE\0" + b"65464\0tsize\0" + b"0\0timeout\0" + b"255\0windowsize\0"
        b"65535\0rollover\0" + b"1\0utimeout\0" + b"10000\0blksize2\0" + b"1024\0multicast\0\0"
    ),
}

PACKETS: dict[str, bytes] = {
    "ACK 0": b"\0\4\0\0",
    "ACK 1": b"\0\4\0\1",
    "ACK 65535": b"\0\4\xff\xff",
    "iPXE gives up": b"\0\5\0\0\0",
    "OVMF refuses the OACK": b"\0\5\0\x08User aborted the transfer\0",
    "an ERROR without an end": b"\0\5\0\1file not found",
    "a code that is none": b"\0\5\xff\xff\0",
    "DATA": b"\0\3\0\1data",
    "OACK": b"\0\6tsize\0" + b"7\0",
    "nothing": b"",
    "a byte": b"\0",
    "an opcode": b"\0\1",
    "no such opcode": b"\0\7\0\0",
}

SEEDS = {**REQUESTS, **PACKETS}
