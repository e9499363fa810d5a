"""Commands for whoever runs the platform."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from cli import dead_letters
from cli.backup import backup, restore
from cli.errors import CommandError
from cli.rebuild import rebuild_projections
from cli.rules import rules
from cli.services import read_settings

if TYPE_CHECKING:
    from adapters.settings import Settings

app = typer.Typer(help="Set up and look after an installation.", no_args_is_help=True)
app.command()(backup)
app.command()(restore)
app.command()(rebuild_projections)
app.command()(rules)
app.add_typer(dead_letters.app, name="dead-letters")


@app.command()
def init() -> None:
    """Create what is missing: topics, tables, the object store's marker. Running it again changes nothing."""
    import asyncpg
    from aiokafka.errors import KafkaError

    from adapters.kafka import OutcomeUnknown
    from adapters.migrations import WrongSchema
    from adapters.objects import StoreUnavailable
    from adapters.topics import WrongTopics

    settings = read_settings()

    async def initialise() -> tuple[list[str], dict[int, int]]:
        from adapters.migrations import migrate
        from adapters.object_store import ObjectStore
        from adapters.topics import check_topics, create_topics
        from domain.rules import FIRST_RULES, KNOWN_RULES
        from projections import rule_sets

        created = await create_topics(settings.kafka)
        await check_topics(settings.kafka)
        await migrate(settings.database.url.get_secret_value())
        await ObjectStore(settings.store.url).init()
        # Before anybody appends: what is appended to a log without its tail would take the tail's place.
        lost = await _complete(settings)
        if not await _has_journal(settings):
            # The newest rules judge a new log from its beginning; an old one keeps its own until somebody changes them.
            fresh = await rule_sets.without_history(settings.kafka)
            for number in range(FIRST_RULES + 1, KNOWN_RULES + 1):
                await rule_sets.activate(settings.kafka, dict.fromkeys(fresh, number), "admin")
        return created, lost

    try:
        created, lost = asyncio.run(initialise())
    except WrongTopics as error:
        raise CommandError(f"The log is not as it must be: {error}", "Nothing was changed.") from None
    except WrongSchema as error:
        raise CommandError(str(error)) from None
    except (
        KafkaError,
        OutcomeUnknown,
        StoreUnavailable,
        asyncpg.InterfaceError,
        asyncpg.PostgresError,
        OSError,
    ) as error:
        raise CommandError(
            f"The installation could not be initialised: {type(error).__name__}: {error}",
            "Nothing is half done: check the addresses (RAVAND_KAFKA__…, RAVAND_DATABASE__URL, RAVAND_STORE__URL) and run"
            " it again.",
        ) from None
    typer.echo(
        f"Initialised: {len(created)} topics created, tables and object store ready."
        if created
        else "Ready; nothing to create."
    )
    if lost:
        typer.echo(_completed(lost))


@app.command("complete-log")
def complete_log() -> None:
    """After a loss of power, and before any service: give the log back what it lost and the journal has."""
    typer.echo(_completed(asyncio.run(_complete(read_settings()))))


async def _complete(settings: Settings) -> dict[int, int]:
    import asyncpg
    from aiokafka.errors import KafkaError

    from projections.log_check import LogDiverged, complete

    try:
        return await complete(settings.kafka, settings.database)
    except LogDiverged as error:
        raise CommandError(str(error), "docs/backup.md says what can be done.") from None
    except (KafkaError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise CommandError(
            f"The log could not be compared with the journal: {type(error).__name__}: {error}",
            "Check that Kafka and PostgreSQL run and are the ones meant (RAVAND_KAFKA__…, RAVAND_DATABASE__URL), and run it"
            " again.",
        ) from None


def _completed(lost: dict[int, int]) -> str:
    if not lost:
        return "The log is whole."
    return f"{sum(lost.values())} records that the broker had lost were completed from the journal."


async def _has_journal(settings: Settings) -> bool:
    from adapters.postgres import connect

    connection = await connect(settings.database, name="admin")
    try:
        # Cheaper than asking the broker, and enough at every start but the first.
        return bool(await connection.fetchval("SELECT EXISTS (SELECT 1 FROM log.journal)"))
    finally:
        await connection.close()


@app.command()
def user(
    email: Annotated[str, typer.Argument(help="E-mail address of the administrator.")],
    name: Annotated[str, typer.Option(help="Name to show.")] = "Administrator",
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from standard input.")
    ] = False,
) -> None:
    """Make an administrator: a new account, or the role for one that exists."""
    import asyncpg

    from api.accounts.admin import create_admin

    settings = read_settings()
    if password_stdin:
        password = sys.stdin.readline().rstrip("\n")
    else:
        password = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    try:
        asyncio.run(create_admin(settings, email, password, name))
    except ValueError as error:
        raise CommandError(str(error), "Nothing was changed.") from None
    except (asyncpg.InterfaceError, asyncpg.PostgresError, OSError) as error:
        raise CommandError(
            f"The administrator could not be made: {type(error).__name__}: {error}",
            "Check that PostgreSQL runs and is the one meant (RAVAND_DATABASE__URL), and run it again.",
        ) from None
    typer.echo(f"{email} is an administrator.")
