from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootserve.watch.ledger import End, Ledger, Transfer
from bootserve.watch.restarts import Restarts

MAC = "52:54:00:12:34:56"
FILE = "x86_64/initramfs"


class _Watched:
    """A ledger with a clock of ours, and what was done about the loops that it has reported."""

    def __init__(self, capacity: int = 4096) -> None:
        self.now = 1000.0
        self.remedied: list[str] = []
        self.restarts = Restarts(self._remedy, capacity=capacity, clock=lambda: self.now)
        self.ledger = Ledger(lambda: self.now, observers=(self.restarts,))

    def _remedy(self, _: Transfer, name: str) -> str:
        self.remedied.append(name)
        return "; do something"

    def begin(
        self,
        name: str = FILE,
        *,
        machine: str | None = MAC,
        client: str = "192.0.2.9",
        from_zero: bool = True,
        protocol: str = "HTTP",
    ) -> Transfer:
        return self.ledger.open(
            protocol=protocol,
            client=client,
            machine=machine,
            name=name,
            total=52428800,
            from_zero=from_zero,
        )

    def fail(self, sent: int = 0, end: End = End.CLIENT_LEFT, **what: object) -> None:
        transfer = self.begin(**what)  # type: ignore[arg-type]
        transfer.sent = sent
        transfer.close(end)


