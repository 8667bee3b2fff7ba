"""Whether a configuration's assets are there and can be read: what `bootserve check` asks."""

from __future__ import annotations

import os
from collections.abc import Iterator

from bootserve.catalog.assets import AssetForbidden, AssetNotFound, AssetUnavailable
from bootserve.catalog.catalog import Catalog
from bootserve.catalog.model import Arch
from bootserve.catalog.profiles import discover, kernels
from bootserve.catalog.roots import root_problem
from bootserve.settings import Settings


def asset_problems(settings: Settings, catalog: Catalog) -> Iterator[str]:
    """Yield a sentence, with its key and a remedy, for everything that would fail at boot time."""
    are_roots_sound = True
    for root in settings.assets.roots:
        problem = root_problem(root)
        if problem:
            are_roots_sound = False
            yield f"assets.roots: {root} {problem}"
        for arch in Arch:
            problem = root_problem(root / arch)
            if problem and os.access(root / arch, os.F_OK):
                yield f"assets.roots: {root / arch} {problem}"
    profiles = settings.profiles
    if not profiles and are_roots_sound:
        profiles = {item.name: item.profile for item in discover(catalog.assets) if item.profile}
    for name, profile in profiles.items():
        for entry in kernels(profile):
            for key, asset in (
                ("kernel", entry.kernel),
                *((f"initrds[{index}]", initrd) for index, initrd in enumerate(entry.initrds)),
            ):
                problem = _problem(catalog, asset)
                if problem:
                    where = f"profiles.{name}.{key}" if settings.profiles else f"menu entry {name}"
                    yield f"{where} ({entry.arch}): {problem}"


def _problem(catalog: Catalog, asset: str) -> str | None:
    try:
        with catalog.assets.open_now(asset) as opened:
            if opened.size == 0:
                return f"{asset} is empty; copy it again"
    except AssetNotFound:
        roots = ", ".join(str(root) for root in catalog.assets.roots)
        return f"{asset} is missing; put it below {roots} or correct the name"
    except (AssetForbidden, AssetUnavailable) as error:
        return f"{asset} {error.reason}"
    return None
