"""Judges the records of one partition, in order: verdicts by `domain`, rows and messages by what they say."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg
import msgspec
import structlog

from domain import rules as partition_rules
from domain.events import AttemptStarted, CheckpointSaved, EpochCompleted, JobRequested, RulesActivated
from domain.refusal import Refusal
from domain.workspace import Effect, Workspace, judge, needs
from projections.batch import Batch, Row
from projections.chain import link
from projections.loading import load
from projections.memory import Key, Memory, keys_of
from projections.reading import Refused, read_many, under
from projections.tables import LIVE
from schemas import facts
from schemas.envelope import NAMES, TYPE_COPIES, Envelope
from schemas.job_view import view

SLICE = 100
"""Records judged before others on the loop get their turn: about two milliseconds."""
_encode = msgspec.json.Encoder().encode
log = structlog.get_logger(__name__)


class PartitionStopped(Exception):
    """This build cannot judge the record at `offset`: a bug in it, or rules that it does not know. Never a verdict."""

    def __init__(self, partition: int, offset: int, id: str) -> None:
        super().__init__(f"partition {partition}, offset {offset}, record {id or '(unreadable)'}")
        self.offset = offset
        self.id = id


class Judge:
    """Judges one partition from a position on. After any exception from it, it is thrown away.

    `generation` is that of the tables in `schema`, on which it judges. Without `with_facts` it leaves out what facts have
    beyond their records, some 4 µs a record: a rebuild publishes none.
    """

    def __init__(
        self,
        pool: asyncpg.Pool,
        partition: int,
        memory: Memory,
        *,
        rules: int,
        chain: bytes,
        generation: int = 0,
        schema: str = LIVE,
        with_facts: bool = True,
    ) -> None:
        self.memory = memory
        self.rules = rules
        self.chain = chain
        self._pool = pool
        self._partition = partition
        self._generation = generation
        self._schema = schema
        self._with_facts = with_facts

    async def judge(self, records: Sequence[Any], start: int, shown: set[tuple[str, str]]) -> Batch:
        """The batch of `records` (as aiokafka gives them), the first of which is the first at or after `start`.

        `shown` names (workspace, job) rows to publish again. Raises `PartitionStopped` where judging one fails.
        """
        end = records[-1].offset + 1 if records else start
        readings = await self._read(records)
        keys, requests = self._needs(readings)
        keys.update(("job", *job) for job in shown)
        keys.update([("workspace", workspace, "") for _, workspace, _ in keys])
        await load(self._pool, self.memory, self._partition, keys, requests, start, self._schema)
        self.memory.use(keys, end)
        batch = Batch(self._partition, start, end, self.rules, self.chain, generation=self._generation)
        for first in range(0, len(records), SLICE):
            for record, reading in zip(records[first : first + SLICE], readings[first : first + SLICE], strict=True):
                try:
                    self._judge_one(batch, record, reading)
                except Exception as error:
                    raise PartitionStopped(self._partition, record.offset, reading.id) from error
            await asyncio.sleep(0)
        for workspace, job_id in shown - batch.jobs.keys():
            if (job := self.memory.workspaces[workspace].jobs.get(job_id)) is not None:
                batch.shown[workspace, job_id] = job
        batch.rules, batch.chain = self.rules, self.chain
        return batch

    async def _read(self, records: Sequence[Any]) -> list[Envelope | Refused]:
        readings: list[Envelope | Refused] = []
        for first in range(0, len(records), SLICE):
            readings += read_many(records[first : first + SLICE], self._partition)
            await asyncio.sleep(0)
        return readings

    def _needs(self, readings: Sequence[Envelope | Refused]) -> tuple[set[Key], set[tuple[str, str]]]:
        keys: set[Key] = set()
        requests: set[tuple[str, str]] = set()
        for reading in readings:
            if type(reading) is Refused:
                continue
            workspace, event = reading.workspace, reading.data
            if type(event) is EpochCompleted:
                keys.add(("job", workspace, reading.subject))
                continue
            keys.add(("workspace", workspace, ""))
            needed = needs(reading.id, reading.subject, event)
            keys.update(keys_of(workspace, needed))
            if needed.request is not None:
                requests.add((workspace, needed.request))
        return keys, requests

    def _judge_one(self, batch: Batch, record: Any, reading: Envelope | Refused) -> None:
        key, value, at = record.key, record.value, record.timestamp
        self.chain = link(self.chain, at, key, value)
        version: int | None = None
        tail: bytes | None = None
        verdict: Effect | Refusal
        reading = under(reading, self.rules)
        if type(reading) is Refused:
            verdict = reading.refusal
            kind = reading.type
            if reading.refusal is Refusal.UNDECODABLE:
                batch.errors[record.offset] = reading.error
        else:
            event = reading.data
            kind = NAMES[type(event)]
            workspace = self.memory.workspaces[reading.workspace]
            if type(event) is RulesActivated:
                verdict = self._activate(workspace, event)
            else:
                verdict = self._verdict(batch, workspace, reading, record)
            if type(verdict) is Effect:
                version, tail = self._effective(batch, workspace, reading, verdict, at)
        refusal = None if type(verdict) is Effect else verdict.value
        batch.journal.append(
            (
                self._partition,
                record.offset,
                at,
                reading.id,
                kind,
                reading.workspace,
                reading.subject,
                reading.actor,
                version,
                refusal,
                key,
                value,
                _unusual(record.headers, reading),
                tail,
                self.chain,
            )
        )

    def _verdict(self, batch: Batch, workspace: Workspace, reading: Envelope, record: Any) -> Effect | Refusal:
        event = reading.data
        first = event.is_request and reading.id not in workspace.requests
        verdict = judge(
            workspace,
            id=reading.id,
            subject=reading.subject,
            actor=reading.actor,
            event=event,
            at=record.timestamp,
        )
        if first:
            self.memory.requested(workspace.id, reading.id, batch.end)
            effective = isinstance(verdict, Effect)
            batch.requests.append(
                (
                    workspace.id,
                    reading.id,
                    self._partition,
                    record.offset,
                    NAMES[type(event)],
                    reading.subject,
                    verdict.version if isinstance(verdict, Effect) else None,
                    None if effective else verdict,
                    reading.requesthash,
                )
            )
        elif (
            type(event) is AttemptStarted
            and isinstance(verdict, Refusal)
            and (job := workspace.jobs.get(reading.subject)) is not None
        ):
            # Whoever claimed in vain acted on an old row, or on one that was overwritten: show it what holds.
            batch.shown[workspace.id, reading.subject] = job
        return verdict

    def _activate(self, workspace: Workspace, event: RulesActivated) -> Effect | Refusal:
        refusal = partition_rules.admit(self.rules, event)
        if refusal is not None:
            return refusal
        self.rules = event.rules
        # A new partition begins with the newest rules; only a change is news.
        tell = log.debug if workspace.version == 0 else log.info
        tell("rules activated", partition=self._partition, rules=event.rules)
        workspace.version += 1
        return Effect(version=workspace.version)

    def _effective(
        self, batch: Batch, workspace: Workspace, reading: Envelope, effect: Effect, at: int
    ) -> tuple[int, bytes | None]:
        id, job, version = workspace.id, effect.job, effect.version
        batch.workspaces[id] = version
        if job is not None:
            batch.jobs[id, job.id] = job
        event = reading.data
        if type(event) is EpochCompleted:
            assert job is not None
            batch.epochs.append((id, job.id, event.attempt, event.epoch, version, at, _encode(event.metrics)))
        elif effect.checkpoint is not None:
            assert type(event) is CheckpointSaved
            self._saved(batch, id, reading.subject, event, version)
        elif effect.struck is not None:
            struck = effect.struck
            batch.struck.append((id, reading.subject, struck.attempt, struck.epoch, struck.step))
        elif type(event) is JobRequested:
            batch.requested[id, reading.subject] = version
        elif effect.dataset is not None:
            batch.datasets.append((id, effect.dataset))
        if effect.model is not None:
            batch.models.append((id, effect.model))
        if not self._with_facts:
            return version, None
        previous = job.previous if job is not None else 0
        shown = view(job) if job is not None else None
        return version, facts.tail(version=version, previous=previous, at=at, job=shown)

    def _saved(self, batch: Batch, workspace: str, job: str, event: CheckpointSaved, version: int) -> None:
        key = (job, event.attempt, event.epoch, event.step)
        self.memory.use([("checkpoint", workspace, key)], batch.end)
        row: Row = (workspace, *key, event.uri, event.sha256, version, False)
        batch.checkpoints.append(row)


def _unusual(found: Sequence[tuple[str, bytes | None]], reading: Envelope | Refused) -> bytes | None:
    """The record's headers for the journal; None where they are the copies that every writer makes."""
    if (
        type(reading) is not Refused
        and len(found) == 2
        and found[0] == TYPE_COPIES[type(reading.data)]
        and found[1] == ("ce_id", reading.id.encode())
    ):
        return None
    return _encode([(name, value) for name, value in found])
