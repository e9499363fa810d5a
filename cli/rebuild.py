"""`ravand admin rebuild-projections`: the read model is made anew from the log, beside the live one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.errors import CommandError
from cli.services import read_settings

if TYPE_CHECKING:
    from adapters.settings import Settings
    from projections.rebuild.run import Done, Wanted
    from projections.rebuild.runs import Report, Status

_NAMES = "requests, epochs, checkpoints, jobs, workspaces, datasets, models"
_SHOWN = 20
"""Differences that a person is shown; `--json` has more."""


def rebuild_projections(
    name: Annotated[
        str | None,
        typer.Argument(
            help=f"Only this one: {_NAMES}, or snapshots (of time travel). All but the snapshots by default."
        ),
    ] = None,
    processes: Annotated[int | None, typer.Option(min=1, max=256, help="One a core by default.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Make and compare them, say what differs, and throw them away.")
    ] = False,
    accept_differences: Annotated[
        bool,
        typer.Option(
            "--accept-differences", help="Swap though verdicts of the journal are not what the log comes to: an alarm."
        ),
    ] = False,
    roll_back: Annotated[
        bool, typer.Option("--rollback", help="Read again what the last swap has replaced; it catches up first.")
    ] = False,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="End the one that runs, or drop what an interrupted one has left.")
    ] = False,
    status: Annotated[
        bool, typer.Option("--status", help="Where the one that runs is, or how the last one ended.")
    ] = False,
    drop_previous: Annotated[
        bool, typer.Option("--drop-previous", help="Give up what is kept for a rollback, and its space.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, a line for each step and one for the end.")] = False,
    actor: Annotated[str, typer.Option(hidden=True)] = "admin",
    id: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Make the read model anew from the log, beside the live one, compare both row by row, and swap them.

    Reads go on meanwhile. Interrupted, by Ctrl-C or kill -9, the same command goes on where it was.
    """
    from projections.rebuild.run import Wanted

    if sum((roll_back, cancel, status, drop_previous)) > 1:
        raise CommandError("Only one of --rollback, --cancel, --status and --drop-previous can be done at a time.")
    settings = read_settings()
    if cancel:
        _cancel(settings, json)
    elif status:
        _status(settings, json)
    elif drop_previous:
        _drop_previous(settings)
    elif name == "snapshots":
        _snapshots(settings, json)
    else:
        options: dict[str, Any] = {} if processes is None else {"processes": processes}
        wanted = Wanted(
            projections=_projections(name),
            dry_run=dry_run,
            accept_differences=accept_differences,
            actor=actor,
            id=id,
            **options,
        )
        _rebuild(settings, wanted, roll_back=roll_back, json=json)


def _projections(name: str | None) -> tuple[str, ...]:
    from projections.rebuild import runs

    if name is None:
        return runs.NAMES
    if runs.unknown([name]):
        raise CommandError(f"There is no projection {name!r}.", f"There are: {_NAMES}, snapshots.")
    return (name,)


def _rebuild(settings: Settings, wanted: Wanted, *, roll_back: bool, json: bool) -> None:
    from adapters.logging import configure
    from cli.rebuild_progress import Progress
    from projections.rebuild import run as rebuilding

    # What judging notes on its way (rules that come into force, say) happened long ago, and would stand among the JSON.
    configure(settings.model_copy(update={"log_level": "warning"}), "rebuild")
    work = rebuilding.roll_back if roll_back else rebuilding.rebuild
    with Progress(json=json) as progress:
        done = _run(work(settings, wanted, progress.told))
    if json:
        typer.echo(_line(_document(done)))
    else:
        for sentence in sentences(done):
            typer.echo(sentence)


def _document(done: Done) -> dict[str, Any]:
    import msgspec

    from projections.rebuild import runs

    run = done.run
    return {
        "state": run.state,
        "id": run.id,
        "kind": run.kind,
        "projections": list(run.projections),
        "report": dict(runs.shown(run.report)),
        "differences": [msgspec.to_builtins(difference) for difference in done.differences],
        "noted": done.noted,
    }


def _line(document: dict[str, Any]) -> str:
    import orjson

    return orjson.dumps(document).decode()


def sentences(done: Done) -> list[str]:
    """What came of it, for a person."""
    run, said = done.run, list[str]()
    report = run.report
    if run.kind == "rollback":
        said.append("Rolled back: what the last swap had replaced is read again. Its counterpart is kept.")
    else:
        said += report_sentences(report)
        said += [f"  {_difference(difference)}" for difference in done.differences[:_SHOWN]]
        if len(done.differences) > _SHOWN:
            said.append(f"  and more: `--json` lists {len(done.differences)} of them")
        if run.state == "swapped":
            said.append("Swapped: the new tables are read. The old ones are kept: `--rollback` brings them back.")
        elif run.state == "compared":
            said.append("A dry run: nothing was swapped, and nothing is left of it.")
    match done.noted:
        case "unknown_type":
            said.append(
                "Note: the log refused to note it in the workspace `system`, since rule set 2 is not in force"
                " (unknown_type). `ravand admin rules --activate 2` changes that, once every process is of this version."
            )
        case "waiting":
            said.append(
                "Note: it is not yet in the history of the workspace `system`: no projector has judged it so far."
            )
    return said


