"""What a process knows of the machines, as its successor is told.

Whoever asks for a script says its name, and from then on its downloads are known by its address
alone. A machine that is in mid-boot during an upgrade must not become a stranger: it would lose its
lane and its name in the log.

It travels as one JSON object. Machines are told by what they said of themselves, because which
entry and profile that means is the new configuration's business.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Final

from bootserve.catalog.catalog import Catalog
from bootserve.catalog.machines import Identity, Sighting, identify
from bootserve.successor import LONGEST_MEMORY
from bootserve.text import printable

logger = logging.getLogger("bootserve.service")

_FORMAT: Final = 1
"""Counts up when an older bootserve would misread what a newer one writes."""

_LONGEST: Final = 300
"""Characters of an address or a name."""


def snapshot(catalog: Catalog) -> Callable[[], bytes]:
    """Note what is known now; what is returned writes it down, and may do so in a thread."""
    seen, slowed = catalog.sightings.all(), catalog.lanes.slowed()
    return lambda: _encode(seen, slowed)


def recall(catalog: Catalog, data: bytes, *, with_slowed: bool) -> None:
    """Take over what a predecessor knew. What cannot be read is not worth a start that fails.

    Args:
        with_slowed: whether machines that were moved to the slow lane stay there.
    """
    if not data:
        return
    try:
        said = json.loads(data)
        if said["format"] != _FORMAT:
            raise ValueError(f"its format is {said['format']}, not {_FORMAT}")
        seen = [_read(entry) for entry in said["sightings"]]
        slowed = [_text(name) for name in said["slowed"]]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        logger.warning(
            "what the previous process knew of the machines cannot be read (%s); each is known"
            " again when it asks for its script",
            printable(f"{type(error).__name__}: {error}"),
        )
        return
    for address, identity, chosen in seen:
        if identity.label:
            catalog.sightings.note(address, catalog.scripts.sight(identity))
        if chosen:
            catalog.sightings.note_profile(address, chosen)
    for name in slowed if with_slowed else ():
        catalog.lanes.slow_down(name)


def _encode(seen: list[tuple[str, Sighting]], slowed: list[str]) -> bytes:
    while True:
        sightings = [
            (
                address,
                {kind: value for kind, value in asdict(sighting.identity).items() if value},
                sighting.profile if sighting.is_chosen else None,
            )
            for address, sighting in seen
        ]
        said = {"format": _FORMAT, "sightings": sightings, "slowed": slowed}
        data = json.dumps(said, separators=(",", ":")).encode()
        if len(data) <= LONGEST_MEMORY:
            return data
        seen, slowed = seen[len(seen) // 2 + 1 :], slowed[len(slowed) // 2 + 1 :]


def _read(entry: Any) -> tuple[str, Identity, str | None]:
    address, said, chosen = entry
    identity, _ = identify({_text(kind): _text(value) for kind, value in said.items()})
    return _text(address), identity, None if chosen is None else _text(chosen)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST:
        raise ValueError("something is no name")
    return value
