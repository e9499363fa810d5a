"""Commands for whoever asks what happened, whether it is still what happened, and what would have happened otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from cli.errors import CommandError
from cli.services import read_settings

if TYPE_CHECKING:
    from adapters.settings import Settings

T = TypeVar("T")
app = typer.Typer(help="What happened, whether it is unaltered, and what if.", no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Workspace = Annotated[str | None, typer.Option(help="Id of the workspace; needed when there are several.")]
KeyFile = Annotated[
    Path | None,
    typer.Option("--key", help="File with the key of the seals; audit.key in the state folder by default."),
]


@app.command()
def replay(
    job: Annotated[str | None, typer.Option(help="Records of this job.")] = None,
    dataset: Annotated[str | None, typer.Option(help="A dataset, the requests that name it, the models of it.")] = None,
    model: Annotated[str | None, typer.Option(help="Requests for a model and its versions, by its name.")] = None,
    actor: Annotated[str | None, typer.Option(help="What this user, worker or supervisor wrote.")] = None,
    workspace: Workspace = None,
    since: Annotated[str | None, typer.Option(help="From this moment on (RFC 3339), by the broker's clock.")] = None,
    until: Annotated[str | None, typer.Option(help="Up to this moment.")] = None,
    versions: Annotated[str | None, typer.Option(help="A range of the workspace's versions, as 10..20.")] = None,
    verdict: Annotated[str | None, typer.Option(help="Only what was `effective`, or `refused`.")] = None,
    from_log: Annotated[bool, typer.Option("--from-log", help="Read Kafka, and judge anew; no database.")] = False,
    form: Annotated[
        str | None, typer.Option("--format", help="`story` (the default for a job), `table` or `jsonl`.")
    ] = None,
    every: Annotated[bool, typer.Option("--every", help="In a story, a line for each epoch.")] = False,
    json: Annotated[bool, typer.Option("--json", help="The same as --format jsonl.")] = False,
) -> None:
    """What happened: every record with its verdict, and why what was refused was refused."""
    from cli import audit_replay

    asked = audit_replay.Asked(
        job=job,
        dataset=dataset,
        model=model,
        actor=actor,
        workspace=workspace,
        since=_milliseconds("since", since),
        until=_milliseconds("until", until),
        versions=_range(versions),
        verdict=_one_of("verdict", verdict, ("effective", "refused")),
        from_log=from_log,
        form=_one_of("format", "jsonl" if json else form, ("story", "table", "jsonl")) or ("story" if job else "table"),
        every=every,
    )
    _run(audit_replay.replay(read_settings(), asked))


@app.command()
def state(
    as_of: Annotated[str, typer.Option("--as-of", help="A version of the workspace, or a moment (RFC 3339).")],
    workspace: Workspace = None,
    job: Annotated[str | None, typer.Option(help="Only this job, with its epochs.")] = None,
    status: Annotated[str | None, typer.Option(help="Only jobs that were in this status.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Rows of each list.")] = 50,
    json: Json = False,
) -> None:
    """A job, or the board and the registry, as they were."""
    from cli import audit_state

    _run(audit_state.show(read_settings(), as_of, workspace, job, status, limit, json))


@app.command()
def verify(
    anchor: Annotated[Path | None, typer.Option(help="A file that `ravand audit anchor` wrote earlier.")] = None,
    key: KeyFile = None,
    segments: Annotated[
        Path | None, typer.Option(help="Data folder of a broker on this machine: check the bytes on its disk too.")
    ] = None,
    processes: Annotated[int | None, typer.Option(min=1, max=256, help="One a core by default.")] = None,
    json: Json = False,
) -> None:
    """Prove that nothing was altered: log, journal, hash chain, seals, and every row. Exit status 1 at a break."""
    from audit.verify import NotVerifiable, Wishes, sentences
    from audit.verify import verify as verified
    from cli.long_work import Progress

    settings = read_settings()
    secret = _key(settings, key)
    wishes = Wishes(anchor=_anchor(anchor, secret), key=secret, segments=segments or _own_segments(settings))
    if processes is not None:
        wishes.processes = processes
    try:
        with Progress("verifying", quiet=json) as progress:
            report = _run(verified(settings, wishes, progress.told))
    except NotVerifiable as error:
        raise CommandError(
            f"Nothing could be verified: {error}",
            "Kafka and PostgreSQL have to run (RAVAND_KAFKA__…, RAVAND_DATABASE__URL). Nothing was changed.",
        ) from None
    if json:
        import msgspec

        typer.echo(msgspec.json.format(msgspec.json.encode(report), indent=2).decode())
    else:
        for line in sentences(report):
            typer.echo(line)
    if not report.ok:
        raise typer.Exit(1)


@app.command()
def anchor(
    file: Annotated[Path, typer.Argument(help="Where to write it. Keep it where the installation's owner cannot.")],
    key: KeyFile = None,
) -> None:
    """Write the heads of the hash chain into a file, and seal them in the database."""
    from audit import seals
    from audit.reading import connected

    settings = read_settings()
    secret = _key(settings, key, make=True)

    async def write() -> tuple[int, int]:
        async with connected(settings, read_only=False) as connection:
            log_id, heads = await seals.heads_of(connection)
            at = seals.now_ms()
            sealed = 0 if secret is None else await seals.store_seals(connection, secret, log_id, at, heads)
        seals.write_anchor(file, log_id, at, heads, secret)
        return len(heads), sealed

    heads, sealed = _run(write())
    signed = f"signed; {sealed} new seals" if secret is not None else "unsigned: there is no key"
    typer.echo(
        f"{file}: the heads of {heads} partitions ({signed}). `ravand audit verify --anchor {file}` checks them."
    )


@app.command()
def snapshots(
    follow: Annotated[bool, typer.Option("--follow", help="Go on until stopped.")] = False, json: Json = False
) -> None:
    """Keep snapshots of jobs, so that going back in time stays fast. They are derived, and cost the projector nothing."""
    from cli.long_work import Progress
    from projections import snapshots as kept

    settings = read_settings()

    async def make() -> int:
        from adapters.postgres import create_pool

        pool = await create_pool(settings.database, name="audit", size=2)
        try:
            if follow:
                await kept.keep(pool, asyncio.Event())
            with Progress("snapshots", quiet=json) as progress:
                return await kept.catch_up(pool, told=lambda _, done, of: progress.told(done, of))
        finally:
            await pool.close()

    made = _run(make())
    if json:
        from cli.output import print_json

        print_json({"snapshots": made})
    else:
        typer.echo(f"{made} snapshots made." if made else "Nothing to do: every workspace has its snapshots.")


@app.command("what-if")
def what_if(
    policy: Annotated[
        str | None, typer.Option(help="Who goes first: priority (as it is), fifo, shortest or fair.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, max=10_000, help="How many workers there would be.")] = None,
    lease: Annotated[float | None, typer.Option(min=0.1, help="Seconds until a silent worker is given up.")] = None,
    workers_then: Annotated[
        int | None, typer.Option(min=1, help="How many there were; by default the most that worked at once.")
    ] = None,
    workspace: Annotated[str | None, typer.Option(help="Only this workspace, as if it were alone.")] = None,
    json: Json = False,
) -> None:
    """What would have been different with another policy, lease or number of workers. Changes nothing."""
    from cli import audit_what_if

    chosen = _one_of("policy", policy, ("priority", "fifo", "shortest", "fair"))
    if chosen is None and workers is None and lease is None:
        raise CommandError(
            "Nothing would be different: say what to vary.", "Give --policy, --workers or --lease, or several of them."
        )
    _run(audit_what_if.show(read_settings(), chosen, workers, lease, workers_then, workspace, json))


# --- what the commands share ------------------------------------------------------------------------------------------


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run it, and turn what cannot be helped into a sentence."""
    import asyncpg
    import uvloop
    from aiokafka.errors import KafkaError

    from audit.fold import Unjudgeable
    from audit.log_reader import LogUnreadable
    from audit.reading import Unnamed

    try:
        return uvloop.run(work)
    except Unnamed as error:
        raise CommandError(str(error), "Name it with --workspace.") from None
    except (Unjudgeable, LogUnreadable) as error:
        raise CommandError(
            f"The log cannot be replayed any further: {error}", "`ravand audit verify` tells what is wrong with it."
        ) from None
    except (KafkaError, asyncpg.InterfaceError, asyncpg.PostgresError, OSError) as error:
        raise CommandError(
            f"It could not be read: {type(error).__name__}: {error}",
            "Check that Kafka and PostgreSQL run and are the ones meant (RAVAND_KAFKA__…, RAVAND_DATABASE__URL).",
        ) from None