def _loops(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [message for message in caplog.messages if message.startswith("restart loop")]


def test_the_third_beginning_after_two_failures_is_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watched = _Watched()
    watched.fail(1048576, End.CLIENT_SILENT)
    watched.fail(2097152)
    assert _loops(caplog) == []
    watched.begin()
    assert _loops(caplog) == [
        "restart loop: 52:54:00:12:34:56 begins x86_64/initramfs from zero for the 3rd time in this"
        " boot; it stopped at 1048576 and 2097152 of 52428800 bytes, the last time: client closed"
        " the connection; do something"
    ]
    assert watched.restarts.loops == 1
    assert watched.remedied == [MAC]
    record = next(r for r in caplog.records if r.getMessage().startswith("restart loop"))
    assert record.levelno == logging.WARNING


def test_what_the_kernel_said_of_the_client_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    watched = _Watched()
    watched.fail()
    transfer = watched.begin()
    transfer.verdict = "paused"
    transfer.close(End.CLIENT_LEFT)
    watched.begin()
    assert "the last time: client closed the connection while paused;" in _loops(caplog)[0]


@pytest.mark.parametrize("end", [end for end in End if end.is_normal])
def test_what_healthy_machines_do_is_no_failure(caplog: pytest.LogCaptureFixture, end: End) -> None:
    watched = _Watched()
    for _ in range(5):
        watched.fail(end=end)
    assert _loops(caplog) == []


@pytest.mark.parametrize("end", [end for end in End if end.is_ours])
def test_what_the_server_broke_off_is_no_machine_in_a_loop(
    caplog: pytest.LogCaptureFixture, end: End
) -> None:
    watched = _Watched()
    for _ in range(5):
        watched.fail(end=end)
    assert _loops(caplog) == []


@pytest.mark.parametrize("end", [End.COMPLETE, End.UNCONFIRMED])
def test_getting_the_file_ends_the_loop(caplog: pytest.LogCaptureFixture, end: End) -> None:
    watched = _Watched()
    watched.fail()
    watched.fail()
    watched.begin("x86_64/vmlinuz").close(End.COMPLETE)
    watched.begin().close(end)
    assert len(_loops(caplog)) == 1
    watched.fail()
    watched.fail()
    assert len(_loops(caplog)) == 1
    watched.begin()
    assert len(_loops(caplog)) == 2
    assert watched.restarts.loops == 2


@pytest.mark.parametrize(("machine", "name"), [(MAC, MAC), (None, "192.0.2.9")])
def test_another_boot_begins_anew(
    caplog: pytest.LogCaptureFixture, machine: str | None, name: str
) -> None:
    watched = _Watched()
    for _ in range(4):
        watched.fail(machine=machine)
        watched.fail(machine=machine)
        watched.now += 1
        watched.ledger.boots(name)
    assert _loops(caplog) == []


def test_an_end_that_is_noticed_after_the_next_boot_has_begun_belongs_to_the_last(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watched = _Watched()
    switched_off = [watched.begin(), watched.begin()]
    watched.now += 60
    watched.ledger.boots(MAC)
    for transfer in switched_off:
        transfer.close(End.CLIENT_LEFT)
    watched.fail()
    assert _loops(caplog) == []
    watched.fail()
    watched.begin()
    assert len(_loops(caplog)) == 1


def test_machines_files_and_ranges_are_told_apart(caplog: pytest.LogCaptureFixture) -> None:
    watched = _Watched()
    watched.fail()
    watched.fail(name="x86_64/vmlinuz")
    watched.fail(machine="52:54:00:00:00:01")
    watched.fail(machine=None)
    watched.fail(machine=None, client="192.0.2.10")
    for _ in range(5):
        watched.fail(name=f"{FILE}[5-9]", from_zero=False)
    watched.begin()
    watched.begin(name=f"{FILE}[5-9]")
    assert _loops(caplog) == []


def test_a_machine_without_a_name_is_known_by_its_address(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watched = _Watched()
    for _ in range(3):
        watched.fail(machine=None, protocol="TFTP")
    assert _loops(caplog)[0].startswith(f"restart loop: 192.0.2.9 begins {FILE} from zero")


def test_a_loop_that_runs_all_night_does_not_fill_the_disk(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watched = _Watched()
    for number in range(1000):
        watched.now += 30
        watched.fail(number)
    found = _loops(caplog)
    times = [message.split("for the ")[1].split(" time")[0] for message in found]
    assert times == ["3rd", "4th", "8th", "16th", "32nd", "64th", "128th", "256th", "512th"]
    assert " stopped at 0, 1 and 2 of " in found[1]
    assert " stopped at ..., 507, 508, 509 and 510 of " in found[-1]
    assert watched.restarts.loops == 1


def test_many_loops_at_once_are_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    watched = _Watched()
    for number in range(1000):
        for _ in range(3):
            watched.fail(machine=f"m{number}")
    assert 10 <= len(_loops(caplog)) <= 100
    assert watched.restarts.loops == 1000
    assert len(watched.remedied) == 1000


def test_the_machine_that_failed_longest_ago_is_forgotten_first(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watched = _Watched(capacity=2)
    for _ in range(2):
        watched.fail(machine="one")
    for name in ("two", "three"):
        watched.fail(machine=name)
    watched.begin(machine="one")
    assert _loops(caplog) == []
    watched.fail(machine="three")
    watched.begin(machine="three")
    assert len(_loops(caplog)) == 1


def test_nothing_from_the_network_forges_a_line(caplog: pytest.LogCaptureFixture) -> None:
    watched = _Watched()
    for _ in range(3):
        watched.fail(machine='x" begins\ny', name='a b"\x1b')
    assert r'restart loop: "x\" begins\ny" begins "a b\"\x1b" from zero' in _loops(caplog)[0]


def test_attempts_that_hang_in_flight_count(caplog: pytest.LogCaptureFixture) -> None:
    watched = _Watched()
    for number, verdict in enumerate(("silent", "paused", "silent"), 1):
        transfer = watched.begin()
        transfer.meter = lambda number=number: number * 1000
        transfer.verdict = verdict
    assert _loops(caplog) == [
        "restart loop: 52:54:00:12:34:56 begins x86_64/initramfs from zero for the 3rd time in this"
        " boot; it stopped at 1000 and 2000 of 52428800 bytes, the last time: still open, and"
        " paused; do something"
    ]
    watched.begin()
    assert " for the 4th time " in _loops(caplog)[1]
    assert " stopped at 1000, 2000 and 3000 of " in _loops(caplog)[1]
    assert watched.restarts.loops == 1


def test_an_attempt_counts_once_whether_it_hangs_or_has_ended(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watched = _Watched()
    watched.fail(7)
    hung = watched.begin()
    hung.sent = 9
    hung.verdict = "silent"
    watched.begin().verdict = "moving"
    assert " for the 3rd time " in _loops(caplog)[0]
    assert " stopped at 7 and 9 of " in _loops(caplog)[0]
    hung.close(End.CLIENT_SILENT)
    watched.begin()
    assert len(_loops(caplog)) == 1


@pytest.mark.parametrize("verdict", ["", "idle", "moving", "slow", "starved"])
def test_downloads_side_by_side_are_no_loop(caplog: pytest.LogCaptureFixture, verdict: str) -> None:
    watched = _Watched()
    for _ in range(9):
        watched.begin().verdict = verdict
    assert _loops(caplog) == []


def test_attempts_of_another_boot_machine_file_or_range_do_not_count_while_they_hang(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watched = _Watched()
    for what in (
        {},
        {"name": "x86_64/vmlinuz"},
        {"machine": None},
        {"from_zero": False, "name": f"{FILE}[5-9]"},
    ):
        for _ in range(2):
            watched.begin(**what).verdict = "silent"
        watched.ledger.boots(MAC)
    watched.begin()
    watched.begin(name=f"{FILE}[5-9]", from_zero=False)
    assert _loops(caplog) == []


def test_what_hung_before_the_file_was_got_begins_no_other_loop(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watched = _Watched()
    hung = [watched.begin(), watched.begin()]
    watched.begin().close(End.COMPLETE)
    for transfer in hung:
        transfer.close(End.CLIENT_SILENT)
    watched.begin()
    assert _loops(caplog) == []


@pytest.mark.parametrize(("pause", "expected"), [(3600, 1), (3601, 0), (30 * 86400, 0)])
def test_failures_of_long_ago_are_of_another_boot(
    caplog: pytest.LogCaptureFixture, pause: float, expected: int
) -> None:
    watched = _Watched()
    transfer = watched.begin(machine=None)
    watched.fail(machine=None)
    watched.now += 7200  # the first takes its time
    transfer.close(End.CLIENT_LEFT)
    watched.now += pause
    watched.fail(machine=None)
    assert len(_loops(caplog)) == expected
    watched.fail(machine=None)
    assert len(_loops(caplog)) == 2 * expected
    watched.begin(machine=None)
    assert len(_loops(caplog)) == 1 + expected


_steps = st.lists(
    st.tuples(
        st.sampled_from(["m", "n"]),
        st.sampled_from(["a", "b"]),
        st.sampled_from([End.CLIENT_LEFT, End.CLIENT_ERROR, End.COMPLETE, End.REPLACED, None]),
    ),
    max_size=40,
)


@given(_steps)
def test_a_loop_is_the_third_beginning_since_the_boot_and_since_the_file_was_got(
    steps: list[tuple[str, str, End | None]],
) -> None:
    watched = _Watched()
    failures: dict[tuple[str, str], int] = {}
    reported: set[tuple[str, str]] = set()
    expected = 0
    for machine, file, end in steps:
        watched.now += 1
        key = (machine, file)
        if end is None:
            watched.ledger.boots(machine)
            for other in [other for other in failures if other[0] == machine]:
                del failures[other]
            reported = {other for other in reported if other[0] != machine}
            continue
        transfer = watched.begin(file, machine=machine)
        if failures.get(key, 0) == 2 and key not in reported:
            reported.add(key)
            expected += 1
        assert watched.restarts.loops == expected
        transfer.close(end)
        if end is End.COMPLETE:
            failures.pop(key, None)
            reported.discard(key)
        elif not end.is_normal:
            failures[key] = failures.get(key, 0) + 1
