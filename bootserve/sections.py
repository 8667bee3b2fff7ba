"""The sections of the settings: their keys, what each may be, and what it is if nobody sets it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator
from pydantic_settings import NoDecode

from bootserve.catalog.entries import Section
from bootserve.catalog.limits import OFF, Pace, Window, parse_pace, parse_window
from bootserve.catalog.model import ProfileName, ServerUrl
from bootserve.endpoint import Endpoint

DEFAULT_WINDOW = parse_window("4MiB")
"""Bytes on their way to each HTTP client at once, where nothing else is set: the least that costs
nothing on a line of 10 Gbit/s (`bench.window`), and a bound on hosts that permit a sender more."""


def split_list(value: object) -> object:
    """Read a list as the environment and flags have it: with commas."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def _listen(value: object) -> object:
    parts = split_list(value)
    return [] if parts == ["off"] else parts


Listen = Annotated[
    tuple[Annotated[Endpoint, BeforeValidator(Endpoint.parse)], ...],
    NoDecode,
    BeforeValidator(_listen),
]
Paths = Annotated[tuple[Path, ...], NoDecode, BeforeValidator(split_list)]


class HttpSettings(Section):
    listen: Listen = (Endpoint.parse("*:8080"), Endpoint.parse("*:80?"))
    """Addresses of the HTTP door, ``ADDR:PORT``. A ``?`` at the end: only if permitted and free."""

    url: ServerUrl | None = None
    """What scripts call this server. Default: the address under which the client reached us."""

    @field_validator("listen")
    @classmethod
    def _somewhere(cls, listen: Listen) -> Listen:
        if not listen:
            raise ValueError("HTTP cannot be off: scripts and kernels travel over it")
        return listen

    keep_alive: Annotated[float, Field(ge=11, le=3600)] = 75.0
    """Seconds that an idle connection is kept. iPXE's own pool keeps one for 10 s, and a
    connection that we close first costs it a retry; hence the lower bound."""

    head_timeout: Annotated[float, Field(ge=1, le=3600)] = 30.0
    """Seconds that a connection may take for the head of a request, its first one included."""

    silence_limit: Annotated[float, Field(ge=5, le=86400)] = 600.0
    """Seconds without a single ACK after which a client is given up, if it has answered none of
    several probes either. Slow and paused clients acknowledge, however long they take."""

    pace: Pace = OFF
    window: Window = DEFAULT_WINDOW
    """The lane of everybody for whom nothing more specific is set, see `catalog.lanes`."""


class TftpSettings(Section):
    listen: Listen = (Endpoint.parse("*:6969"), Endpoint.parse("*:69?"))
    """Addresses of the TFTP door, or "off". Firmware can only reach port 69."""

    patience: Annotated[float, Field(ge=10, le=86400)] = 300.0
    """Seconds that a transfer waits for a client of which nothing is heard."""

    max_sessions: Annotated[int, Field(ge=1, le=65536)] = 4096
    """Transfers at once; one more is answered with an ERROR."""

    max_sessions_per_client: Annotated[int, Field(ge=1, le=65536)] = 1024
    """The same for each client address. A router that translates addresses looks like one client,
    and so does everything behind it."""

    max_windowsize: Annotated[int, Field(ge=1, le=64)] = 64
    """Blocks between two ACKs, for clients that ask for windows; they never get more than they
    asked for."""

    single_port: bool = False
    """Send everything from the listening port, as it takes to get through a NAT, a firewall or into
    a container. Clients are told apart by their addresses and ports."""

    fragment: bool = False
    """Grant blocks that are larger than what reaches the client in one piece. IP then cuts them up,
    which most firmware cannot put together."""

    rollover: Literal[0, 1] = 0
    """The block number after 65535, unless a client says what it expects."""

    ignore_case: bool = False
    """Look a name that is not found up again without regard to case, as Windows' boot manager and
    DOS tools expect. Costs such a request a listing of each folder that it leads through."""


class AssetSettings(Section):
    roots: Annotated[Paths, Field(min_length=1)] = (Path("boot-assets"),)
    """Directories that are served, searched in this order. In a TOML file relative to the file."""


class IpxeSettings(Section):
    search: Paths = ()
    """Directories searched for iPXE binaries before those where distributions put them."""

    rechain: bool = False
    """Let BIOS machines whose ROM is already an iPXE (virtual machines, some NICs; often old or
    built without features) load undionly.kpxe first."""


class BootSettings(Section):
    default: ProfileName | None = None
    """The profile of machines that no entry names. Without one they get a menu."""

    menu_timeout: Annotated[int, Field(ge=0, le=86400)] = 10
    """Seconds until a menu takes its first entry; 0 waits for a person."""

    attempts: Annotated[int, Field(ge=1, le=100)] = 8
    """How often a script tries each download; the pause doubles from 1 s up to 64 s."""


class AgentSettings(Section):
    """The lane of clients by what they call themselves."""

    user_agent: Annotated[str, Field(min_length=1, max_length=200)]
    """A glob (``iPXE/1.0.0*``), compared without regard to case."""

    pace: Pace | None = None
    window: Window | None = None

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.pace is None and self.window is None:
            raise ValueError('sets nothing: give it a `pace`, like "10Mbit/s", or a `window`')
        return self


class LaneSettings(Section):
    auto_lane: bool = False
    """Move a machine that is in a restart loop to the slow lane."""

    pace: Pace = parse_pace("10Mbit/s")
    window: Window = parse_window("64KiB")
    """The slow lane."""

    agents: tuple[AgentSettings, ...] = ()
    """The first that matches a client counts."""


class ServiceSettings(Section):
    drain_timeout: Annotated[float, Field(ge=1, le=31_536_000)] | None = None
    """Seconds that a process which leaves lets transfers go on; default: as long as they take."""

    runtime_dir: Path | None = None
    """Where `bootserve upgrade` finds the server's control socket. See `bootserve.runtime` for the
    default. In a TOML file relative to the file."""

    @field_validator("runtime_dir", mode="before")
    @classmethod
    def _is_named(cls, value: object) -> object:
        if value == "":
            raise ValueError("is empty; name a directory, or leave it out")
        return value


class StatusSettings(Section):
    public: bool = False
    """Tell everybody who reaches the HTTP door what is in flight: ``GET /transfers.json``."""


class LogSettings(Section):
    level: Literal["info", "warning", "error"] = "info"

    format: Literal["auto", "text", "journal", "json"] = "auto"
    """How lines go out: as text for people, to systemd's journal with fields, or as JSON, an object
    for each line, to standard error. "auto": to the journal, if systemd has connected standard
    error with it; else as text."""
