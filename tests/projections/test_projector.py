"""The projector on a real broker and a real database: what it stores and publishes is the fold of the log."""

from __future__ import annotations

import uuid

import pytest

from domain.events import RulesActivated
from schemas.facts import VERSION_HEADER, decode
from schemas.tables import decode_open_job
from schemas.topics import EVENTS, FACTS, JOBS
from tests.projections.fold import compare, fold_of, published_facts, stored
from tests.projections.platform import Log, project, projecting, until
from tests.projections.records import one_job, stream, written


async def check_everything(log: Log) -> None:
    """Rows equal the fold of the log; so do the facts; and the table of jobs shows the last state of each open one."""
    folded = fold_of(await log.read(EVENTS))
    rows = await stored(log.database)
    compare(folded, rows)
    facts = await published_facts(await log.read(FACTS))
    assert {key: value for key, value in facts.items() if key[0] != "system"} == folded["facts"]
    assert await wrong_rows_of_the_table(log) == []


async def wrong_rows_of_the_table(log: Log) -> list[str]:
    """Jobs whose row in the table of open jobs is not their last state. One that is over may have none at all."""
    shown: dict[str, tuple[int, bytes | None]] = {}
    for record in await log.read(JOBS):
        shown[record.key.decode()] = (int(dict(record.headers)[VERSION_HEADER]), record.value)
    return [
        job
        for (_, job), row in fold_of(await log.read(EVENTS))["jobs"].items()
        if not _is_right(shown.get(job), row[3], row[0] in ("completed", "failed", "stopped"))
    ]


def _is_right(shown: tuple[int, bytes | None] | None, version: int, is_over: bool) -> bool:
    if shown is None:
        return is_over
    if is_over:
        return shown == (version, None)
    return shown[0] == version and shown[1] is not None and decode_open_job(shown[1]).job.version == version


async def test_a_job_from_its_dataset_to_its_model_is_stored_and_published(log: Log) -> None:
    await log.write(one_job("team"))
    await project(log)
    await check_everything(log)
    facts = [decode(record.value) for record in await log.read(FACTS)]
    assert [fact.version for fact in facts] == list(range(1, len(facts) + 1))
    assert facts[-1].job is not None
    assert facts[-1].job.status == "completed"


async def test_any_mixture_of_records_is_stored_as_it_folds(log: Log) -> None:
    await log.write(stream(1, [f"team-{number}" for number in range(8)], 3_000))
    await project(log)
    await check_everything(log)


async def test_what_is_written_while_it_runs_is_judged_too(log: Log) -> None:
    async with projecting(log.settings):
        for seed in range(5):
            await log.write(stream(seed, ["live", "other"], 100))
            await log.stored_to_the_end()
    await check_everything(log)


async def test_each_commit_is_announced_with_its_position(log: Log) -> None:
    heard: list[str] = []
    await log.database.add_listener("ravand_commits", lambda *told: heard.append(told[3]))
    records = one_job("team")
    async with projecting(log.settings):
        await log.write(records)
        await log.stored_to_the_end()

        async def announced() -> bool:
            await log.database.execute("SELECT 1")
            return any(payload.endswith(f":{len(records)}") for payload in heard)

        await until(announced)


async def test_rules_come_into_force_only_in_their_order_and_for_each_partition(log: Log) -> None:
    for partition in (0, 3):
        activated = written(RulesActivated(rules=1), workspace="system", subject="rules")
        await log.write([type(activated)(activated.key, activated.value, activated.headers, partition)])
    await project(log)
    verdicts = await log.database.fetch('SELECT partition, refusal FROM log.journal ORDER BY partition, "offset"')
    assert [tuple(row) for row in verdicts] == [(0, "rules_out_of_order"), (3, "rules_out_of_order")]
    await check_everything(log)


@pytest.mark.parametrize("seed", range(3))
async def test_two_projectors_share_the_partitions_and_agree(log: Log, seed: int) -> None:
    await log.write(stream(seed, [f"w{number}" for number in range(30)], 2_000))
    async with projecting(log.settings), projecting(log.settings):
        await log.stored_to_the_end()

        async def spread() -> bool:
            held = await log.database.fetch(
                "SELECT pid, count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = $1 AND database ="
                " (SELECT oid FROM pg_database WHERE datname = current_database()) GROUP BY pid",
                0x72617670,
            )
            return [row[1] for row in held] == [6, 6]

        await until(spread)
        await log.write(stream(seed + 100, [f"w{number}" for number in range(30)], 300))
        await log.stored_to_the_end()
    await check_everything(log)


async def test_the_same_log_gives_the_same_rows_however_often_the_projector_was_restarted(log: Log) -> None:
    for seed in range(4):
        await log.write(stream(seed, ["a", "b", "c"], 200))
        await project(log)
    await check_everything(log)


async def test_a_job_that_never_was_has_no_row(log: Log) -> None:
    [*_, end] = one_job("team", job=str(uuid.uuid4()))
    await log.write([end])
    await project(log)
    assert await log.read(JOBS) == []
