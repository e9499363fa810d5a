"""`ravand audit replay`: lines as they are read, however many there are."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import typer

from adapters.settings import Settings
from audit.entries import Entry, from_journal, from_log
from audit.reading import connected, job_before, workspace_of
from audit.selection import Selection
from audit.story import Narrator, ending, moment
from schemas.envelope import header

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class Asked:
    """The options of the command."""

    job: str | None
    dataset: str | None
    model: str | None
    actor: str | None
    workspace: str | None
    since: int | None
    until: int | None
    versions: tuple[int, int] | None
    verdict: Literal["effective", "refused"] | None
    from_log: bool
    form: Literal["story", "table", "jsonl"]
    every: bool


async def replay(settings: Settings, asked: Asked) -> None:
    """Print what was asked for."""
    async with AsyncExitStack() as stack:
        connection: Any = None
        workspace = asked.workspace
        if not asked.from_log:
            connection = await stack.enter_async_context(connected(settings))
            if workspace is None and (asked.job or asked.dataset or asked.versions):
                workspace = await workspace_of(connection, job=asked.job, dataset=asked.dataset)
        selection = Selection(
            workspace=workspace,
            job=asked.job,
            dataset=asked.dataset,
            model=asked.model,
            actor=asked.actor,
            since=asked.since,
            until=asked.until,
            versions=asked.versions,
            verdict=asked.verdict,
        )
        entries = from_log(settings.kafka, selection) if connection is None else from_journal(connection, selection)
        # Whoever reads what we print may go away in the middle of it.
        await stack.enter_async_context(aclosing(entries))
        match asked.form:
            case "jsonl":
                async for entry in entries:
                    typer.echo(_encode(document(entry)))
            case "table":
                await _table(entries)
            case "story":
                await _story(entries, selection, connection, every=asked.every)


def document(entry: Entry) -> dict[str, Any]:
    """A record as a JSON object."""
    found: dict[str, Any] = {
        "position": {"partition": entry.partition, "offset": entry.offset},
        "time": moment(entry.at),
        "id": entry.id,
        "type": entry.type,
        "workspace": entry.workspace,
        "subject": entry.subject,
        "actor": entry.actor,
        "verdict": "effective" if entry.version is not None else "refused",
    }
    if entry.version is not None:
        found["version"] = entry.version
    else:
        found["reason"] = entry.refusal
    if entry.envelope is not None:
        for name in ("correlationid", "causationid"):
            if (value := getattr(entry.envelope, name)) is not None:
                found[name] = value
    said = header(entry.value)
    if said is not None:
        found["data"] = said.data
    elif entry.value is not None:
        found["value_base64"] = base64.b64encode(entry.value).decode()
    return found


_COLUMNS = "{:<24}  {:>9}  {:<8}  {:<18}  {:<36}  {:<36}  {}"


async def _table(entries: AsyncIterator[Entry]) -> None:
    count = 0
    async for entry in entries:
        if not count:
            typer.echo(_COLUMNS.format("time", "position", "verdict", "type", "subject", "actor", "reason").rstrip())
        count += 1
        typer.echo(
            _COLUMNS.format(
                moment(entry.at),
                f"{entry.partition}/{entry.offset}",
                f"v{entry.version}" if entry.version is not None else "refused",
                entry.type or "(unreadable)",
                entry.subject,
                entry.actor,
                entry.refusal or "",
            ).rstrip()
        )
    if not count:
        typer.echo("No record matches.")


async def _story(entries: AsyncIterator[Entry], selection: Selection, connection: Any, *, every: bool) -> None:
    async def load(entry: Entry) -> Any:
        return await job_before(connection, entry)

    # Where records are left out, the narrator asks what the job was before each one that is told.
    narrator = Narrator(None if connection is None else load, always=not selection.is_whole)
    told = None
    one_job = selection.subject is not None
    async for told in narrator.tell(entries, every=every):
        about = "" if one_job or not told.first.subject else f" [{told.first.subject}]"
        typer.echo(f"{told.when}  {told.mark:<10}{about} {told.sentence}")
    if told is None:
        typer.echo("No record matches.")
    elif one_job and selection.is_whole and told.after is not None:
        typer.echo(ending(told.after))
