"""What is done to the platform is in its own history: events of the workspace `system`, under rule set 2."""

from __future__ import annotations

import pytest

from adapters.kafka import partition_of
from audit.verify import Wishes, verify
from domain import rules as known
from domain.events import JobStopRequested, ProjectionsSwapped
from projections import partition, projector, rule_sets
from projections.rebuild import run as rebuilding
from projections.rebuild.replay import NotRebuildable
from schemas.topics import EVENTS
from tests.projections.fold import compare, fold_of, stored
from tests.projections.platform import Log, Said, project, projecting, until
from tests.projections.rebuild.conftest import WORKSPACES, rebuilt, rolled_back
from tests.projections.records import Written, one_job, stream, written

HOME = partition_of(b"system", EVENTS.partitions)


async def types(log: Log) -> list[tuple[str, int | None, str | None]]:
    rows = await log.database.fetch(
        "SELECT type, version, refusal FROM log.journal WHERE workspace = 'system' AND partition = $1"
        " AND type <> 'ravand.RulesActivated' ORDER BY \"offset\"",
        HOME,
    )
    return [(row[0].removeprefix("ravand.Projections"), row[1], row[2]) for row in rows]


async def activate(log: Log, number: int = 2) -> None:
    await rule_sets.activate(log.settings.kafka, dict.fromkeys(range(EVENTS.partitions), number), "admin")


async def test_start_result_swap_rollback_and_cancellation_are_events(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuilding, "NOTED_SECONDS", 30.0)
    await activate(log)
    async with projecting(log.settings):
        await log.write(one_job("team"))
        await log.stored_to_the_end()
        assert (await rebuilt(log)).noted == "noted"
        assert (await rolled_back(log)).noted == "noted"
        await log.stored_to_the_end()
    assert await types(log) == [
        ("RebuildStarted", 2, None),
        ("Rebuilt", 3, None),
        ("Swapped", 4, None),
        ("RolledBack", 5, None),
    ]
    compare(fold_of(await log.read(EVENTS)), await stored(log.database))
    found = await verify(log.settings, Wishes(processes=1))
    assert found.ok, found.breaks


async def test_before_rule_set_2_it_works_and_says_that_it_is_not_noted(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuilding, "NOTED_SECONDS", 30.0)
    await log.write(one_job("team"))
    async with projecting(log.settings):
        await log.stored_to_the_end()
        done = await rebuilt(log)
        assert (done.run.state, done.noted) == ("swapped", "unknown_type")
        await log.stored_to_the_end()
    assert {refusal for _, _, refusal in await types(log)} == {"unknown_type"}
    # A journal of a build that did not know the types would have the same row, headers included.
    assert not await log.database.fetchval(
        "SELECT count(*) FROM log.journal WHERE workspace = 'system' AND headers IS NULL"
    )
    assert (await verify(log.settings, Wishes(processes=1))).ok
    await activate(log)
    await project(log)
    assert set((await rule_sets.in_force(log.database)).values()) == {2}
    async with projecting(log.settings):
        assert (await rebuilt(log)).noted == "noted"
        await log.stored_to_the_end()
    compare(fold_of(await log.read(EVENTS)), await stored(log.database))
    assert {refusal for _, _, refusal in (await types(log))[-3:]} == {None}


async def test_only_its_own_partition_and_key_are_believed(log: Log) -> None:
    await activate(log)
    said = ProjectionsSwapped(projections=("jobs",))
    sound = written(said, workspace="system", subject="run")
    elsewhere = Written(sound.key, sound.value, sound.headers, (HOME + 1) % EVENTS.partitions)
    of_people = written(said, workspace="team", subject="run")
    job = written(JobStopRequested(), workspace="system", subject="job")
    await log.write([sound, sound, elsewhere, of_people, Written(b"system", of_people.value), job])
    await project(log)
    rows = await log.database.fetch("SELECT refusal FROM log.journal WHERE subject IN ('run', 'job')")
    assert sorted(str(row[0]) for row in rows) == ["None", "duplicate", *["misrouted"] * 4]
    compare(fold_of(await log.read(EVENTS)), await stored(log.database))


async def test_records_that_could_not_be_appended_are_appended_by_the_next_run(log: Log) -> None:
    await activate(log)
    await log.write(stream(1, WORKSPACES, 100))
    await project(log)
    away = log.settings.model_copy(deep=True)
    away.kafka.append_deadline_seconds = 0.000_001
    assert (await rebuilding.rebuild(away, rebuilding.Wanted())).run.state == "swapped"
    assert await log.database.fetchval("SELECT count(*) FROM rebuild.records") == 3
    await rebuilt(log)
    assert await log.database.fetchval("SELECT count(*) FROM rebuild.records") == 0
    await project(log)
    assert [row[0] for row in await types(log) if row[1]] == ["RebuildStarted", "Rebuilt", "Swapped"] * 2


@pytest.mark.parametrize("first", [one_job("team")[0], Written(b"team", b"no record")], ids=["a record", "no record"])
async def test_a_new_log_is_known_by_having_no_history(log: Log, first: Written) -> None:
    everywhere = list(range(EVENTS.partitions))
    assert await rule_sets.without_history(log.settings.kafka) == everywhere
    await rule_sets.activate(
        log.settings.kafka, {3: 2}, "admin"
    )  # As an initialisation that was interrupted leaves it.
    assert await rule_sets.without_history(log.settings.kafka) == [p for p in everywhere if p != 3]
    await log.write([first])
    assert await rule_sets.without_history(log.settings.kafka) == []


async def test_a_build_that_is_older_than_the_rules_stops_loudly(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    await activate(log)
    await project(log)
    said = Said(projector, monkeypatch)
    monkeypatch.setattr(partition, "KNOWN_RULES", 1)
    monkeypatch.setattr(known, "KNOWN_RULES", 1)
    await log.write(one_job("team"))
    async with projecting(log.settings):

        async def stopped() -> bool:
            told = {line["partition"]: line["error"] for line in said.of("the partition stands still")}
            return told == dict.fromkeys(
                range(EVENTS.partitions), "NewerRules: rule set 2 is in force; this build knows up to 1"
            )

        await until(stopped)
    assert await log.database.fetchval("SELECT count(*) FROM log.journal WHERE workspace = 'team'") == 0
    with pytest.raises(NotRebuildable, match=r"cannot judge the record at offset 0 \(rule set 2 .* knows up to 1"):
        await rebuilt(log)
    monkeypatch.undo()
    assert (await rebuilt(log)).run.state == "swapped"