def _milliseconds(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    from projections.as_of import NoMoment, parse

    try:
        moment = parse(text)
    except NoMoment:
        moment = 0
    if not isinstance(moment, datetime):
        raise CommandError(f"--{name} {text!r} is no moment.", "A time like 2026-05-01T12:00:00Z is expected.")
    return int(moment.timestamp() * 1000)


def _range(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    low, dots, high = text.partition("..")
    if not (dots and low.isdecimal() and high.isdecimal() and 1 <= int(low) <= int(high) < 2**62):
        raise CommandError(f"--versions {text!r} is no range.", "A range like 10..20 is expected, both ends included.")
    return int(low), int(high)


def _one_of(name: str, text: str | None, known: tuple[str, ...]) -> Any:
    if text is not None and text not in known:
        raise CommandError(f"--{name} {text!r} is not known.", f"One of {', '.join(known)} is expected.")
    return text


def _key(settings: Settings, file: Path | None, *, make: bool = False) -> bytes | None:
    """The key of the seals; None where nobody has one. With `make` one is drawn in the state folder."""
    from audit import seals

    if file is None and settings.state is None:
        return None
    path = file or (settings.state or Path()) / seals.KEY_FILE
    try:
        if file is None and not path.exists():
            return seals.make_key(path) if make else None
        return seals.read_key(path)
    except (seals.KeyUnusable, OSError) as error:
        raise CommandError(f"The key cannot be used: {error}.", "Nothing was changed.") from None


def _anchor(file: Path | None, key: bytes | None) -> Any:
    from audit import seals

    if file is None:
        return None
    try:
        return seals.read_anchor(file, key)
    except (seals.AnchorUnusable, OSError) as error:
        raise CommandError(
            f"The anchor cannot be used: {error}.", "Nothing was verified. Take an unaltered copy of the file."
        ) from None


def _own_segments(settings: Settings) -> Path | None:
    """Where the embedded broker keeps its data, if this installation has one."""
    folder = settings.state / "kafka" / "data" if settings.state is not None else None
    return folder if folder is not None and folder.is_dir() else None
