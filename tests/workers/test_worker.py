"""A worker trains what the table grants it, and reports it in records that take effect."""

from __future__ import annotations

from domain.events import AttemptStarted, CheckpointSaved, EpochCompleted, ModelRegistered
from domain.job import Status
from tests.workers.installation import Installation
from tests.workers.small_projector import SmallProjector


class TestTraining:
    async def test_a_job_is_claimed_trained_and_becomes_a_model(
        self, installation: Installation, projector: SmallProjector
    ) -> None:
        worker = installation.start("worker")
        job_id = await installation.request({"epochs": 3})
        await projector.until(lambda: (job := projector.job(job_id)) and job.is_over)
        job = projector.job(job_id)
        assert job is not None
        assert job.status is Status.COMPLETED, worker.said
        assert [event.epoch for event in projector.records(job_id, EpochCompleted)] == [1, 2, 3]
        assert len(projector.records(job_id, CheckpointSaved)) == 3
        assert len(projector.records(job_id, AttemptStarted)) == 1
        (model,) = projector.records(job_id, ModelRegistered)
        for file in model.files:
            assert await installation.store.head(file.uri) is not None
        assert projector.records(job_id, refused=True) == []
