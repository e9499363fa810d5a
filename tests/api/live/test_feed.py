"""The order of one workspace's updates, whatever comes in whichever order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from api.live.feed import COMMITTED, Feed, Update
from api.live.frames import payloads, text_frame


def update(version: int, position: int | None = None) -> Update:
    """Its position is ten times its version, unless stated."""
    return Update(version, version * 10 if position is None else position, "job", b"x" * 10)


def versions(updates: list[Update] | None) -> list[int]:
    assert updates is not None
    return [update.version for update in updates]


def started(version: int = 0, **limits: int) -> Feed:
    feed = Feed(**limits)
    feed.start(version)
    return feed


class TestRelease:
    def test_only_what_is_committed_leaves(self) -> None:
        feed = started()
        for version in (1, 2, 3):
            feed.offer(update(version))
        assert versions(feed.release(21)) == [1, 2]
        assert versions(feed.release(30)) == []
        assert versions(feed.release(31)) == [3]

    def test_nothing_leaves_twice(self) -> None:
        feed = started()
        feed.offer(update(1))
        assert versions(feed.release(100)) == [1]
        feed.offer(update(1))
        assert versions(feed.release(100)) == []

    def test_a_later_one_waits_for_the_one_before_it(self) -> None:
        feed = started()
        feed.offer(update(2))
        assert versions(feed.release(100)) == []
        assert feed.has_gap(100)
        feed.offer(update(1))
        assert not feed.has_gap(100)
        assert versions(feed.release(100)) == [1, 2]

    def test_what_came_before_the_start_is_known_is_kept(self) -> None:
        feed = Feed()
        feed.offer(update(4))
        feed.offer(update(5))
        assert versions(feed.release(100)) == []
        assert not feed.has_gap(100)
        feed.start(4)
        assert versions(feed.release(100)) == [5]

    def test_a_gap_counts_only_once_what_lies_beyond_is_committed(self) -> None:
        feed = started()
        feed.offer(update(2))
        assert not feed.has_gap(20)
        assert feed.has_gap(21)


class TestFilling:
    def test_the_journal_fills_a_gap_and_what_was_held_follows(self) -> None:
        feed = started()
        feed.offer(update(3))
        assert versions(feed.fill([update(1, COMMITTED), update(2, COMMITTED)])) == [1, 2]
        assert versions(feed.release(100)) == [3]

    def test_what_the_journal_repeats_is_dropped(self) -> None:
        feed = started(2)
        assert versions(feed.fill([update(v, COMMITTED) for v in (1, 2, 3)])) == [3]
        assert versions(feed.fill([update(v, COMMITTED) for v in (2, 3)])) == []

    def test_what_was_too_far_ahead_to_be_kept_is_a_gap_later(self) -> None:
        feed = started(held_updates=2)
        for version in (1, 2, 3, 4):
            feed.offer(update(version))
        assert versions(feed.release(31)) == [1, 2]
        assert not feed.has_gap(31)
        assert feed.has_gap(41)
        assert versions(feed.fill([update(3, COMMITTED), update(4, COMMITTED)])) == [3, 4]
        assert not feed.has_gap(41)

    def test_a_fact_that_the_journal_does_not_know_is_given_up(self) -> None:
        feed = started()
        feed.offer(update(7))
        feed.offer(update(8, 500))
        assert feed.has_gap(100)
        assert versions(feed.fill([])) == []
        feed.distrust(100)
        assert not feed.has_gap(100)
        assert feed.has_gap(501)


class TestTheRing:
    def test_it_reaches_back_a_number_of_updates(self) -> None:
        feed = started(ring_updates=3)
        feed.fill([update(version, COMMITTED) for version in range(1, 11)])
        assert feed.after(6) is None
        assert versions(feed.after(7)) == [8, 9, 10]
        assert versions(feed.after(8, limit=1)) == [9]
        assert versions(feed.after(10)) == []
        assert versions(feed.after(11)) == []

    def test_it_reaches_back_a_number_of_bytes(self) -> None:
        feed = started(ring_bytes=25)
        feed.fill([update(version, COMMITTED) for version in range(1, 11)])
        assert feed.size == 20
        assert feed.after(7) is None
        assert versions(feed.after(8)) == [9, 10]

    def test_it_is_empty_at_the_start(self) -> None:
        assert started(5).after(4) is None
        assert versions(started(5).after(5)) == []

    @given(st.lists(st.integers(1, 30), max_size=200), st.integers(1, 10), st.integers(1, 200))
    def test_it_holds_the_newest_in_order_within_its_limits(self, sizes: list[int], count: int, size: int) -> None:
        feed = started(ring_updates=count, ring_bytes=size)
        for version, length in enumerate(sizes, 1):
            feed.fill([Update(version, COMMITTED, "job", b"x" * length)])
            assert feed.size <= size
            back = next((v for v in range(version + 1) if feed.after(v) is not None), version)
            assert version - back <= count
            assert versions(feed.after(back)) == list(range(back + 1, version + 1))


@given(st.data())
def test_any_mixture_of_facts_commits_and_fills_leaves_in_order_and_once(data: st.DataObject) -> None:
    feed = started(ring_updates=4, held_updates=5)
    total = data.draw(st.integers(1, 20))
    cursor, left = 0, []
    for _ in range(data.draw(st.integers(1, 60))):
        match data.draw(st.sampled_from(["fact", "commit", "fill"])):
            case "fact":
                feed.offer(update(data.draw(st.integers(1, total))))
            case "commit":
                cursor = max(cursor, data.draw(st.integers(0, total * 10 + 1)))
            case _:
                committed = [v for v in range(1, total + 1) if v * 10 < cursor]
                page = [update(v, COMMITTED) for v in committed if v > (feed.last or 0)][:3]
                left += versions(feed.fill(page))
        left += versions(feed.release(cursor))
        assert left == list(range(1, len(left) + 1))
        assert all(version * 10 < cursor for version in left)
        assert feed.last == len(left)


@given(st.lists(st.binary(max_size=70_000), max_size=4))
def test_frames_hold_what_was_put_into_them(texts: list[bytes]) -> None:
    assert payloads(b"".join(text_frame(text) for text in texts)) == texts


def test_frames_are_as_the_standard_has_them() -> None:
    assert text_frame(b"Hello") == bytes((0x81, 0x05)) + b"Hello"  # RFC 6455, 5.7.
    assert text_frame(b"x" * 126)[:4] == bytes((0x81, 126, 0, 126))
    assert text_frame(b"x" * 65536)[:10] == bytes((0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0))
