"""Profiles and machines, as an operator configures them."""

from __future__ import annotations

import re
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from bootserve.catalog.limits import Pace, Window
from bootserve.catalog.model import (
    Arch,
    CommandLine,
    Hostname,
    Mac,
    OneOrMany,
    ProfileName,
    Serial,
    Uuid,
    is_placeholder,
)


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Profile(Section):
    """What a machine boots: a kernel with its initrds and command line, or a script as it is.

    ``{arch}`` in a name or command line stands for the architecture; a table by architecture
    serves where the names differ by more than that.
    """

    title: str | None = None
    architectures: Annotated[tuple[Arch, ...], Field(min_length=1)] | None = None
    kernel: str | dict[Arch, str] | None = None
    initrds: OneOrMany[str] | dict[Arch, OneOrMany[str]] = ()
    cmdline: CommandLine | dict[Arch, CommandLine] = ""
    script: str | None = None
    pace: Pace | None = None
    window: Window | None = None
    """The lane of machines that boot this, see `catalog.lanes`."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.kernel is None) == (self.script is None):
            raise ValueError("needs either `kernel` or `script`, and not both")
        if self.script is not None:
            if self.initrds or self.cmdline:
                raise ValueError("`initrds` and `cmdline` belong to `kernel`, not to `script`")
            if not re.match(r"#!ipxe(\s|$)", self.script) or "\0" in self.script:
                raise ValueError("`script` must be text that begins with a line `#!ipxe`")
        elif not self.arches():
            raise ValueError(
                "cannot tell its architecture: set `architectures`, for example"
                ' architectures = ["x86_64"]'
            )
        for key in ("kernel", "initrds", "cmdline"):
            table = getattr(self, key)
            if isinstance(table, dict):
                missing = [arch.value for arch in self.arches() if arch not in table]
                if missing:
                    raise ValueError(f"`{key}` has no entry for {', '.join(missing)}")
        return self

    def arches(self) -> tuple[Arch, ...]:
        """The architectures this profile can boot; for a raw script those it names, or all."""
        if self.architectures is not None:
            return self.architectures
        if self.script is not None:
            return tuple(Arch)
        if isinstance(self.kernel, dict):
            return tuple(self.kernel)
        folder = (self.kernel or "").strip("/").removeprefix("boot/").split("/")[0]
        return (Arch(folder),) if folder in tuple(Arch) else ()


class Machine(Section):
    """One machine, or a group of machines that boot alike."""

    name: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    mac: OneOrMany[Mac] = ()
    uuid: OneOrMany[Uuid] = ()
    serial: OneOrMany[Serial] = ()
    hostname: OneOrMany[Hostname] = ()
    profile: ProfileName
    cmdline: CommandLine = ""
    """Appended to the profile's command line."""

    pace: Pace | None = None
    window: Window | None = None
    """The machine's lane, see `catalog.lanes`."""

    @model_validator(mode="after")
    def _someone(self) -> Self:
        if not (self.mac or self.uuid or self.serial or self.hostname):
            raise ValueError("names no machine: give it a `mac`, `uuid`, `serial` or `hostname`")
        for value in (*self.mac, *self.uuid, *self.serial, *self.hostname):
            if is_placeholder(value):
                raise ValueError(
                    f"{value!r} is what boards without an identity say, and would match any of"
                    " them; name the machine by something of its own"
                )
        return self
