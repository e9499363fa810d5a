"""Determinism (J9): the same job with the same seed, once undisturbed and then in the storm, ends with the same bytes."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from checker.fold import Fold
from checker.violation import Violation
from storm.clients import User
from storm.load import parameters

EPOCHS = 150
SEED = 7


class Twins:
    """One user whose jobs are all the same, and whom nobody steers."""

    def __init__(self, user: User, dataset: str) -> None:
        self.user = user
        self._body = {
            "recipe": "tabular",
            "dataset_id": dataset,
            "parameters": parameters(EPOCHS, SEED, dropout=0.1),
            "model": "twin",
            "priority": 1000,
        }
        self.first = ""
        self.others: list[str] = []

    async def undisturbed(self) -> None:
        """Train the first one while nothing is wrong."""
        self.first = await self._request()
        if await self._ended(self.first, 120.0) != "completed":
            raise RuntimeError("the undisturbed twin did not complete")

    async def again(self) -> None:
        """One after the other, for ever; cancel it to end."""
        while True:
            if not self.others or await self._ended(self.others[-1], 2.0):
                self.others.append(await asyncio.shield(self._request()))

    async def rest(self, seconds: float) -> None:
        """Let the last one end."""
        if self.others:
            await self._ended(self.others[-1], seconds)

    async def _request(self) -> str:
        call = await self.user.ask("train", self._body)
        while call.outcome != "ok":
            await asyncio.sleep(0.5)
            call = await self.user.send(self.user.asked[-1])
        job_id: str = call.answer.get("job_id") or str(call.event_id)
        return job_id

    async def _ended(self, job_id: str, seconds: float) -> str | None:
        until = time.monotonic() + seconds
        while True:
            for job in await self.user.look() or ():
                if job["job_id"] == job_id and job["status"] in ("completed", "failed", "stopped"):
                    return str(job["status"])
            if time.monotonic() > until:
                return None
            await asyncio.sleep(0.5)

    def check(self, fold: Fold) -> tuple[list[Violation], dict[str, int]]:
        """What differs, and of how many attempts each twin that completed was made."""
        ends = {v.subject: _end(v.document) for v in fold.verdicts if v.effective and v.type == "ModelRegistered"}
        attempts = {id: fold.jobs[self.user.workspace, id].attempt for id in self.others if id in ends}
        violations = [
            Violation("J9", f"job {id} came to {ends[id]} and its undisturbed twin to {ends[self.first]}")
            for id in attempts
            if ends[id] != ends[self.first]
        ]
        return violations, attempts


def _end(document: dict[str, Any] | None) -> tuple[dict[str, float], dict[str, str]]:
    """The metrics, and the hash of the weights; the manifest names the job and the time and differs."""
    assert document is not None
    data = document["data"]
    return data["metrics"], {file["name"]: file["sha256"] for file in data["files"] if file["name"] != "manifest.json"}
