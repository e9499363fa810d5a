"""Jobs for training children, and what was heard of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from adapters.object_store_blocking import BlockingObjectStore
from domain.events import Checkpoint, DatasetRef
from recipes import catalog
from workers.child_messages import Failed, Go, Message, ToWorker, Train
from workers.child_process import Child, Ended
from workers.warm_child import WarmChildren

TABLE = {"target": "وضعیت", "epochs": 3, "hidden": [8], "dropout": 0.2}
M = TypeVar("M", bound=Message)


@dataclass
class Bench:
    """A store with one dataset, and jobs for it."""

    folder: Path
    store: BlockingObjectStore
    dataset: DatasetRef
    said: list[ToWorker] = field(default_factory=list)

    def job(
        self,
        recipe: str = "tabular",
        parameters: Mapping[str, Any] | None = None,
        checkpoint: Checkpoint | None = None,
        attempt: int = 1,
        threads: int = 1,
        device: str | None = "cpu",
    ) -> Train:
        """What a worker sends."""
        asked = dict(TABLE if parameters is None and recipe == "tabular" else parameters or {})
        if recipe == "tabular":
            asked = catalog.recipe(recipe).parameters.model_validate(asked).model_dump(mode="json")
        return Train(
            workspace="w",
            job_id="job",
            attempt=attempt,
            recipe=recipe,
            recipe_version=1,
            parameters=asked,
            epochs=asked.get("epochs", 1),
            dataset=self.dataset,
            checkpoint=checkpoint,
            store_url=f"file://{self.folder}/store",
            scratch=str(self.folder),
            device=device,
            threads=threads,
        )

    async def run(self, children: WarmChildren, job: Train) -> Ended:
        """One attempt from beginning to end; what was said is in `said`."""
        child = await children.take()
        await child.send(job)
        await child.send(Go())
        return await self.listen(child)

    async def listen(self, child: Child) -> Ended:
        """Hear a child to its end."""
        self.said.clear()
        while (message := await child.receive()) is not None:
            self.said.append(message)
        return await child.wait()

    def heard(self, kind: type[M]) -> list[M]:
        """The messages of one kind."""
        return [message for message in self.said if isinstance(message, kind)]

    def failure(self) -> Failed:
        """The one failure that was told."""
        (failed,) = self.heard(Failed)
        return failed
