"""`ravand up`, `ravand ps` and `ravand env` as Typer commands; what they need is imported when they run."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, ParamSpec

import typer

from ops.errors import OperatorError

DEFAULT_STATE = Path(".ravand")
StateOption = Annotated[Path, typer.Option(help="The state folder: all data, secrets and logs, private to you.")]
JsonOption = Annotated[bool, typer.Option("--json", help="For programs.")]
PortOption = Annotated[int | None, typer.Option(min=1, max=65535, help="A free one, always the same, by default.")]
P = ParamSpec("P")


def explained(command: Callable[P, None]) -> Callable[P, None]:
    """An error that an operator can do something about: two lines and exit status 1, never a traceback."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except OperatorError as error:
            typer.secho(error.message, err=True, fg=typer.colors.RED)
            typer.echo(error.what_to_do, err=True)
            raise typer.Exit(1) from None

    return run


@explained
def up(
    state: StateOption = DEFAULT_STATE,
    port: Annotated[int, typer.Option(min=1, max=65535, envvar="RAVAND_API__PORT", help="Of API and page.")] = 8000,
    host: Annotated[str, typer.Option(envvar="RAVAND_API__HOST", help="Where the API listens.")] = "127.0.0.1",
    workers: Annotated[int, typer.Option(min=0, help="How many jobs train at the same time.")] = 1,
    kafka_port: PortOption = None,
    postgres_port: PortOption = None,
    only_servers: Annotated[bool, typer.Option(help="Kafka and PostgreSQL, none of the services.")] = False,
    brokers: Annotated[
        int | None, typer.Option(help="Kafka brokers, 1 or 3, of a new state folder; with three any one may fail.")
    ] = None,
    kafka_advertised: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT[,…]",
            help="Where clients reach the broker (each of them), if something like a tunnel is in between.",
        ),
    ] = None,
) -> None:
    """Run everything on this machine, in the foreground, until Ctrl-C; the next `up` goes on where this one stopped.

    Kafka and PostgreSQL are part of it, unless RAVAND_KAFKA__BOOTSTRAP_SERVERS or RAVAND_DATABASE__URL name others.
    """
    import asyncio

    from ops.embedded import AskedPorts
    from ops.installation import Options
    from ops.up import up as run

    asked = AskedPorts(kafka=kafka_port, postgres=postgres_port)
    advertised = tuple(kafka_advertised.split(",")) if kafka_advertised else ()
    asyncio.run(run(Options(state, host, port, workers, asked, only_servers, brokers, advertised)))


@explained
def ps(state: StateOption = DEFAULT_STATE, json: JsonOption = False) -> None:
    """Show the processes of a running `ravand up`. Exit status 1 if none runs (with --json: an empty list)."""
    from ops.ps import show

    raise typer.Exit(0 if show(state, as_json=json) else 1)


@explained
def env(state: StateOption = DEFAULT_STATE, json: JsonOption = False) -> None:
    """Print the settings of a running `ravand up`, passwords included, with which another program can join it.

    In a shell: `set -a; eval "$(ravand env)"; set +a`.
    """
    from ops.env import show

    show(state, as_json=json)
