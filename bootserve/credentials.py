"""Secrets that a command line or script names, and that a service manager hands over in files.

``{credential:NAME}`` stands for what the file NAME in ``$CREDENTIALS_DIRECTORY`` holds, without the
line break at its end: systemd's LoadCredential= (systemd.exec(5)). The configuration can then be
read by more people than its secrets.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

VARIABLE: Final = "CREDENTIALS_DIRECTORY"

_REFERENCE: Final = re.compile(r"(\$?)\{credential:([^{}]*)\}")
_NAME: Final = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._@:-]{1,255}")
_KEYS: Final = ("cmdline", "script")


class _Unusable(Exception):
    """A reference cannot be filled in; ``str()`` never holds the credential's value."""


def are_handed_over(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether there are credentials: by hand, outside of the service, there mostly are none."""
    return bool(environ.get(VARIABLE))


def fill_in(tree: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> list[str]:
    """Replace references in the command lines and scripts of a configuration as it was read.

    Returns a sentence, beginning with its key, for each that cannot be replaced.
    """
    problems: list[str] = []
    profiles, machines = tree.get("profiles"), tree.get("machines")
    owners: list[tuple[str, Any]] = []
    if isinstance(profiles, dict):
        owners += [(f"profiles.{name}", owner) for name, owner in profiles.items()]
    if isinstance(machines, list):
        owners += [(f"machines[{index}]", owner) for index, owner in enumerate(machines)]
    for where, owner in owners:
        for key in _KEYS if isinstance(owner, dict) else ():
            _fill_in(owner, key, f"{where}.{key}", environ, problems)
    return problems


def _fill_in(
    table: dict[str, Any], key: str, where: str, environ: Mapping[str, str], problems: list[str]
) -> None:
    value = table.get(key)
    if isinstance(value, dict):  # by architecture
        for arch in value:
            _fill_in(value, arch, f"{where}.{arch}", environ, problems)
    elif isinstance(value, str):
        try:
            table[key] = _REFERENCE.sub(lambda match: _value(match[1], match[2], environ), value)
        except _Unusable as error:
            problems.append(f"{where}: {error}")


def _value(dollar: str, name: str, environ: Mapping[str, str]) -> str:
    if dollar:
        raise _Unusable(
            f"${{credential:{name}}} is no setting of iPXE's; without the $ it is a credential"
        )
    if not _NAME.fullmatch(name):
        raise _Unusable(
            f"{name!r} is not the name of a credential: letters, digits and . _ - @ : only"
        )
    directory = environ.get(VARIABLE)
    if not directory:
        raise _Unusable(
            f"names the credential {name!r}, and no credentials were handed over"
            f" (${VARIABLE} is not set); systemd's LoadCredential= does it, and to try it by hand"
            " set the variable to a directory with a file of this name, which is"
            " /run/credentials/bootserve.service as long as the service runs"
        )
    try:
        text = (Path(directory) / name).read_text(encoding="utf-8").removesuffix("\n")
    except FileNotFoundError:
        raise _Unusable(
            f"there is no credential {name!r} in {directory}; with systemd's unit, put it into"
            " /etc/bootserve/secrets (the file x is secret_x) or name it with LoadCredential=, then"
            " restart: a reload keeps the old ones"
        ) from None
    except OSError as error:
        raise _Unusable(f"the credential {name!r} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise _Unusable(f"the credential {name!r} is not text (UTF-8)") from None
    if "${" in text or "{arch}" in text:
        raise _Unusable(
            f"the credential {name!r} has ${{ or {{arch}} in it, which would be replaced once more;"
            " choose another value"
        )
    return text
