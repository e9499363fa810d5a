"""A supervisor looks past what is no heartbeat: the silence behind it still counts."""

from __future__ import annotations

import asyncio

from adapters import kafka
from adapters.kafka import topic_name
from domain.events import AttemptLost, AttemptStarted
from schemas.heartbeat import Heartbeat, encode
from schemas.topics import HEARTBEATS
from tests.workers.installation import Installation
from tests.workers.small_projector import SmallProjector
from workers.supervisor import Supervisor


async def test_what_is_no_heartbeat_is_passed_over_and_a_goodbye_behind_it_is_heard(
    installation: Installation, projector: SmallProjector
) -> None:
    supervisor, stop = Supervisor(installation.settings), asyncio.Event()
    watching = asyncio.create_task(supervisor.run(stop))
    job_id = await installation.request({"epochs": 1})
    await installation.append(AttemptStarted(attempt=1, worker="w"), job_id, actor="w")
    topic = topic_name(installation.settings.kafka, HEARTBEATS)
    async with kafka.producer(installation.settings.kafka) as producer:
        hello = Heartbeat(id="w", kind="worker", state="busy", sequence=1, started_at=0)
        goodbye = Heartbeat(id="w", kind="worker", state="gone", sequence=2, started_at=0)
        for value in (encode(hello), b"\x00\xff", b'{"id": "\xff"}', b"{}", b"[" * 5000, None, encode(goodbye)):
            await producer.send_and_wait(topic, value, key=b"w")
    lost = await projector.until(lambda: projector.records(job_id, AttemptLost))
    assert [(one.worker, one.attempt) for one in lost] == [("w", 1)]
    stop.set()
    await watching
    await supervisor.close()
