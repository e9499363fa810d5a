"""What the users do: random, seeded, with repeated requests and steering at the worst moments."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from storm.clients import EVENTS, User
from storm.followers import Followers

PENGUINS = Path(__file__).parent.parent / "examples" / "penguins.csv"
OPEN_JOBS = 4
"""How many jobs of one user may be under way."""
OVER = ("completed", "failed", "stopped")
WEIGHTS = {
    "train": 24,
    "pause": 12,
    "resume": 14,
    "stop": 8,
    "retry": 8,
    "priority": 10,
    "again": 14,
    "twice": 8,
    "look": 10,
    "upload": 3,
}


def parameters(epochs: int, seed: int, **more: Any) -> dict[str, Any]:
    """Of a small job on the penguins."""
    return {"target": "species", "epochs": epochs, "seed": seed, "checkpoint_every": 5, "batch_size": 64, **more}


class Habits:
    """One user's stream of requests."""

    def __init__(self, user: User, followers: Followers, dataset: str) -> None:
        self.user, self.rng = user, user.rng
        self._followers = followers
        self._datasets = [dataset]
        self._jobs: dict[str, str] = {}
        """Last known status by id."""

    async def live(self) -> None:
        """For ever; when it is cancelled, the request under way is still finished."""
        while True:
            await asyncio.shield(self.once())
            await asyncio.sleep(self.rng.uniform(0.05, 0.9))

    async def once(self) -> None:
        """One request."""
        kind = self.rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        match kind:
            case "train":
                await self._train()
            case "upload":
                call = await self.user.upload(PENGUINS, self.rng.choice(("penguins", "birds")))
                if call.outcome == "ok" and "id" in call.answer:
                    self._datasets.append(call.answer["id"])
            case "look":
                for job in await self.user.look() or ():
                    self._jobs[job["job_id"]] = job["status"]
            case "again":
                if self.user.asked:
                    call = await self.user.send(self.rng.choice(self.user.asked[-12:]))
                    self._note(call.answer)
            case "twice":
                if self.user.asked:
                    # At the same moment, as by a client that gives up waiting and tries again.
                    asked = self.user.asked[-1]
                    both = await asyncio.gather(self.user.send(asked), self.user.send(asked))
                    self._note(both[0].answer)
            case _:
                await self._steer(kind)

    async def _train(self) -> None:
        if sum(status not in (*OVER, "paused") for status in self._jobs.values()) >= OPEN_JOBS:
            return
        body = {
            "recipe": "tabular",
            "dataset_id": self.rng.choice(self._datasets),
            "parameters": parameters(self.rng.randint(5, 200), self.rng.randint(0, 99)),
            "priority": self.rng.randint(-5, 5),
        }
        call = await self.user.ask("train", body)
        if call.outcome == "unknown" and self.rng.random() < 0.7:
            call = await self.user.send(self.user.asked[-1])
        if call.outcome == "ok" and "job_id" in call.answer:
            self._note(call.answer)
            if self.rng.random() < 0.3:
                self._followers.follow(self.user, call.answer["job_id"])

    async def _steer(self, operation: str) -> None:
        assert operation in EVENTS
        if not self._jobs:
            return
        recent = list(self._jobs)[-8:]
        body: dict[str, Any] = {"job_id": self.rng.choice(recent)}
        if operation == "priority":
            body["priority"] = self.rng.randint(-5, 5)
        if operation == "retry":
            body["fresh"] = self.rng.random() < 0.4
        call = await self.user.ask(operation, body)
        if call.outcome == "unknown" and self.rng.random() < 0.7:
            call = await self.user.send(self.user.asked[-1])
        self._note(call.answer)

    def _note(self, answer: dict[str, Any]) -> None:
        if "job_id" in answer and "status" in answer:
            self._jobs[answer["job_id"]] = answer["status"]
