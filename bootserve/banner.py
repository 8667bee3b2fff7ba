"""What a person sees when the server starts, and the lines for their DHCP server."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console

from bootserve import __version__
from bootserve.addresses import host_addresses
from bootserve.catalog import binaries
from bootserve.catalog.assets import Assets
from bootserve.catalog.binaries import Binary
from bootserve.catalog.catalog import Catalog
from bootserve.catalog.profiles import discover
from bootserve.catalog.roots import root_problem
from bootserve.dhcp_config import BootFiles, DhcpServer, render
from bootserve.doors import Doors
from bootserve.endpoint import Endpoint
from bootserve.settings import Settings
from bootserve.text import path_printable, printable

FIRMWARE_TFTP_PORT = 69
_LONGEST_OPTION = 4096


def show(
    console: Console,
    settings: Settings,
    doors: Doors,
    *,
    has_lines: bool = True,
    options: Sequence[str] = (),
) -> None:
    """Print how to point DHCP at us, then what is served, where and with which iPXE binaries.

    In this order, so that what differs from start to start stands last on the screen.

    Args:
        has_lines: print the lines for DHCP servers themselves, not only how to ask for them.
        options: what `bootserve dhcp-config` has to be given for the same lines.
    """

    def line(text: str = "") -> None:
        console.print(text, markup=False)

    assets = Catalog(settings).assets
    found = binaries.available(assets)
    command = f"run `{_dhcp_command(options)}"
    dhcp = "the lines for dnsmasq, ISC dhcpd and Kea stand above"
    for kind in DhcpServer:
        try:
            server = _server_address(doors.http_endpoints())
            text = _render(kind, settings, found, server, doors.http_port, doors.tftp_port)
        except ValueError as error:
            dhcp = f"{command} --server ADDR` for its lines: {error}"
            break
        if has_lines:
            line(f"---- {kind} ----")
            line(text)
        else:
            dhcp = f"{command}` for the lines of your server"
    line(f"bootserve {__version__}")
    line()
    line(f"HTTP   {', '.join(_reachable(doors.http_endpoints(), 'http://'))}")
    if doors.tftp:
        line(f"TFTP   {', '.join(_reachable(doors.tftp_endpoints(), 'tftp://'))}")
    else:
        line("TFTP   off")
    for note in doors.notes:
        line(f"       not served: {note}")
    for root in assets.roots:
        problem = root_problem(root)
        line(f"Assets {path_printable(root.resolve())}{f': {problem}' if problem else ''}")
    line(f"Boots  {what_boots(settings, assets)}")
    for binary in found:
        line(f"iPXE   {binary.kind.name} ({binary.kind.firmware}): {binary.where}")
    missing = binaries.advice(found)
    if missing:
        line(f"iPXE   {missing}")
    line(f"DHCP   {dhcp}")


def _dhcp_command(options: Sequence[str]) -> str:
    # The kinds are no words for a shell: one of them is to be chosen.
    kinds = "|".join(DhcpServer)
    return " ".join((f"bootserve dhcp-config {kinds}", *map(_quoted, options)))


def _quoted(option: str) -> str:
    return printable(shlex.quote(option), longest=_LONGEST_OPTION)


def show_ready(console: Console) -> None:
    console.print("bootserve is ready", markup=False)


def dhcp_text(kind: DhcpServer, settings: Settings, *, server: str | None = None) -> str:
    """Return the lines for one DHCP server, from the settings alone.

    Raises:
        ValueError: ``server`` is no address that clients can use, or there is none.
    """
    found = binaries.available(Catalog(settings).assets)
    return _render(
        kind,
        settings,
        found,
        server or _server_address(settings.http.listen),
        settings.http.listen[0].port,
        _expected_tftp_port(settings),
    )


def _render(
    kind: DhcpServer,
    settings: Settings,
    found: Iterable[Binary],
    server: str,
    http_port: int,
    tftp_port: int | None,
) -> str:
    return render(
        kind,
        server=server,
        http_url=settings.http.url or f"http://{server}" + f":{http_port}" * (http_port != 80),
        files=_boot_files({binary.kind.name for binary in found}),
        tftp_port=None if tftp_port is None else tftp_port or FIRMWARE_TFTP_PORT,
    )


def _boot_files(have: set[str]) -> BootFiles:
    def first(*names: str) -> str | None:
        return next((name for name in names if name in have), None)

    return BootFiles(
        bios=first("undionly.kpxe", "ipxe.pxe") or "undionly.kpxe",
        efi_x86_64=first("snponly.efi", "ipxe.efi") or "snponly.efi",
        efi_i386=first("ipxe-i386.efi"),
        efi_arm64=first("snponly-arm64.efi", "ipxe-arm64.efi"),
    )


def _server_address(endpoints: Sequence[Endpoint]) -> str:
    """The address for clients to use: the one that HTTP listens on, or the host's likeliest."""
    first = endpoints[0]
    if first.host is None or first.is_everywhere or ":" in first.host:
        return host_addresses()[0]
    return first.host


def _expected_tftp_port(settings: Settings) -> int | None:
    ports = {endpoint.port: endpoint.is_optional for endpoint in settings.tftp.listen}
    if FIRMWARE_TFTP_PORT in ports and (
        not ports[FIRMWARE_TFTP_PORT] or _may_bind(FIRMWARE_TFTP_PORT)
    ):
        return FIRMWARE_TFTP_PORT
    return next(iter(ports), None)


def _may_bind(port: int) -> bool:
    first_free = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
    try:
        return os.geteuid() == 0 or port >= int(first_free.read_text())
    except (OSError, ValueError):
        return False


def _reachable(endpoints: Iterable[Endpoint], scheme: str) -> list[str]:
    urls: dict[str, None] = {}
    for endpoint in endpoints:
        version_6 = endpoint.host is not None and ":" in endpoint.host
        if endpoint.is_everywhere:
            hosts = [host for host in host_addresses() if (":" in host) == version_6]
        else:
            hosts = [endpoint.host or ""]
        for host in hosts:
            urls[f"{scheme}{Endpoint(host, endpoint.port)}"] = None
    return list(urls)


def what_boots(settings: Settings, assets: Assets) -> str:
    """Return what machines get, in a sentence."""
    if settings.profiles:
        profiles, machines = len(settings.profiles), len(settings.machines)
        return (
            f"{profiles} profile{'s' * (profiles != 1)},"
            f" {machines} machine entr{'y' if machines == 1 else 'ies'}, others:"
            f" {settings.boot.default or 'a menu of the profiles'}"
        )
    found = [printable(item.name) for item in discover(assets)]
    if not found:
        return (
            "nothing yet: put a kernel and an initrd into x86_64/, i386/ or arm64/ of an asset"
            " root; a machine that comes now gets a menu that says so"
        )
    names = ", ".join(found[:4]) + (f" and {len(found) - 4} more" if len(found) > 4 else "")
    return f"a menu of {names}"
