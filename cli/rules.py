"""`ravand admin rules`: by which rule set each partition of the log is judged, and bringing the next one into force."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Annotated

import typer

from cli.errors import CommandError
from cli.services import read_settings

if TYPE_CHECKING:
    from adapters.settings import Settings

_JUDGED_SECONDS = 10.0


def rules(
    activate: Annotated[
        int | None,
        typer.Option(min=2, help="Bring this rule set into force, in every partition. There is no way back."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Which rule set is in force in each partition. A newer one comes into force only by --activate.

    Processes of an older version stop at a newer rule set, so bring it into force once all are of this one.
    """
    import asyncpg
    from aiokafka.errors import KafkaError

    from adapters.kafka import OutcomeUnknown
    from domain.rules import KNOWN_RULES

    if activate is not None and activate > KNOWN_RULES:
        raise CommandError(
            f"This version knows rule sets up to {KNOWN_RULES}.", "Nothing was changed. A newer version may know more."
        )
    settings = read_settings()
    try:
        found = asyncio.run(_activated(settings, activate) if activate is not None else _in_force(settings))
    except OutcomeUnknown as error:
        raise CommandError(
            f"The log did not acknowledge: {error}.", "Run it again: what is in force already is left as it is."
        ) from None
    except (KafkaError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise CommandError(
            f"It could not be done: {type(error).__name__}: {error}",
            "Check that Kafka and PostgreSQL run (RAVAND_KAFKA__…, RAVAND_DATABASE__URL) and run it again.",
        ) from None
    if json:
        from cli.output import print_json

        print_json({"known": KNOWN_RULES, "partitions": {str(number): held for number, held in found.items()}})
        return
    behind = sorted(number for number, held in found.items() if held < (activate or KNOWN_RULES))
    for held in sorted(set(found.values())):
        partitions = [number for number, other in found.items() if other == held]
        where = "every partition" if len(partitions) == len(found) else f"partitions {', '.join(map(str, partitions))}"
        typer.echo(f"Rule set {held} is in force in {where}.")
    if behind and activate is None:
        typer.echo(
            f"This version knows rule set {KNOWN_RULES}: `ravand admin rules --activate {KNOWN_RULES}` activates it."
        )
    elif behind:
        typer.echo("It is on the log, and not judged everywhere yet: a projector has to run.")


async def _in_force(settings: Settings) -> dict[int, int]:
    from adapters.postgres import connect
    from projections import rule_sets

    connection = await connect(settings.database, name="admin")
    try:
        return await rule_sets.in_force(connection)
    finally:
        await connection.close()


async def _activated(settings: Settings, number: int) -> dict[int, int]:
    """Bring it into force, one rule set after the other, and wait for a while until it is judged."""
    from projections import rule_sets

    found = await _in_force(settings)
    for next_one in range(min(found.values()) + 1, number + 1):
        behind = {partition: next_one for partition, held in found.items() if held == next_one - 1}
        await rule_sets.activate(settings.kafka, behind, "admin")
        until = time.monotonic() + _JUDGED_SECONDS
        while any(held < next_one for held in found.values()) and time.monotonic() < until:
            await asyncio.sleep(0.1)
            found = await _in_force(settings)
    return found
