"""`ravand admin backup` and `ravand admin restore`."""

from __future__ import annotations

from collections.abc import Coroutine
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from cli.errors import CommandError
from cli.services import read_settings

if TYPE_CHECKING:
    from backup.manifest import Manifest
    from cli.long_work import Progress

T = TypeVar("T")
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def backup(
    folder: Annotated[Path, typer.Argument(help="Where to make it: a folder that is empty or not there.")],
    json: Json = False,
) -> None:
    """Copy the log, the objects and the accounts as they are at one moment, while everything runs.

    The folder is complete or absent, and private: it holds password hashes and everybody's data.
    """
    from backup.take import take

    with Phases(quiet=json) as phases:
        manifest = _run(take(read_settings(), folder, phases.told), "No backup was made", "Nothing was written.")
    if json:
        _print(manifest, folder)
        return
    typer.echo(f"{folder}: {_contents(manifest)}, as of {manifest.made_at}, log {manifest.log_id}.")
    if manifest.from_journal:
        typer.echo(f"{manifest.from_journal:,} records were no longer in the log, and are the journal's.")
    for key in manifest.unsound:
        typer.echo(f"Warning: {key} is missing in the object store, or is not what was recorded.", err=True)


def restore(
    folder: Annotated[Path, typer.Argument(help="A folder that `ravand admin backup` made.")],
    verify_only: Annotated[bool, typer.Option("--verify-only", help="Check the backup; restore nothing.")] = False,
    json: Json = False,
) -> None:
    """Make an empty installation what a backup holds. Kafka and PostgreSQL have to run, and no service.

    All of the backup is checked before anything is written. The log gets a new id; everything else is as it was.
    """
    from adapters.logging import configure
    from backup.check import check
    from backup.restore import restore as restored

    with Phases(quiet=json) as phases:
        if verify_only:
            manifest, log_id = _checked(lambda: check(folder, lambda done, of: phases.told("checking", done, of))), None
        else:
            settings = read_settings()
            # A projector folds the log at the end, and only its trouble is news here.
            configure(settings.model_copy(update={"log_level": "warning"}), "restore")
            manifest, log_id = _run(
                restored(settings, folder, phases.told),
                "The backup was not restored",
                "What was begun is gone on with by the same command; no service starts before it is done.",
            )
    if json:
        _print(manifest, folder, restored_as=log_id)
    elif log_id is None:
        typer.echo(f"{folder} is whole: {_contents(manifest)}, as of {manifest.made_at}.")
    else:
        typer.echo(
            f"Restored: {_contents(manifest)}. All hashes, offsets, times and versions are those of {manifest.made_at};"
            f" the log is now {log_id}."
        )


class Phases:
    """Progress of one thing after the other."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._what = ""
        self._shown: Progress | None = None

    def __enter__(self) -> Phases:
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._shown is not None:
            self._shown.__exit__()

    def told(self, what: str, done: int, of: int) -> None:
        """So much of it is done."""
        from cli.long_work import Progress

        if what != self._what or self._shown is None:
            self.__exit__()
            self._what, self._shown = what, Progress(what, quiet=self._quiet).__enter__()
        self._shown.told(done, of)


def _contents(manifest: Manifest) -> str:
    from cli.output import size

    return (
        f"{manifest.records:,} records, {manifest.objects:,} objects ({size(manifest.object_bytes)}),"
        f" {manifest.rows('accounts.users'):,} accounts"
    )


def _print(manifest: Manifest, folder: Path, **more: Any) -> None:
    import msgspec

    from cli.output import print_json

    print_json({"folder": str(folder), **msgspec.to_builtins(manifest), **more})


def _checked(work: Any) -> Any:
    from backup.manifest import BackupRefused

    try:
        return work()
    except BackupRefused as error:
        raise CommandError(f"The backup is not whole: {error}.", "Use another copy of it.") from None
    except OSError as error:
        raise CommandError(f"The backup could not be read: {error}") from None


def _run(work: Coroutine[Any, Any, T], failed: str, state: str) -> T:
    """Run it, and turn what cannot be helped into a sentence."""
    import asyncpg
    import uvloop
    from aiokafka.errors import KafkaError

    from adapters.migrations import WrongSchema
    from adapters.objects import ObjectExists, StoreUnavailable
    from adapters.topics import WrongTopics
    from backup.manifest import BackupRefused

    try:
        return uvloop.run(work)
    except BackupRefused as error:
        raise CommandError(f"{failed}: {error}.") from None
    except (WrongTopics, WrongSchema) as error:
        raise CommandError(f"{failed}: {error}", state) from None
    except ObjectExists as error:
        raise CommandError(f"{failed}: the object store holds other bytes as {error}.", state) from None
    except (
        KafkaError,
        StoreUnavailable,
        asyncpg.InterfaceError,
        asyncpg.PostgresError,
        OSError,
        TimeoutError,
    ) as error:
        raise CommandError(
            f"{failed}: {type(error).__name__}: {error}",
            f"{state} Check that Kafka and PostgreSQL run and are the ones meant (RAVAND_KAFKA__…, RAVAND_DATABASE__URL).",
        ) from None
