"""What a client is doing, in words for an operator: one place for all who show it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from bootserve.watch.liveness import Verdict

WORDS: Final[Mapping[Verdict, str]] = {
    Verdict.IDLE: "idle",
    Verdict.MOVING: "moving",
    Verdict.SLOW: "slow but alive",
    Verdict.PAUSED: "paused",
    Verdict.STARVED: "awaiting disk",
    Verdict.SILENT: "not answering",
    Verdict.GONE: "given up",
}

ATTENTION: Final = (Verdict.GONE, Verdict.SILENT, Verdict.PAUSED, Verdict.STARVED, Verdict.SLOW)
"""What a person should look at first, the worst at the front. The rest is as it should be."""

NOT_LOOKED_AT: Final = "starting"


def in_words(verdict: str | None) -> str:
    """Say what a client is doing: it is ..., or three clients are ...; 14 characters at most.

    Args:
        verdict: a value of `Verdict`, ``None`` before the first look. One that is not known, from
            a process of another version, is returned as it is.
    """
    if not verdict:
        return NOT_LOOKED_AT
    try:
        return WORDS[Verdict(verdict)]
    except ValueError:
        return verdict
