"""A rebuild on a real broker and a real database: the same rows, made anew, while the projector works and people read."""

from __future__ import annotations

from projections.rebuild import run as rebuilding
from projections.rebuild.run import Wanted
from schemas.topics import EVENTS
from tests.projections.fold import compare, fold_of, stored
from tests.projections.platform import Log, project
from tests.projections.records import stream

WORKSPACES = [f"team-{number}" for number in range(6)]


async def test_the_new_tables_are_the_fold_of_the_log_and_the_old_ones_are_kept(log: Log) -> None:
    await log.write(stream(1, WORKSPACES, 3_000))
    await project(log)
    before = await stored(log.database)
    done = await rebuilding.rebuild(log.settings, Wanted(processes=2))
    assert done.run.state == "swapped"
    assert done.run.report.differing == done.run.report.verdicts == 0
    assert done.run.report.records == sum(row[0] for row in before["cursors"].values())
    compare(before, await stored(log.database))
    compare(fold_of(await log.read(EVENTS)), await stored(log.database))
    await log.write(stream(2, WORKSPACES, 500))
    await project(log)
    compare(fold_of(await log.read(EVENTS)), await stored(log.database))
