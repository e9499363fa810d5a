"""The services of the platform, one command each. `ravand up` runs them all on one machine."""

from __future__ import annotations

import asyncio
import faulthandler
import signal
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated

import typer

from cli.errors import CommandError

if TYPE_CHECKING:
    from adapters.settings import Settings

Run = Callable[["Settings", asyncio.Event], Awaitable[None]]

INITIALISATION_SECONDS = 60.0
"""How long a service waits for missing topics or tables: `ravand admin init` may be running beside it."""


def api(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
) -> None:
    """Answer REST and WebSocket clients."""
    from api.app import run

    changes = {"host": host, "port": port}
    _serve("api", run, api={name: value for name, value in changes.items() if value is not None}, database=True)


def worker(
    device: Annotated[
        str | None, typer.Option(help="Device to train on: cpu, cuda:0, … The best there is by default.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of a training.")] = None,
) -> None:
    """Claim jobs and train them, one at a time."""
    from workers.worker import run

    changes = {"device": device, "threads": threads}
    _serve("worker", run, worker={name: value for name, value in changes.items() if value is not None})


def projector() -> None:
    """Judge the log, write the read models, publish the facts and the tables."""
    from projections.projector import run

    _serve("projector", run, database=True)


def supervisor() -> None:
    """Notice lost workers and queue their jobs again."""
    from workers.supervisor import run

    _serve("supervisor", run)


def telemetry() -> None:
    """Store step metrics, log lines and resource samples; keep the snapshots of time travel."""
    from projections.background import run

    _serve("telemetry", run, database=True)


def _serve(service: str, run: Run, *, database: bool = False, **changes: dict[str, object]) -> None:
    """Run a service until SIGTERM or SIGINT. A second signal ends the process at once."""
    import uvloop

    from adapters.logging import configure

    settings = read_settings(**changes)
    configure(settings, service)
    faulthandler.enable()  # Where it was, if ever a library aborts the process.
    uvloop.run(_until_stopped(service, run, settings, database))


def read_settings(**changes: dict[str, object]) -> Settings:
    """The settings from the environment, with the command's own options on top. Raises `CommandError` naming each fault."""
    from pydantic import ValidationError

    from adapters.settings import Settings

    try:
        settings = Settings()
        for part, values in changes.items():
            if values:
                validated = type(getattr(settings, part)).model_validate(
                    {**getattr(settings, part).model_dump(), **values}
                )
                settings = settings.model_copy(update={part: validated})
    except ValidationError as error:
        faults = "; ".join(
            f"RAVAND_{'__'.join(str(part).upper() for part in fault['loc'])}: {fault['msg']}"
            for fault in error.errors()
        )
        raise CommandError(
            f"The settings are not usable: {faults}", "Correct the environment and start again."
        ) from None
    return settings


async def _until_stopped(service: str, run: Run, settings: Settings, database: bool) -> None:
    import structlog

    log = structlog.get_logger(service)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():
            raise SystemExit(1)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    ready = asyncio.create_task(_surroundings(settings, database, log))
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait({ready, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if not ready.done():
        ready.cancel()
        await asyncio.wait({ready})
        if not ready.cancelled():
            ready.result()
        return
    ready.result()
    stopped.cancel()
    await run(settings, stop)


async def _surroundings(settings: Settings, database: bool, log: structlog.stdlib.BoundLogger) -> None:  # type: ignore[name-defined]  # noqa: F821
    """Wait until the log and the tables are there as stated. A wrong one is refused; an absent one is waited for."""
    from aiokafka.errors import KafkaError

    from adapters.migrations import MissingTables, WrongSchema
    from adapters.postgres import is_outage
    from adapters.topics import MissingTopics, WrongTopics, check_topics
    from projections.log_check import LogDiverged

    loop = asyncio.get_running_loop()
    refuse_at = loop.time() + INITIALISATION_SECONDS
    delay, said = 0.05, ""
    while True:
        try:
            await check_topics(settings.kafka)
            if database:
                await _check_tables(settings)
                await _complete_log(settings)
            return
        except LogDiverged as error:
            raise CommandError(str(error)) from None
        except (MissingTopics, MissingTables) as error:
            if loop.time() > refuse_at:
                raise CommandError(str(error), "Run `ravand admin init` once, then start again.") from None
            waiting_for = "initialisation"
        except WrongTopics as error:
            raise CommandError(f"The log is not as it must be: {error}", "Nothing was changed.") from None
        except WrongSchema as error:
            raise CommandError(str(error)) from None
        except Exception as error:
            if not (isinstance(error, KafkaError | OSError) or is_outage(error)):
                raise
            waiting_for = type(error).__name__
            refuse_at = loop.time() + INITIALISATION_SECONDS
        if waiting_for != said:
            log.info("waiting for the log", reason=waiting_for)
            said = waiting_for
        await asyncio.sleep(delay)
        delay = min(0.25, delay * 2)


async def _complete_log(settings: Settings) -> None:
    """Of a Kafka that runs elsewhere. `ravand up` has done it before it let anybody reach its own."""
    from projections.log_check import complete

    if settings.state is None:
        await complete(settings.kafka, settings.database)


async def _check_tables(settings: Settings) -> None:
    from adapters.migrations import check

    await check(settings.database.url.get_secret_value())
