"""Lanes: how fast, and with how much on its way at once, a client is sent files over HTTP.

Some network cards and firmware hang on a fast link with large windows. A lane is what such a client
is given instead. Each of its two values comes from the most specific source that sets it: the
machine's entry, its profile, its User-Agent, the door's default. "off" is a value too: it lifts
what a less specific source has set.

The slow lane stands beside them. It holds a machine that was moved there to less, never to more,
and leaves alone what the machine's own entry sets: whoever wrote that knew the machine.
"""

from __future__ import annotations

import fnmatch
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from bootserve.catalog.limits import OFF, describe_pace, describe_window
from bootserve.catalog.machines import Sighting
from bootserve.catalog.memo import Memo

_REMEMBERED = 1024
_LONGEST_AGENT = 256
"""User-Agents that are remembered with what they match, and characters of each that count."""


@dataclass(frozen=True, slots=True)
class Lane:
    """What a client is held to. One object is shared by all who are held to the same."""

    pace: int | None = None
    """Bytes per second; ``None`` is as fast as it goes."""

    window: int | None = None
    """Bytes on their way at once, those included that wait in the kernel; ``None`` leaves them to
    the kernel."""

    def __str__(self) -> str:
        return f"{describe_pace(self.pace)}, {describe_window(self.window)}"


UNLIMITED: Final = Lane()
"""What a connection is held to on which nothing was set."""


class Limits(Protocol):
    """What a source says of a lane: ``None`` where it says nothing."""

    @property
    def pace(self) -> int | None: ...

    @property
    def window(self) -> int | None: ...


class AgentLimits(Limits, Protocol):
    @property
    def user_agent(self) -> str:
        """A glob, compared without regard to case."""


class Lanes:
    """Finds the lane of a client, and remembers who was moved to the slow one.

    Args:
        default: of the door.
        slow: of machines that were moved there.
        profiles: by their names.
        agents: the first that matches a client's User-Agent counts.
        capacity: machines in the slow lane. Whoever was moved there first leaves it first.
    """

    def __init__(
        self,
        *,
        default: Limits,
        slow: Limits,
        profiles: Mapping[str, Limits],
        agents: Sequence[AgentLimits] = (),
        capacity: int = 4096,
    ) -> None:
        self._slow = _lane((slow,))
        self._default = default
        self._profiles = {
            name: profile for name, profile in profiles.items() if _says_something(profile)
        }
        self._agents = [
            (re.compile(fnmatch.translate(agent.user_agent), re.IGNORECASE), agent)
            for agent in agents
        ]
        self._capacity = capacity
        self._slowed: OrderedDict[str, None] = OrderedDict()
        self._matches = Memo[str, AgentLimits | None](_REMEMBERED)
        self._shared = {UNLIMITED: UNLIMITED}
        self._default_lane = self._share(_lane((default,)))

    @property
    def minds_agents(self) -> bool:
        """Whether a client's User-Agent makes any difference."""
        return bool(self._agents)

    def choose(self, seen: Sighting | None, address: str, agent: str | None = None) -> Lane:
        """Return the lane of a client.

        Args:
            seen: the machine that was last seen at its address.
            agent: its User-Agent.
        """
        lane = self.choose_unslowed(seen, agent)
        if not self._slowed or name_of(seen, address) not in self._slowed:
            return lane
        own: Limits = UNLIMITED if seen is None or seen.machine is None else seen.machine
        return self._share(
            Lane(
                lane.pace if own.pace is not None else _stricter(lane.pace, self._slow.pace),
                lane.window
                if own.window is not None
                else _stricter(lane.window, self._slow.window),
            )
        )

    def choose_unslowed(self, seen: Sighting | None, agent: str | None = None) -> Lane:
        """Return what would be the lane of a client if it were not in the slow one."""
        sources: list[Limits] = []
        if seen is not None and seen.machine is not None and _says_something(seen.machine):
            sources.append(seen.machine)
        if self._profiles and seen is not None and seen.profile in self._profiles:
            sources.append(self._profiles[seen.profile])
        if self._agents and agent:
            matching = self._matching(agent[:_LONGEST_AGENT])
            if matching is not None:
                sources.append(matching)
        if not sources:
            return self._default_lane
        return self._share(_lane((*sources, self._default)))

    def slow_down(self, name: str) -> bool:
        """Move a machine to the slow lane, by its `name_of`; return whether that is news.

        Transfers that are under way go on as they are.
        """
        is_news = name not in self._slowed
        self._slowed[name] = None
        if len(self._slowed) > self._capacity:
            self._slowed.popitem(last=False)
        return is_news

    def slowed(self) -> list[str]:
        """Return the machines in the slow lane, in the order in which they were moved there."""
        return list(self._slowed)

    def introduce(self, address: str, label: str) -> None:
        """Whoever is at this address has said its name, and is known by that from now on."""
        if address in self._slowed:
            del self._slowed[address]
            self.slow_down(label)

    def _matching(self, agent: str) -> AgentLimits | None:
        return self._matches.get(
            agent,
            lambda: next((found for glob, found in self._agents if glob.match(agent)), None),
        )

    def _share(self, lane: Lane) -> Lane:
        # As many as the configuration has combinations of.
        return self._shared.setdefault(lane, lane)


def name_of(seen: Sighting | None, address: str) -> str:
    """Return what a client is known by: its machine's label, or else its address."""
    return (seen.label if seen is not None else None) or address


def _says_something(limits: Limits) -> bool:
    return limits.pace is not None or limits.window is not None


def _stricter(one: int | None, other: int | None) -> int | None:
    return min(one, other) if one is not None and other is not None else one or other


def _lane(sources: Sequence[Limits]) -> Lane:
    """What the first source that says anything says, for each value by itself."""
    pace = next((source.pace for source in sources if source.pace is not None), OFF)
    window = next((source.window for source in sources if source.window is not None), OFF)
    return Lane(pace or None, window or None)
