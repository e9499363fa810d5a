"""`ravand admin dead-letters`: what nobody could decode, where it lies, and what it is."""

from __future__ import annotations

import base64
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from cli.errors import CommandError
from cli.safe_bytes import dump, escaped, is_text
from cli.services import read_settings

if TYPE_CHECKING:
    from adapters.settings import Settings
    from audit.dead_letters import DeadLetter

T = TypeVar("T")
SHOWN_BYTES = 4096
app = typer.Typer(help="Records that could not be decoded: each was refused and kept, and its partition went on.")
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback(invoke_without_command=True)
def default(context: typer.Context, json: Json = False) -> None:
    """Without a further command: the list."""
    if context.invoked_subcommand is None:
        list_letters(json)


@app.command("list")
def list_letters(json: Json = False) -> None:
    """All of them, by their positions in the log."""
    from audit.dead_letters import letters
    from cli.output import print_json

    found = _run(letters(read_settings().kafka))
    if json:
        print_json([_document(letter) for letter in found])
        return
    for letter in found:
        typer.echo(
            f"{_moment(letter)}  {letter.partition}/{letter.offset}".ljust(44)
            + f"  {_size(letter):>20}  {escaped(letter.error.encode())}"
        )
    if found:
        typer.echo("`ravand admin dead-letters show PARTITION OFFSET` shows one.")
    else:
        typer.echo("There are none: every record of the log could be decoded.")


@app.command()
def show(
    partition: Annotated[int, typer.Argument(min=0, help="Partition of the log.")],
    offset: Annotated[int, typer.Argument(min=0, help="Offset in it.")],
    json: Json = False,
    everything: Annotated[bool, typer.Option("--all", help=f"All bytes, not the first {SHOWN_BYTES}.")] = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write the value's bytes to this file.")] = None,
) -> None:
    """One of them, whole. On a terminal nothing of it but printable characters is written."""
    letter = _run(_found(read_settings(), partition, offset))
    if letter is None:
        raise CommandError(
            f"There is no dead letter of partition {partition}, offset {offset}.",
            "`ravand admin dead-letters` lists them.",
        )
    if output is not None:
        _write(output, letter)
    elif json:
        from cli.output import print_json

        value = letter.value
        encoded = None if value is None else base64.b64encode(value).decode()
        print_json({**_document(letter), "key": _text(letter.key), "value_base64": encoded})
    else:
        _print(letter, everything)


async def _found(settings: Settings, partition: int, offset: int) -> DeadLetter | None:
    """The whole record from the journal with the error from its letter; whichever of the two can be read."""
    import msgspec

    from adapters.postgres import is_outage
    from audit.dead_letters import from_journal, letters
    from audit.reading import connected

    copies = {(letter.partition, letter.offset): letter for letter in await letters(settings.kafka)}
    copy = copies.get((partition, offset))
    try:
        async with connected(settings) as connection:
            whole = await from_journal(connection, partition, offset)
    except Exception as error:
        if copy is None or not is_outage(error):
            raise
        return copy
    if whole is None or copy is None:
        return whole or copy
    return msgspec.structs.replace(whole, error=copy.error)


def _print(letter: DeadLetter, everything: bool) -> None:
    typer.echo(f"position  partition {letter.partition}, offset {letter.offset}")
    typer.echo(f"time      {_moment(letter)}")
    typer.echo(f"error     {escaped(letter.error.encode()) or '(only its letter says; there is none)'}")
    typer.echo(f"key       {_text(letter.key) if letter.key is not None else '(none)'}")
    typer.echo(f"size      {_size(letter)}")
    if letter.value is None:
        return
    shown = letter.value if everything else letter.value[:SHOWN_BYTES]
    typer.echo("")
    if is_text(shown):
        typer.echo(escaped(shown))
    else:
        for line in dump(shown):
            typer.echo(line)
    if len(shown) < letter.size:
        typer.echo(f"… {letter.size - len(shown)} bytes more: --all shows them, -o FILE writes all to a file.")
    if not letter.whole:
        typer.echo("The copy may be cut; the journal, which has the record whole, could not be read.")


def _write(output: Path, letter: DeadLetter) -> None:
    try:
        output.write_bytes(letter.value or b"")
    except OSError as error:
        raise CommandError(f"{output} could not be written: {error.strerror}.", "Name another file.") from None
    typer.echo(f"{output}: {_size(letter)}", err=True)


def _document(letter: DeadLetter) -> dict[str, Any]:
    return {
        "position": {"partition": letter.partition, "offset": letter.offset},
        "time": _moment(letter),
        "error": letter.error,
        "bytes": letter.size,
        "whole": letter.whole,
    }


def _moment(letter: DeadLetter) -> str:
    from audit.story import moment

    return moment(letter.at)


def _size(letter: DeadLetter) -> str:
    if letter.value is None:
        return "no value"
    return f"{letter.size} bytes" + ("" if letter.whole else " or more")


def _text(data: bytes | None) -> str | None:
    return None if data is None else escaped(data)


def _run(work: Coroutine[Any, Any, T]) -> T:
    import asyncio

    import asyncpg
    from aiokafka.errors import KafkaError

    from audit.log_reader import LogUnreadable

    try:
        return asyncio.run(work)
    except (KafkaError, LogUnreadable, asyncpg.InterfaceError, asyncpg.PostgresError, OSError) as error:
        raise CommandError(
            f"The dead letters could not be read: {type(error).__name__}: {error}",
            "Check that Kafka and PostgreSQL run and are the ones meant (RAVAND_KAFKA__…, RAVAND_DATABASE__URL).",
        ) from None
