"""One schedule from one seed: everybody at once, then calm, and what must be true when everything has come to rest."""

from __future__ import annotations

from domain.workspace import Workspace, judge
from tests.domain.ledger import Violation, must
from tests.domain.scenario import snapshot
from tests.simulation.others import People, Supervisor
from tests.simulation.projectors import Cluster, row_of
from tests.simulation.readers import Beats
from tests.simulation.workers import Workforce
from tests.simulation.world import Scope, World

SCOPES = (
    Scope(),
    Scope(workers=2, jobs=1, epochs=6, requests=4),
    Scope(workers=3, jobs=2, epochs=3, requests=2),
    Scope(workers=2, jobs=3, epochs=2, requests=9),
    Scope(workers=1, jobs=1, epochs=8, requests=1),
)


class ScheduleFailed(AssertionError):
    """What broke, and the seed that breaks it again."""


def run(seed: int, *, tracing: bool = False) -> World:
    """Play the schedule of that seed. Raises `ScheduleFailed`."""
    world = World(seed, SCOPES[seed % len(SCOPES)], tracing=tracing)
    try:
        play(world)
    except Exception as error:  # An exception in the automaton is as much a failure as a broken sentence.
        kind = "" if isinstance(error, Violation) else f"{type(error).__name__}: "
        story = "\n".join(world.trace[-60:])
        again = "" if tracing else f"\nRAVAND_SIMULATION_SEED={seed} repeats it, with the story."
        raise ScheduleFailed(f"seed {seed}: {kind}{error}{again}\n{story}") from error
    return world


def play(world: World) -> None:
    """Everybody, until everything rests."""
    cluster = Cluster(world)
    beats = Beats(world)
    workforce = Workforce(world, beats)
    supervisors = [Supervisor(world, beats, f"supervisor-{n}") for n in range(2)]
    people = People(world)

    def at_rest() -> bool:
        if not cluster.at_rest or not world.ledger.decided.issuperset(people.jobs):
            return False
        return all(job.over or (job.wish == "pause" and not job.holder) for job in world.ledger.jobs.values())

    world.run(at_rest)
    # What is still under way (copies, rows, news) arrives, and changes nothing any more.
    world.at_rest = True
    deadline = world.now + 8_000
    world.after(8_000, lambda: None)
    world.run(lambda: world.now >= deadline and cluster.at_rest)
    check(world, cluster, [*workforce.workers, *supervisors])


def check(world: World, cluster: Cluster, readers: list[object]) -> None:
    """What holds when everything has come to rest."""
    refolded = Workspace("workspace-1")
    for entry in world.log:
        record = entry.record
        judge(refolded, id=entry.id, subject=record.subject, actor=record.actor, event=record.event, at=entry.at)
    for projector in cluster.projectors:
        projector.reload()
        must(snapshot(projector.workspace) == snapshot(refolded), "every projector ends where a replay ends")
    for job_id in refolded.jobs:
        must(world.table[job_id] == row_of(refolded, job_id), "the table ends with what holds")
        for reader in readers:
            must(reader.versions.get(job_id) == refolded.jobs[job_id].version, "every reader ends with what holds")  # type: ignore[attr-defined]
