"""The state as whoever folds keeps it: encoded rows, loaded by the keys that `needs` names, changed by what `Effect` says."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from domain.events import Checkpoint
from domain.job import Job
from domain.refusal import Refusal
from domain.workspace import CheckpointKey, Dataset, Effect, Model, Workspace, judge, needs
from tests.domain.moves import Judged


class Store:
    """Rows that survive everything: nothing in it is an object that was judged with."""

    def __init__(self) -> None:
        self.version = 0
        self.jobs: dict[str, bytes] = {}
        self.datasets: dict[str, bytes] = {}
        self.series: dict[str, int] = {}
        self.models: dict[tuple[str, int], bytes] = {}
        self.checkpoints: dict[CheckpointKey, bytes] = {}
        self.struck: set[CheckpointKey] = set()
        self.requests: set[str] = set()

    def load(self, batch: Sequence[Judged]) -> Workspace:
        """A workspace of what judging the batch reads, and of nothing else."""
        workspace = Workspace("workspace-1", self.version)
        for entry in batch:
            wanted = needs(entry.id, entry.record.subject, entry.record.event)
            if wanted.job in self.jobs:
                workspace.jobs[wanted.job] = msgspec.json.decode(self.jobs[wanted.job], type=Job)
            if wanted.dataset in self.datasets:
                dataset = msgspec.json.decode(self.datasets[wanted.dataset], type=Dataset)
                workspace.datasets[wanted.dataset] = dataset
            if wanted.series in self.series:
                workspace.series[wanted.series] = self.series[wanted.series]
            if wanted.model is not None:
                workspace.models[wanted.model] = sum(name == wanted.model for name, _ in self.models)
            if wanted.request in self.requests:
                workspace.requests.add(wanted.request)
            key = wanted.checkpoint
            if key in self.checkpoints and key not in self.struck:
                workspace.checkpoints[key] = msgspec.json.decode(self.checkpoints[key], type=Checkpoint)
        return workspace

    def judge(self, batch: Sequence[Judged]) -> list[Effect | Refusal]:
        """Load, judge and write one batch, as a projector does that keeps nothing in memory."""
        workspace = self.load(batch)
        verdicts = [
            judge(
                workspace,
                id=entry.id,
                subject=entry.record.subject,
                actor=entry.record.actor,
                event=entry.record.event,
                at=entry.at,
            )
            for entry in batch
        ]
        for entry, verdict in zip(batch, verdicts, strict=True):
            if entry.record.event.is_request:
                self.requests.add(entry.id)
            if isinstance(verdict, Effect):
                self.write(verdict, entry.record.subject)
        self.version = workspace.version
        return verdicts

    def write(self, effect: Effect, subject: str) -> None:
        """Everything that the effect says it changed."""
        if effect.job is not None:
            self.jobs[effect.job.id] = msgspec.json.encode(effect.job)
        if effect.dataset is not None:
            self.datasets[effect.dataset.id] = msgspec.json.encode(effect.dataset)
            self.series[effect.dataset.name] = effect.dataset.number
        if effect.model is not None:
            key = (effect.model.name, effect.model.number)
            self.models[key] = msgspec.json.encode(effect.model)
            assert msgspec.json.decode(self.models[key], type=Model) == effect.model
        for checkpoint, rows in ((effect.checkpoint, self.checkpoints), (effect.struck, None)):
            if checkpoint is None:
                continue
            place = (subject, checkpoint.attempt, checkpoint.epoch, checkpoint.step)
            if rows is None:
                self.struck.add(place)
            else:
                rows[place] = msgspec.json.encode(checkpoint)
