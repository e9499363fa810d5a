"""Follows the table of open jobs that the projectors write, to find rows that are missing or older than they should be.

A projector that was suspended, or whose send was retried late, may write an old row after a newer one. Readers that saw
the newer one ignore it; compaction keeps the last, so whoever starts later would see only the old one. Hence: the table is
read whole at the start and then its tail, and what is wrong in it is published again by the partition that it belongs to.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import asyncpg
import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from adapters.kafka import AT_LEISURE, consumer, topic_name
from adapters.postgres import is_outage
from adapters.settings import KafkaSettings
from projections.reading import home
from projections.trouble import Trouble
from schemas.facts import VERSION_HEADER, WORKSPACE_HEADER
from schemas.topics import JOBS

JobKey = tuple[str, str]
"""Workspace and job."""
_REMEMBERED_TOMBSTONES = 20_000
_DOUBTS_EVERY_SECONDS = 5.0
_PAUSE_SECONDS = 1.0
_CHUNK = 5_000
_OPEN = """
SELECT j.workspace, j.job_id, j.version FROM log.workspaces w JOIN read.jobs j ON j.workspace = w.workspace
 WHERE w.partition = $1 AND j.status NOT IN ('completed', 'failed', 'stopped')
"""
_NEWER = """
SELECT j.workspace, j.job_id FROM unnest($1::text[], $2::text[], $3::bigint[]) AS k(workspace, id, version)
  JOIN read.jobs j ON j.workspace = k.workspace AND j.job_id = k.id
 WHERE j.version > k.version AND j.status IN ('completed', 'failed', 'stopped')
"""
log = structlog.get_logger(__name__)


class _Seen:
    """What the table has shown of a job: the newest version, and the version of the last row, which compaction keeps."""

    __slots__ = ("last", "newest", "workspace")

    def __init__(self, workspace: str, version: int) -> None:
        self.workspace = workspace
        self.newest = self.last = version


class JobsTable:
    """What the topic holds, as far as it was read. `show` is told of rows that must be published again."""

    def __init__(
        self,
        settings: KafkaSettings,
        pool: asyncpg.Pool,
        show: Callable[[Iterable[JobKey]], None],
        trouble: Trouble,
    ) -> None:
        self.whole = 0
        """How often it was read whole: after each, every partition compares its jobs with it once."""
        self._settings = settings
        self._pool = pool
        self._show = show
        self._trouble = trouble
        self._open: dict[str, _Seen] = {}
        self._over: OrderedDict[str, _Seen] = OrderedDict()
        self._doubted: dict[str, _Seen] = {}
        """Rows of jobs not seen before: new ones mostly, but one may be a late row of a job long over."""

    async def run(self) -> None:
        """Until cancelled; after any trouble, and after each new connection, the table is read whole again."""
        while True:
            try:
                await self._follow()
            except Exception as error:
                if isinstance(error, KafkaError) or is_outage(error):
                    self._trouble.tell("the table of open jobs cannot be read", error)
                else:
                    log.error("unexpected", exc_info=error)
                await asyncio.sleep(_PAUSE_SECONDS)

    async def differences(self, partition: int) -> set[JobKey]:
        """Jobs of this partition whose row is missing, or older than what is stored. Raises what asyncpg raises."""
        wrong: set[JobKey] = set()
        stored_open: set[str] = set()
        async with self._pool.acquire() as connection, connection.transaction(readonly=True):
            async for workspace, job_id, version in connection.cursor(_OPEN, partition, prefetch=_CHUNK):
                stored_open.add(job_id)
                seen = self._open.get(job_id)
                if seen is None or seen.last < version:
                    wrong.add((workspace, job_id))
        for job_id, seen in list(self._open.items()):
            if home(seen.workspace.encode()) == partition and (job_id not in stored_open or seen.last < seen.newest):
                wrong.add((seen.workspace, job_id))
        return wrong

    async def _follow(self) -> None:
        reader = consumer(self._settings, **AT_LEISURE)
        try:
            await reader.start()
            parts = [TopicPartition(topic_name(self._settings, JOBS), number) for number in range(JOBS.partitions)]
            reader.assign(parts)
            for part, first in (await reader.beginning_offsets(parts)).items():
                reader.seek(part, first)
            ends = await reader.end_offsets(parts)
            self._open.clear()
            self._over.clear()
            while any([await reader.position(part) < end for part, end in ends.items()]):
                self._take(await self._records(reader))
            self._show((seen.workspace, job) for job, seen in self._open.items() if seen.last < seen.newest)
            self._doubted.clear()
            self.whole += 1
            connections = set(reader._client._conns.values())
            await self._tail(reader, connections)
        finally:
            with contextlib.suppress(KafkaError, TimeoutError, OSError):
                async with asyncio.timeout(_DOUBTS_EVERY_SECONDS):
                    await reader.stop()

    async def _tail(self, reader: AIOKafkaConsumer, connections: set[Any]) -> None:
        clock = asyncio.get_running_loop().time
        resolved = clock()
        while set(reader._client._conns.values()) <= connections:
            late = self._take(await self._records(reader))
            if late:
                log.warning("rows came late; newer ones are written again", jobs=len(late))
                self._show(late)
            if self._doubted and clock() - resolved > _DOUBTS_EVERY_SECONDS:
                await self._resolve()
                resolved = clock()

    async def _records(self, reader: AIOKafkaConsumer) -> list[Any]:
        found = await reader.getmany(timeout_ms=1000, max_records=_CHUNK)
        return [record for records in found.values() for record in records]

    def _take(self, records: Iterable[Any]) -> list[JobKey]:
        """Note these rows; the jobs whose row came after a newer one."""
        late: list[JobKey] = []
        for record in records:
            headers = dict(record.headers)
            try:
                job_id = record.key.decode()
                version, workspace = int(headers[VERSION_HEADER]), headers[WORKSPACE_HEADER].decode()
            except (KeyError, TypeError, ValueError, AttributeError):
                log.warning("a row that is not ours is passed over", partition=record.partition, offset=record.offset)
                continue
            seen = self._open.get(job_id) or self._over.get(job_id)
            if seen is None:
                seen = _Seen(workspace, version)
                if record.value is not None:
                    self._doubted[job_id] = seen
            seen.last = version
            if version < seen.newest:
                late.append((seen.workspace, job_id))
                continue
            seen.newest = version
            if record.value is None:
                self._open.pop(job_id, None)
                self._over[job_id] = seen
                self._over.move_to_end(job_id)
                if len(self._over) > _REMEMBERED_TOMBSTONES:
                    self._over.popitem(last=False)
            else:
                self._over.pop(job_id, None)
                self._open[job_id] = seen
        return late

    async def _resolve(self) -> None:
        doubted, self._doubted = self._doubted, {}
        rows = await self._pool.fetch(
            _NEWER,
            [seen.workspace for seen in doubted.values()],
            list(doubted),
            [seen.last for seen in doubted.values()],
        )
        self._show((workspace, job_id) for workspace, job_id in rows)