def report_sentences(report: Report) -> list[str]:
    """How the live rows compare with the log."""
    rate = report.records / report.seconds if report.seconds else 0
    rows = sum(table.rows for table in report.tables.values())
    said = [
        f"{report.records:,} records judged anew in {report.seconds:.1f} s ({rate:,.0f}/s), {rows:,} rows compared."
    ]
    if report.verdicts:
        said.append(f"ALARM: {report.verdicts:,} verdicts of the journal are not what the log comes to.")
    if not report.differing:
        said.append("Every row is what the log says.")
        return said
    said.append(f"{report.differing:,} rows were not what the log says:")
    for name, table in report.tables.items():
        if table.differing:
            columns = ", ".join(f"{column} in {count:,}" for column, count in sorted(table.columns.items()))
            altered = f"{table.altered:,} altered{f' ({columns})' if columns else ''}"
            said.append(f"  {name}: {table.missing:,} missing, {table.extra:,} too many, {altered}")
    return said


def _difference(difference: Any) -> str:
    what = {"missing": "was missing", "extra": "was too many", "altered": "was altered in", "verdict": ""}
    return f"{difference.projection} {difference.key} {what[difference.what]} {difference.columns}".rstrip()


def _cancel(settings: Settings, json: bool) -> None:
    from projections.rebuild import run as rebuilding

    run = _run(rebuilding.cancel(settings))
    if json:
        typer.echo(_line({"cancelled": run.id if run is not None else None}))
    elif run is None:
        typer.echo("There is none to cancel.")
    else:
        typer.echo(f"Cancelled: the live tables are as they were ({run.kind} {run.id}).")


def _status(settings: Settings, json: bool) -> None:
    import msgspec

    from adapters.postgres import connect
    from projections.rebuild import runs

    async def read() -> Status:
        connection = await connect(settings.database, name="admin")
        try:
            return await runs.status(connection)
        finally:
            await connection.close()

    status = _run(read())
    if json:
        typer.echo(_line(msgspec.to_builtins(status)))
        return
    for sentence in status_sentences(status):
        typer.echo(sentence)


def status_sentences(status: Status) -> list[str]:
    """Where it is, for a person."""
    run = status.run
    if run is None:
        return ["No rebuild was ever begun."]
    said = [f"{run.kind} {run.id} of {', '.join(run.projections)}: {status.state} ({run.phase})"]
    if status.partitions:
        done, goal = sum(p.position for p in status.partitions), sum(p.goal for p in status.partitions)
        said.append(f"  {done:,} of {goal:,} records")
    if run.error:
        said.append(f"  {run.error}")
    if status.state == "interrupted":
        said.append("  The same command goes on with it; `--cancel` drops it.")
    if status.can_roll_back:
        said.append(
            "  What the last swap has replaced is kept: `--rollback` brings it back, `--drop-previous` frees its space."
        )
    return said


def _drop_previous(settings: Settings) -> None:
    from projections.rebuild import run as rebuilding

    dropped = _run(rebuilding.drop_previous(settings))
    typer.echo("Dropped: there is no way back to it now." if dropped else "Nothing is kept.")


def _snapshots(settings: Settings, json: bool) -> None:
    from cli.long_work import Progress
    from projections.rebuild import run as rebuilding

    with Progress("snapshots", quiet=json) as progress:
        made = _run(rebuilding.renew_snapshots(settings, lambda _, done, of: progress.told(done, of)))
    typer.echo(_line({"snapshots": made}) if json else f"{made:,} snapshots made anew.")


def _run(work: Any) -> Any:
    """Run it, and turn what cannot be helped into a sentence."""
    import asyncpg
    import uvloop
    from aiokafka.errors import KafkaError

    from projections.rebuild import run as rebuilding
    from projections.rebuild import runs
    from projections.rebuild.children import Interrupted
    from projections.rebuild.replay import NotRebuildable

    again = "The live tables are as they were. Run it again: it goes on where it was; `--cancel` drops what there is."
    try:
        return uvloop.run(work)
    except runs.AlreadyRunning as error:
        raise CommandError(
            f"Nothing was begun: {error}.",
            "`--status` shows where it is, `--cancel` ends it. A second one has to wait.",
        ) from None
    except rebuilding.Unfinished as error:
        raise CommandError(
            f"Nothing was begun: {error}.", "Go on with it by the same command as then, or drop it with `--cancel`."
        ) from None
    except rebuilding.NothingKept as error:
        raise CommandError(f"Nothing was rolled back: {error}.", "Rebuild instead: the log has everything.") from None
    except rebuilding.Refused as error:
        lines = "\n".join(f"  {line}" for line in report_sentences(error.run.report))
        raise CommandError(
            f"Not swapped: {error}. What people were answered is not what the log says.\n{lines}",
            "`ravand audit verify` names the first of them. The new tables are kept: `--accept-differences` swaps all the"
            " same, `--cancel` drops them.",
        ) from None
    except rebuilding.Cancelled:
        raise CommandError("Cancelled: what had been made is dropped.", "The live tables are as they were.") from None
    except rebuilding.Busy as error:
        raise CommandError(
            f"Not swapped: {error}.", f"Somebody reads for long (a verification, a backup). {again}"
        ) from None
    except NotRebuildable as error:
        raise CommandError(f"Not rebuilt: {error}.", f"`ravand audit verify` tells more. {again}") from None
    except Interrupted as error:
        raise CommandError(f"Interrupted: {error}.", again) from None
    except (asyncio.CancelledError, KeyboardInterrupt):
        raise CommandError("Interrupted.", again) from None
    except (KafkaError, asyncpg.InterfaceError, asyncpg.PostgresError, OSError) as error:
        raise CommandError(
            f"Nothing was done: {type(error).__name__}: {error}",
            "Check that Kafka and PostgreSQL run and are the ones meant (RAVAND_KAFKA__…, RAVAND_DATABASE__URL).",
        ) from None
