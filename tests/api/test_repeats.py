"""A request that is sent again while its first sending lies on the log and nobody has judged it: no refusal that is untrue."""

from __future__ import annotations

import asyncio
import base64
import json
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
import pytest_asyncio

from adapters import kafka
from adapters.kafka import topic_name
from adapters.settings import Settings
from api.access import Caller
from api.proposals import SOURCE, Proposals
from domain.events import Event, JobPauseRequested, JobResumed
from schemas import envelope
from schemas.topics import EVENTS
from tests.api.platform import Member, Platform, eventually, service, serving
from tests.api.test_bad_input import problem
from tests.api.test_proposals import events, steer

pytestmark = pytest.mark.asyncio(loop_scope="module")
SETTINGS: dict[str, Any] = {"api": {"port": 0, "verdict_deadline_seconds": 0.5}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def projector(module_settings: Settings) -> AsyncIterator[asyncio.subprocess.Process]:
    """In a process of its own, so that it can be frozen."""
    async with service("projector", module_settings) as process:
        yield process


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def platform(module_settings: Settings, projector: asyncio.subprocess.Process) -> AsyncIterator[Platform]:
    async with serving(module_settings, projector=False) as running:
        yield running


@contextmanager
def frozen(process: asyncio.subprocess.Process) -> Iterator[None]:
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


class OtherProcess:
    """What another API process put on the log before it died: the same bytes as this one would write."""

    def __init__(self, platform: Platform, member: Member, producer: Any) -> None:
        self._platform, self._producer = platform, producer
        self._caller = Caller(
            user=member.user["id"], workspace=workspace_of(member), role="member", session="", expires_at=0.0
        )
        self._asking = Proposals(platform.settings, None, None, None)  # type: ignore[arg-type]

    async def sends(self, operation: str, job: str, event: Event, key: str | None = None) -> None:
        """Append it; nobody waits for the verdict."""
        headers = {"idempotency-key": key} if key else {}
        ask = self._asking.ask(self._caller, operation, headers, {"job_id": job})
        record = envelope.record(
            event,
            id=ask.id,
            source=SOURCE,
            subject=job,
            time="2026-01-01T00:00:00Z",
            workspace=self._caller.workspace,
            actor=self._caller.user,
            requesthash=ask.hash,
        )
        await self._producer.send_and_wait(
            topic_name(self._platform.settings.kafka, EVENTS),
            envelope.encode(record),
            key=self._caller.workspace.encode(),
            headers=envelope.headers(record),
        )


def workspace_of(member: Member) -> str:
    """From the member's own token."""
    payload = member.token.split(".")[1]
    return str(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["ws"])


@asynccontextmanager
async def other_process(platform: Platform, member: Member) -> AsyncIterator[OtherProcess]:
    producer = kafka.producer(platform.settings.kafka)
    await producer.start()
    try:
        yield OtherProcess(platform, member, producer)
    finally:
        await producer.stop()


async def ready(member: Member) -> str:
    """A queued job, once the projector works."""

    async def judged() -> bool:
        return (await member.upload(b"a,kind\n1,x\n2,y\n" * 20)).status_code == 201

    await eventually(judged, 60)
    dataset = (await member.http.get("/api/datasets")).json()[0]["id"]
    body = {"recipe": "tabular", "dataset_id": dataset, "parameters": {"target": "kind", "epochs": 3}}
    return str((await member.http.post("/api/train", json=body)).json()["job_id"])


async def test_a_first_sending_that_nobody_has_judged_is_never_denied(
    platform: Platform, projector: asyncio.subprocess.Process, member: Member
) -> None:
    job = await ready(member)
    with frozen(projector):
        async with other_process(platform, member) as other:
            await other.sends("pause", job, JobPauseRequested())
            await other.sends("resume", job, JobResumed(), key="again")
        # To the read model the job is queued, and there is nothing to resume.
        answer = await steer(member, "resume", job, "again")
        assert (answer.status_code, answer.json().get("verdict")) == (202, "pending"), answer.text

    async def told() -> bool:
        again = await steer(member, "resume", job, "again")
        return (again.status_code, again.json().get("status")) == (200, "queued")

    await eventually(told)
    found = [(event["type"], event["verdict"]) for event in await events(member, job)]
    assert found.count(("JobResumed", "effective")) == 1


async def test_a_refusal_under_a_key_is_for_good(member: Member) -> None:
    job = await ready(member)
    problem(await steer(member, "resume", job, "too early"), 409, "not_paused")
    assert (await steer(member, "pause", job)).json()["status"] == "paused"
    problem(await steer(member, "resume", job, "too early"), 409, "not_paused")
    assert (await steer(member, "resume", job, "now")).json()["status"] == "queued"
