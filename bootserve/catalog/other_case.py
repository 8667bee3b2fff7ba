"""A file whose name a client writes in another case.

What is found is a name, and it is opened as every name is (`opening.find_below`): no rule about
what may be served is any different here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

from bootserve.catalog.assets import Asset, AssetForbidden, AssetNotFound, Assets, AssetUnavailable
from bootserve.catalog.opening import split_name
from bootserve.catalog.roots import TEMPORARY

_MOST_FOLDERS: Final = 256
_MOST_ENTRIES: Final = 65536
"""Folders that one request may have listed, and entries of each that are looked at."""


def open_in_other_case(assets: Assets, name: str) -> Asset:
    """Open the file whose name differs from ``name`` only in the case of letters.

    Where several do, part by part the name as it is written goes first, then the others in sorted
    order; and a root is searched before the next one. Lists folders: not for the event loop.

    Raises:
        AssetNotFound, AssetForbidden, AssetUnavailable: as `Assets.open_now`.
    """
    parts = split_name(name)
    refusal: AssetForbidden | None = None
    for candidate in _candidates(assets, name, parts) if parts else ():
        try:
            return assets.open_now(candidate)
        except AssetForbidden as error:
            refusal = refusal or error
        except AssetNotFound:
            continue
    raise refusal or AssetNotFound(name, "no such file below the asset roots, in any case")


def _candidates(assets: Assets, name: str, parts: Sequence[str]) -> Iterator[str]:
    wanted = [parts]
    if parts[0].casefold() == "boot" and len(parts) > 1:
        wanted.append(parts[1:])
    try:
        for choice in wanted:
            allowance = iter(range(_MOST_FOLDERS))
            for root in assets.roots:
                yield from _alike(root, root, "", choice, allowance)
            in_one = "/".join(choice).casefold()
            yield from (extra for extra in assets.extras if extra.casefold() == in_one)
    except OSError as error:
        raise AssetUnavailable(name, error.strerror or "cannot be looked for") from error


def _alike(
    root: Path, folder: Path, prefix: str, parts: Sequence[str], allowance: Iterator[int]
) -> Iterator[str]:
    """Yield the names below ``folder``, from the root on, that are like ``parts``."""
    if next(allowance, None) is None or not folder.resolve().is_relative_to(root.resolve()):
        return
    wanted, *rest = parts
    folded = wanted.casefold()
    try:
        with os.scandir(folder) as entries:
            names = [
                entry.name
                for entry in islice(entries, _MOST_ENTRIES)
                if entry.name.casefold() == folded
            ]
    except OSError as error:
        if error.errno in TEMPORARY:
            raise
        return
    for name in sorted(names, key=lambda name: (name != wanted, name)):
        if rest:
            yield from _alike(root, folder / name, f"{prefix}{name}/", rest, allowance)
        else:
            yield prefix + name
