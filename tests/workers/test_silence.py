"""Whose silence counts, under virtual time."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from schemas.heartbeat import Heartbeat
from workers.silence import Held, Silence

LEASE = 10.0
STEP = 1.0
ME = "supervisor"
HELD = Held("job", 1, "worker")


def beat(id: str, sequence: int, state: str = "busy") -> Heartbeat:
    kind = "supervisor" if id == ME else "worker"
    return Heartbeat(id=id, kind=kind, state=state, sequence=sequence, started_at=0)  # type: ignore[arg-type]


@dataclass
class Watch:
    """A supervisor with a clock of its own, in one partition."""

    silence: Silence = field(default_factory=lambda: Silence(ME, lease=LEASE, step=STEP, partition_of=lambda worker: 0))
    now: float = 1000.0
    own: int = 0
    lost_at: list[tuple[float, Held]] = field(default_factory=list)

    def own_beat_returns(self, after: float = STEP) -> None:
        self.now += after
        self.own += 1
        self.silence.beat(0, beat(ME, self.own), self.now)
        self.lost_at += [(self.now, held) for held in self.silence.lost()]

    def hears(self, sequence: int, state: str = "busy", worker: str = "worker") -> None:
        self.silence.beat(0, beat(worker, sequence, state), self.now)

    @property
    def lost(self) -> list[Held]:
        return [held for _, held in self.lost_at]


class TestLease:
    def test_a_worker_that_beats_keeps_its_job(self) -> None:
        watch = Watch()
        watch.silence.row("job", HELD)
        for sequence in range(1, 200):
            watch.hears(sequence)
            watch.own_beat_returns()
        assert watch.lost == []

    def test_a_worker_that_stops_beating_loses_its_job_after_its_lease_and_once(self) -> None:
        watch = Watch()
        watch.own_beat_returns()
        watch.hears(1)
        watch.silence.row("job", HELD)
        began = watch.now
        for _ in range(15):
            watch.own_beat_returns()
        ((at, held),) = watch.lost_at
        assert held == HELD
        assert LEASE <= at - began <= LEASE + STEP

    def test_a_claimer_that_never_beat_is_silent_from_when_its_claim_was_seen(self) -> None:
        watch = Watch()
        for _ in range(50):
            watch.own_beat_returns()
        watch.silence.row("job", HELD)
        for _ in range(9):
            watch.own_beat_returns()
        assert watch.lost == []
        watch.own_beat_returns()
        assert watch.lost == [HELD]

    def test_a_loss_that_does_not_come_about_is_proposed_again_and_ever_more_seldom(self) -> None:
        watch = Watch()
        watch.silence.row("job", HELD)
        for _ in range(200):
            watch.own_beat_returns()
        assert 3 <= len(watch.lost) <= 6

    def test_the_next_attempt_of_the_job_has_a_lease_of_its_own(self) -> None:
        watch = Watch()
        watch.silence.row("job", HELD)
        for _ in range(11):
            watch.own_beat_returns()
        watch.silence.row("job", Held("job", 2, "other"))
        watch.own_beat_returns()
        assert watch.lost == [HELD]

    def test_a_job_that_ended_is_nobodys_loss(self) -> None:
        watch = Watch()
        watch.silence.row("job", HELD)
        watch.silence.row("job", None)
        for _ in range(30):
            watch.own_beat_returns()
        assert watch.lost == []

    def test_what_a_worker_that_said_goodbye_still_holds_is_lost_at_the_next_beat(self) -> None:
        watch = Watch()
        watch.own_beat_returns()
        watch.silence.row("job", HELD)
        watch.hears(1)
        watch.hears(2, "gone")
        watch.own_beat_returns()
        assert watch.lost == [HELD]


class TestWhenTheBrokerIsAway:
    @given(st.floats(60, 1e6))
    def test_an_outage_of_any_length_costs_nobody_a_lease(self, outage: float) -> None:
        watch = Watch()
        watch.own_beat_returns()
        watch.hears(1)
        watch.silence.row("job", HELD)
        watch.own_beat_returns(after=outage)
        for _ in range(7):
            watch.own_beat_returns()
        assert watch.lost == []
        watch.hears(2)
        for _ in range(9):
            watch.own_beat_returns()
        assert watch.lost == []

    def test_nobody_is_lost_before_a_full_lease_after_our_own_start(self) -> None:
        watch = Watch()
        watch.silence.row("job", HELD)
        watch.hears(7)
        started = watch.now
        while not watch.lost:
            watch.own_beat_returns()
        assert watch.now - started >= LEASE

    def test_beats_in_another_partition_prove_nothing(self) -> None:
        silence = Silence(ME, lease=LEASE, step=STEP, partition_of=lambda worker: 1)
        silence.row("job", HELD)
        for sequence in range(1, 100):
            silence.beat(0, beat(ME, sequence), 1000.0 + sequence)
            assert silence.lost() == []

    def test_old_beats_read_a_second_time_change_nothing(self) -> None:
        watch = Watch()
        for sequence in range(1, 5):
            watch.hears(sequence)
            watch.own_beat_returns()
        watch.silence.row("job", HELD)
        for sequence in range(1, 5):
            watch.hears(sequence)
            watch.silence.beat(0, beat(ME, sequence), watch.now + 100)
        assert watch.silence.silence_of("worker") == STEP


class Many(RuleBasedStateMachine):
    """Any interleaving: whoever beats within every lease of counted time is never lost; whoever does not is."""

    def __init__(self) -> None:
        super().__init__()
        self.watch = Watch()
        self.sequence = 0
        self.counted = 0.0
        self.watch.silence.row("job", HELD)
        self.watch.own_beat_returns()

    @rule(after=st.one_of(st.floats(0.01, STEP), st.floats(STEP, 1000)))
    def own_beat(self, after: float) -> None:
        self.watch.own_beat_returns(after)
        self.counted += min(after, 2 * STEP)

    @rule()
    def worker_beat(self) -> None:
        self.sequence += 1
        self.watch.hears(self.sequence)
        self.counted = 0.0
        self.watch.lost_at.clear()
        self.watch.silence.row("job", None)
        self.watch.silence.row("job", HELD)

    @invariant()
    def lost_exactly_when_a_lease_was_counted(self) -> None:
        if self.counted < LEASE - 1e-6:
            assert self.watch.lost == []
        if self.counted > LEASE + 1e-6:
            assert self.watch.lost


TestMany = Many.TestCase
TestMany.settings = settings(max_examples=60, stateful_step_count=40)
