"""A rack that asks together is answered together, and never with what was there before it asked."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bootserve.catalog.catalog import Catalog
from bootserve.catalog.discovery import Discovery
from bootserve.catalog.model import Arch
from bootserve.catalog.profiles import Found
from bootserve.settings import load

DEADLINE = 60


class _Walks:
    """Walks that each wait until the test lets them go, and find their own number."""

    def __init__(self, *, fails: Sequence[int] = ()) -> None:
        self._condition = threading.Condition()
        self._allowed = 0
        self._running = 0
        self._fails = fails
        self.begun = 0
        self.most_at_once = 0

    def look(self) -> Sequence[Found]:
        with self._condition:
            self.begun += 1
            number = self.begun
            self._running += 1
            self.most_at_once = max(self.most_at_once, self._running)
            self._condition.notify_all()
            try:
                assert self._condition.wait_for(lambda: self._allowed >= number, DEADLINE)
            finally:
                self._running -= 1
        if number in self._fails:
            raise PermissionError(f"walk {number}")
        return (Found(str(number), Arch.X86_64, None),)

    def allow(self, number: int) -> None:
        with self._condition:
            self._allowed = number
            self._condition.notify_all()

    async def wait_for(self, number: int) -> None:
        """Until the walk of that number is under way, and everybody who asked waits."""

        def wait() -> None:
            with self._condition:
                assert self._condition.wait_for(lambda: self.begun >= number, DEADLINE)

        await asyncio.get_running_loop().run_in_executor(None, wait)
        await anyio.wait_all_tasks_blocked()


def _number(found: Sequence[Found]) -> int:
    [only] = found
    return int(only.name)


async def _ask(discovery: Discovery) -> int:
    with anyio.fail_after(DEADLINE):
        return _number(await discovery.now())


async def test_who_comes_during_a_walk_gets_the_next_together() -> None:
    walks = _Walks()
    discovery = Discovery(walks.look)
    first = asyncio.create_task(_ask(discovery))
    await walks.wait_for(1)
    others = [asyncio.create_task(_ask(discovery)) for _ in range(20)]
    await anyio.wait_all_tasks_blocked()
    assert walks.begun == 1
    walks.allow(1)
    assert await first == 1
    await walks.wait_for(2)
    late = [asyncio.create_task(_ask(discovery)) for _ in range(20)]
    await anyio.wait_all_tasks_blocked()
    walks.allow(3)
    assert await asyncio.gather(*others) == [2] * 20
    assert await asyncio.gather(*late) == [3] * 20
    assert (walks.begun, walks.most_at_once) == (3, 1)


async def test_who_comes_after_a_walk_gets_one_of_his_own() -> None:
    walks = _Walks()
    walks.allow(1000)
    discovery = Discovery(walks.look)
    assert [await _ask(discovery) for _ in range(5)] == [1, 2, 3, 4, 5]


@settings(max_examples=30, deadline=None)
@given(
    burst=st.lists(st.integers(0, 3), min_size=1, max_size=40),
    fails=st.sets(st.integers(1, 6)),
    cancelled=st.sets(st.integers(0, 39), max_size=5),
)
@example(burst=[0] * 40, fails={1, 2, 3}, cancelled=set())
def test_nobody_is_told_what_was_before_he_asked(
    burst: list[int], fails: set[int], cancelled: set[int]
) -> None:
    """Whatever fails, whoever leaves: a walk that began before a call is not its answer."""
    walks = _Walks(fails=tuple(fails))
    walks.allow(1000)
    discovery = Discovery(walks.look)

    async def ask(delay: int) -> None:
        for _ in range(delay):
            await anyio.lowlevel.checkpoint()
        begun_before = walks.begun
        try:
            assert await _ask(discovery) > begun_before
        except PermissionError:
            assert fails

    async def run() -> None:
        tasks = [asyncio.create_task(ask(delay)) for delay in burst]
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
        for index in cancelled & set(range(len(tasks))):
            tasks[index].cancel()
        for done in await asyncio.gather(*tasks, return_exceptions=True):
            assert done is None or isinstance(done, asyncio.CancelledError)
        if not cancelled:
            assert walks.most_at_once == 1
            assert walks.begun <= len(burst)

    asyncio.run(run())


async def test_what_is_put_into_a_root_is_there_at_once(tmp_path: Path) -> None:
    catalog = Catalog(load(None, {"assets": {"roots": [tmp_path]}}))
    (tmp_path / "x86_64").mkdir()

    async def put_and_look(number: int) -> None:
        for _ in range(number % 7):
            await anyio.lowlevel.checkpoint()
        (tmp_path / f"x86_64/tool{number}.ipxe").touch()
        found = await catalog.discovery.now()
        assert f"x86_64/tool{number}.ipxe" in {entry.name for entry in found}
        (tmp_path / f"x86_64/tool{number}.ipxe").unlink()
        found = await catalog.discovery.now()
        assert f"x86_64/tool{number}.ipxe" not in {entry.name for entry in found}

    await asyncio.gather(*(put_and_look(number) for number in range(40)))


async def test_an_error_is_told_to_all_whom_the_walk_was_for_and_the_next_look_anew() -> None:
    """On a medium that takes long to fail, the last of a rack must not wait for all before it."""
    walks = _Walks(fails=(1, 2))
    discovery = Discovery(walks.look)
    first = asyncio.create_task(_ask(discovery))
    await walks.wait_for(1)
    others = [asyncio.create_task(_ask(discovery)) for _ in range(4)]
    await anyio.wait_all_tasks_blocked()
    walks.allow(1000)
    with pytest.raises(PermissionError, match="walk 1"):
        await first
    for other in others:
        with pytest.raises(PermissionError, match="walk 2"):
            await other
    assert await _ask(discovery) == 3
    assert walks.most_at_once == 1


async def test_who_leaves_while_he_waits_takes_nothing_with_him() -> None:
    walks = _Walks()
    discovery = Discovery(walks.look)
    first = asyncio.create_task(_ask(discovery))
    await walks.wait_for(1)
    leaver = asyncio.create_task(_ask(discovery))
    await anyio.wait_all_tasks_blocked()
    other = asyncio.create_task(_ask(discovery))
    await anyio.wait_all_tasks_blocked()
    leaver.cancel()
    await asyncio.wait([leaver])
    assert leaver.cancelled()
    walks.allow(1000)
    assert (await first, await other) == (1, 2)
    assert await _ask(discovery) == 3


async def test_who_leaves_during_his_walk_holds_nobody_up() -> None:
    walks = _Walks()
    discovery = Discovery(walks.look)
    leaver = asyncio.create_task(_ask(discovery))
    await walks.wait_for(1)
    other = asyncio.create_task(_ask(discovery))
    await anyio.wait_all_tasks_blocked()
    leaver.cancel()
    await asyncio.wait([leaver])
    assert leaver.cancelled()
    # The disk of the first walk still hangs. When it is back, its result is nobody's.
    await walks.wait_for(2)
    walks.allow(2)
    assert await other == 2
    walks.allow(1000)
    assert await _ask(discovery) == 3
