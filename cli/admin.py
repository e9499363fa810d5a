"""Commands for whoever runs the platform."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

import typer

from cli import dead_letters
from cli.errors import CommandError
from cli.services import read_settings

app = typer.Typer(help="Set up and look after an installation.", no_args_is_help=True)
app.add_typer(dead_letters.app, name="dead-letters")


@app.command()
def init() -> None:
    """Create what is missing: topics, tables, the object store's marker. Running it again changes nothing."""
    from aiokafka.errors import KafkaError

    settings = read_settings()

    async def initialise() -> list[str]:
        from adapters.migrations import migrate
        from adapters.object_store import ObjectStore
        from adapters.topics import check_topics, create_topics

        created = await create_topics(settings.kafka)
        await check_topics(settings.kafka)
        await migrate(settings.database.url.get_secret_value())
        await ObjectStore(settings.store.url).init()
        return created

    try:
        created = asyncio.run(initialise())
    except (KafkaError, OSError) as error:
        raise CommandError(
            f"The installation could not be initialised: {error}",
            "Nothing is half done: check the addresses (RAVAND_KAFKA__…, RAVAND_DATABASE__URL) and run it again.",
        ) from None
    typer.echo(
        f"Initialised: {len(created)} topics created, tables and object store ready."
        if created
        else "Ready; nothing to create."
    )


@app.command()
def user(
    email: Annotated[str, typer.Argument(help="E-mail address of the administrator.")],
    name: Annotated[str, typer.Option(help="Name to show.")] = "Administrator",
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from standard input.")
    ] = False,
) -> None:
    """Make an administrator: a new account, or the role for one that exists."""
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
    typer.echo(f"{email} is an administrator.")
