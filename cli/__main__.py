"""The command line `ravand`: one program for operators, for services, and for people who train."""

from __future__ import annotations

import os
import sys

import typer

from cli.errors import CommandError
from ops.errors import OperatorError

SERVICES = ("api", "worker", "projector", "supervisor", "telemetry")


def application(*, only_services: bool = False) -> typer.Typer:
    """The commands. A service loads nothing of the others: what it imports, it holds in memory for months."""
    app = typer.Typer(
        name="ravand",
        help="Ravand trains machine-learning models, and its state never lies.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    from cli import services

    for name in SERVICES:
        app.command(name, rich_help_panel="Single services")(getattr(services, name))
    if only_services:
        app.callback()(_no_callback)
        return app
    from cli import accounts, admin, audit, datasets, demo, jobs, models, predict, settings, train
    from ops import commands as machine

    for machine_command in (machine.up, machine.ps, machine.env, settings.settings, demo.demo):
        app.command(rich_help_panel="Running it")(machine_command)
    app.add_typer(admin.app, name="admin", rich_help_panel="Running it")
    app.add_typer(audit.app, name="audit", rich_help_panel="Running it")
    for account_command in (accounts.register, accounts.login, accounts.logout, accounts.whoami):
        app.command(rich_help_panel="Account")(account_command)
    app.add_typer(datasets.app, name="dataset", rich_help_panel="Training")
    for command in (
        train.recipes,
        train.train,
        jobs.jobs,
        jobs.job,
        jobs.stop,
        jobs.pause,
        jobs.resume,
        jobs.retry,
        jobs.priority,
    ):
        app.command(rich_help_panel="Training")(command)
    app.add_typer(models.app, name="model", rich_help_panel="Training")
    app.command(rich_help_panel="Training")(predict.predict)
    return app


def _no_callback() -> None:
    """One command alone would swallow its own name; a callback keeps it a subcommand."""


def main() -> None:
    """Entry point. Exit status: 0 done, 1 it could not be done (the reason is on stderr), 2 wrong usage."""
    only_services = sys.argv[1:2] != [] and sys.argv[1] in SERVICES
    if only_services:
        _load_structlog_alone()
    try:
        application(only_services=only_services)()
    except (OperatorError, CommandError) as error:
        _explain(error.message, error.what_to_do)
    except KeyboardInterrupt:
        sys.exit(130)
    except SystemExit as end:
        if only_services or not isinstance(end.__context__, BrokenPipeError):
            raise
        # The reader of our output went away (`ravand jobs | head`): nothing is wrong, though typer takes it for a failure.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # What is left would be tried again at the end.
        sys.exit(0)


def _load_structlog_alone() -> None:
    """It would load rich for the look of tracebacks, and that for nothing: three megabytes in each service."""
    sys.modules["rich"] = None  # type: ignore[assignment]  # How Python is told that there is none.
    import structlog  # noqa: F401

    del sys.modules["rich"]


def _explain(message: str, what_to_do: str) -> None:
    typer.secho(message, err=True, fg=typer.colors.RED)
    if what_to_do:
        typer.echo(what_to_do, err=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
