"""Who is idle, as far as one can hear; and what time it is at the broker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from schemas import heartbeat
from schemas.heartbeat import Heartbeat, Running
from workers.claim_choice import IdleWorker
from workers.colleagues import BrokerClock, Colleagues

LEASE = 10.0
RECIPES = (("tabular", 1),)


@dataclass
class Record:
    """As much of a consumer's record as is read."""

    value: bytes | None
    timestamp: int


class Room:
    """One worker that listens. Its own clock and the broker's are an hour apart."""

    def __init__(self) -> None:
        self.mine = 5_000.0
        self.clock = BrokerClock(lambda: self.mine)
        self.colleagues = Colleagues("me", LEASE, self.clock)
        self.own = 0

    @property
    def broker_now(self) -> int:
        return int(self.mine) + 3_600_000

    def hears(self, id: str, state: Any, sequence: int = 1, *, ago: int = 0, **more: Any) -> bool:
        beat = Heartbeat(id=id, kind="worker", state=state, sequence=sequence, started_at=0, recipes=RECIPES, **more)
        return self.colleagues.apply([Record(heartbeat.encode(beat), self.broker_now - ago)])

    def hears_itself(self) -> bool:
        self.own += 1
        return self.hears("me", "idle", self.own)


class TestIdleColleagues:
    def test_only_those_that_say_so_and_hold_nothing(self) -> None:
        room = Room()
        for state in ("starting", "idle", "busy", "leaving"):
            room.hears(state, state)
        room.hears("holder", "idle")
        room.hears_itself()
        assert room.colleagues.idle({"holder"}) == [IdleWorker("idle", frozenset(RECIPES))]

    def test_who_was_not_heard_for_a_lease_is_left_out_by_the_brokers_time(self) -> None:
        room = Room()
        room.hears("long-gone", "idle", ago=86_400_000)
        room.hears("there", "idle", ago=9_000)
        room.hears_itself()
        assert [worker.id for worker in room.colleagues.idle(set())] == ["there"]
        room.mine += 2_000
        assert room.colleagues.idle(set()) == []

    def test_an_older_beat_read_again_changes_nothing(self) -> None:
        room = Room()
        room.hears_itself()
        room.hears("other", "idle", 2)
        room.hears("other", "busy", 1)
        assert len(room.colleagues.idle(set())) == 1

    def test_goodbye_is_heard(self) -> None:
        room = Room()
        room.hears_itself()
        room.hears("other", "idle", 1)
        assert room.hears("other", "gone", 2)
        assert room.colleagues.idle(set()) == []

    def test_claims_under_way_are_known(self) -> None:
        room = Room()
        room.hears_itself()
        room.hears("other", "busy", running=Running(job_id="job", attempt=2))
        assert room.colleagues.claiming() == {("job", 2)}

    def test_only_what_may_change_the_choice_is_news(self) -> None:
        room = Room()
        assert room.hears_itself()
        assert not room.hears("me", "idle", room.own)
        assert room.hears("other", "idle", 1)
        assert not room.hears("other", "idle", 2)
        assert room.hears("other", "busy", 3)

    def test_supervisors_and_nonsense_are_no_colleagues(self) -> None:
        room = Room()
        room.hears_itself()
        beat = Heartbeat(id="s", kind="supervisor", state="idle", sequence=1, started_at=0)
        records = [Record(heartbeat.encode(beat), room.broker_now), Record(b"?", 0), Record(None, 0)]
        assert not room.colleagues.apply(records)
        assert room.colleagues.idle(set()) == []


class TestBrokerClock:
    def test_it_goes_on_by_itself_and_follows_the_brokers(self) -> None:
        room = Room()
        assert not room.clock.is_set
        room.hears_itself()
        assert room.clock.now() == room.broker_now
        room.mine += 250
        assert room.clock.now() == room.broker_now
