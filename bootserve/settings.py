"""One typed tree of settings: defaults < TOML file < ``BOOTSERVE_*`` environment < flags.

The environment names a key by its section and name: ``BOOTSERVE_HTTP_LISTEN`` is ``http.listen``
(lists are separated by commas). Every error names the key, where its value came from and what
would be right.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from bootserve.catalog.entries import Machine, Profile, Section
from bootserve.catalog.model import ProfileName
from bootserve.config_errors import ENV_PREFIX, ConfigError, did_you_mean, explain
from bootserve.credentials import are_handed_over, fill_in
from bootserve.sections import (
    AgentSettings,
    AssetSettings,
    BootSettings,
    HttpSettings,
    IpxeSettings,
    LaneSettings,
    LogSettings,
    ServiceSettings,
    StatusSettings,
    TftpSettings,
    split_list,
)

CONFIG_VARIABLE = "BOOTSERVE_CONFIG"

_file: ContextVar[Mapping[str, Any] | None] = ContextVar("bootserve_toml", default=None)


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="_",
        env_nested_max_split=1,
        extra="forbid",
        frozen=True,
    )

    http: HttpSettings = HttpSettings()
    tftp: TftpSettings = TftpSettings()
    assets: AssetSettings = AssetSettings()
    ipxe: IpxeSettings = IpxeSettings()
    boot: BootSettings = BootSettings()
    lanes: LaneSettings = LaneSettings()
    log: LogSettings = LogSettings()
    service: ServiceSettings = ServiceSettings()
    status: StatusSettings = StatusSettings()
    profiles: dict[ProfileName, Profile] = {}
    machines: tuple[Machine, ...] = ()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        toml = InitSettingsSource(settings_cls, init_kwargs=dict(_file.get() or {}))
        return init_settings, env_settings, toml

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = []
        for key, name in [
            ("boot.default", self.boot.default),
            *((f"machines[{i}].profile", m.profile) for i, m in enumerate(self.machines)),
        ]:
            if name is not None and name not in self.profiles:
                problems.append(
                    f"{key}: there is no profile {name!r}{did_you_mean(name, self.profiles)}"
                )
        for index, machine in enumerate(self.machines):
            profile = self.profiles.get(machine.profile)
            if machine.cmdline and profile and profile.script is not None:
                problems.append(
                    f"machines[{index}].cmdline: profile {machine.profile!r} is a script as it is"
                    " and takes no command line; remove one of them"
                )
        owner: dict[tuple[str, str], int] = {}
        for index, machine in enumerate(self.machines):
            for kind in ("mac", "uuid", "serial", "hostname"):
                for value in getattr(machine, kind):
                    first = owner.setdefault((kind, value), index)
                    if first != index:
                        problems.append(
                            f"machines[{index}].{kind}: duplicate machine, {value} is already in"
                            f" machines[{first}]; keep one of them"
                        )
        if problems:
            raise ValueError("\n".join(problems))
        return self


def config_file(config: Path | None) -> Path | None:
    """Return the TOML file that is read: the one given, or that ``BOOTSERVE_CONFIG`` names."""
    named = os.environ.get(CONFIG_VARIABLE)
    return config or (Path(named) if named else None)


def load(
    config: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    *,
    needs_credentials: bool = True,
) -> Settings:
    """Read the settings.

    Args:
        config: a TOML file; default is the one that ``BOOTSERVE_CONFIG`` names, or none.
        flags: a partial tree, the strongest source.
        needs_credentials: whether it is an error that none were handed over; else what names one
            stays as it is written.

    Raises:
        ConfigError: with a sentence for each thing that is wrong.
    """
    config = config_file(config)
    _refuse_whole_sections()
    tree = _read_toml(config) if config else {}
    if (needs_credentials or are_handed_over()) and (problems := fill_in(tree)):
        raise ConfigError([f"{config}: {problem}" for problem in problems])
    token = _file.set(tree)
    try:
        return Settings(**(flags or {}))
    except ValidationError as error:
        raise ConfigError(explain(error, config, flags or {}, _keys_at)) from error
    finally:
        _file.reset(token)


def _refuse_whole_sections() -> None:
    for name in os.environ:
        if re.match(rf"{ENV_PREFIX}((PROFILES|MACHINES)_|LANES_AGENTS$)", name.upper()):
            what = "lanes by User-Agent" if "LANES" in name.upper() else "profiles and machines"
            raise ConfigError([f"{name}: {what} are set in the TOML file, not in the environment"])
        section = name.upper().removeprefix(ENV_PREFIX).lower()
        if name.upper().startswith(ENV_PREFIX) and section in Settings.model_fields:
            raise ConfigError(
                [f"{name}: names a whole section; name one key of it, as in BOOTSERVE_HTTP_LISTEN"]
            )


def unknown_variables(environ: Mapping[str, str] | None = None) -> list[str]:
    """Return a sentence for each ``BOOTSERVE_*`` variable that sets nothing."""
    known = {CONFIG_VARIABLE}
    for section, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            known |= {
                f"{ENV_PREFIX}{section}_{key}".upper() for key in field.annotation.model_fields
            }
    return [
        f"{name}: no such setting{did_you_mean(name, known)}; it is ignored"
        for name in sorted(os.environ if environ is None else environ)
        if name.upper().startswith(ENV_PREFIX) and name.upper() not in known
    ]


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            tree = tomllib.load(file)
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from error
    except RecursionError as error:
        raise ConfigError([f"{path}: is nested too deeply"]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: is not valid TOML: {error}"]) from error
    for section, key in (("assets", "roots"), ("ipxe", "search")):
        table = tree.get(section)
        if isinstance(table, dict) and isinstance(table.get(key), str):
            table[key] = split_list(table[key])
        if isinstance(table, dict) and isinstance(table.get(key), list):
            table[key] = [
                str(path.parent / entry) if isinstance(entry, str) else entry
                for entry in table[key]
            ]
    service = tree.get("service")
    if isinstance(service, dict):
        named = service.get("runtime_dir")
        if isinstance(named, str) and named:
            service["runtime_dir"] = str(path.parent / named)
    return tree


def _keys_at(loc: tuple[int | str, ...]) -> list[str]:
    if not loc:
        return list(Settings.model_fields)
    if loc[0] == "profiles":
        return list(Profile.model_fields)
    if loc[0] == "machines":
        return list(Machine.model_fields)
    if loc[:2] == ("lanes", "agents"):
        return list(AgentSettings.model_fields)
    field = Settings.model_fields.get(str(loc[0]))
    section = field.annotation if field else None
    return (
        list(section.model_fields)
        if isinstance(section, type) and issubclass(section, Section)
        else []
    )
