"""An attempt in a real training child: from `Train` to the model's files, and back from a checkpoint."""

from __future__ import annotations

import hashlib
import json

import polars as pl
import pytest

from domain.events import Checkpoint
from recipes.predict import predict
from tests.workers.trainer.bench import TABLE, Bench
from workers.child_messages import (
    CheckpointWritten,
    EpochDone,
    Go,
    Leave,
    Left,
    Logged,
    ModelWritten,
    Prepared,
    StepMeasured,
)
from workers.warm_child import WarmChildren

pytestmark = pytest.mark.asyncio(loop_scope="session")


def named(written: CheckpointWritten, attempt: int = 1) -> Checkpoint:
    """A checkpoint as a claim names it."""
    return Checkpoint(attempt=attempt, epoch=written.epoch, step=written.step, uri=written.uri, sha256=written.sha256)


class TestAnAttempt:
    async def test_it_ends_with_a_model(self, children: WarmChildren, bench: Bench) -> None:
        ended = await bench.run(children, bench.job())
        assert (ended.code, ended.signal) == (0, None)
        spoken = [message for message in bench.said if not isinstance(message, Logged | StepMeasured)]
        kinds = [type(message) for message in spoken]
        assert kinds == [Prepared, EpochDone, EpochDone, EpochDone, CheckpointWritten, ModelWritten]
        (model,) = bench.heard(ModelWritten)
        assert model.last_epoch == 3
        assert model.metrics == bench.heard(EpochDone)[-1].metrics
        assert [file.name for file in model.files] == ["model.safetensors", "manifest.json"]
        for file in model.files:
            data = bench.store.get_sync(file.uri)
            assert (hashlib.sha256(data).hexdigest(), len(data)) == (file.sha256, file.bytes)
            assert file.uri == f"jobs/job/1/model/{file.name}"

    async def test_the_manifest_says_where_the_model_comes_from(self, children: WarmChildren, bench: Bench) -> None:
        job = bench.job()
        await bench.run(children, job)
        manifest = json.loads(bench.store.get_sync("jobs/job/1/model/manifest.json"))
        assert manifest["format_version"] == 1
        assert manifest["recipe"] == {"name": "tabular", "version": 1}
        assert manifest["dataset"] == {"id": "d", "sha256": bench.dataset.sha256, "format": "csv"}
        assert manifest["parameters"] == job.parameters
        assert manifest["environment"]["device"] == "cpu"
        assert manifest["epochs"] == 3

    async def test_the_model_answers_from_its_files(self, children: WarmChildren, bench: Bench) -> None:
        await bench.run(children, bench.job(parameters={**TABLE, "epochs": 20, "validation_fraction": 0.0}))
        root = bench.store.local_path("jobs/job/1/model")
        assert root is not None
        answers = predict(root, bench.folder / "fruit.csv")
        truth = pl.read_csv(bench.folder / "fruit.csv")["وضعیت"]
        assert (answers["prediction"] == truth).sum() > 50

    @pytest.mark.parametrize("every", [1, 2])
    async def test_checkpoints_are_as_frequent_as_asked(self, children: WarmChildren, bench: Bench, every: int) -> None:
        await bench.run(children, bench.job(parameters={**TABLE, "checkpoint_every": every}))
        assert [written.epoch for written in bench.heard(CheckpointWritten)] == list(range(every, 4, every))

    async def test_two_threads_work_in_a_child(self, children: WarmChildren, bench: Bench) -> None:
        ended = await bench.run(children, bench.job(threads=2))
        assert ended.code == 0
        assert json.loads(bench.store.get_sync("jobs/job/1/model/manifest.json"))["environment"]["threads"] == 2


class TestLeaving:
    async def test_before_go_there_is_nothing_to_save(self, children: WarmChildren, bench: Bench) -> None:
        child = await children.take()
        await child.send(bench.job())
        while not isinstance(await child.receive(), Prepared):
            pass
        await child.send(Leave())
        ended = await bench.listen(child)
        assert ended.code == 0
        assert [type(message) for message in bench.said if not isinstance(message, Logged)] == [Left]

    async def test_it_need_not_finish_reading(self, children: WarmChildren, bench: Bench) -> None:
        child = await children.take()
        await child.send(bench.job("reads_for_ever"))
        await child.send(Go())
        while not isinstance(await child.receive(), Logged):
            pass
        await child.send(Leave())
        assert (await bench.listen(child)).code == 0
        assert [type(message) for message in bench.said if not isinstance(message, Logged)] == [Left]

    async def test_an_attempt_that_left_goes_on_as_if_it_had_not(self, children: WarmChildren, bench: Bench) -> None:
        job = bench.job(parameters={**TABLE, "epochs": 8})
        await bench.run(children, job)
        whole, weights = bench.heard(EpochDone), bench.store.get_sync("jobs/job/1/model/model.safetensors")

        done: list[EpochDone] = []
        child = await children.take()
        await child.send(job)
        await child.send(Go())
        while not isinstance(message := await child.receive(), EpochDone):
            assert message is not None
        done.append(message)
        await child.send(Leave())
        assert (await bench.listen(child)).code == 0
        done += bench.heard(EpochDone)
        (written,) = bench.heard(CheckpointWritten)
        assert isinstance(bench.said[-1], Left)
        assert written.epoch == len(done)

        again = bench.job(parameters=job.parameters, checkpoint=named(written), attempt=2)
        assert (await bench.run(children, again)).code == 0
        done += bench.heard(EpochDone)
        assert [(epoch.epoch, epoch.metrics) for epoch in done] == [(epoch.epoch, epoch.metrics) for epoch in whole]
        assert bench.store.get_sync("jobs/job/2/model/model.safetensors") == weights

    async def test_it_leaves_in_the_middle_of_an_epoch(self, children: WarmChildren, bench: Bench) -> None:
        child = await children.take()
        await child.send(bench.job("works_until_told"))
        await child.send(Go())
        while not isinstance(await child.receive(), Logged):  # Who leaves before training has nothing to save.
            pass
        await child.send(Leave())
        assert (await bench.listen(child)).code == 0
        (written,) = bench.heard(CheckpointWritten)
        assert written.epoch == 0
        assert written.step > 0
        assert written.uri == f"jobs/job/1/checkpoint-0-{written.step}.safetensors"

    async def test_a_finished_checkpoint_gives_its_model_at_once(self, children: WarmChildren, bench: Bench) -> None:
        await bench.run(children, bench.job())
        (written,) = bench.heard(CheckpointWritten)
        weights = bench.store.get_sync("jobs/job/1/model/model.safetensors")
        await bench.run(children, bench.job(checkpoint=named(written), attempt=2))
        assert not bench.heard(EpochDone)
        assert bench.heard(ModelWritten)[0].last_epoch == 3
        assert bench.store.get_sync("jobs/job/2/model/model.safetensors") == weights


class TestWhatCannotBeRead:
    async def checkpoint(self, children: WarmChildren, bench: Bench) -> Checkpoint:
        await bench.run(children, bench.job())
        return named(bench.heard(CheckpointWritten)[-1])

    async def test_a_damaged_checkpoint(self, children: WarmChildren, bench: Bench) -> None:
        checkpoint = await self.checkpoint(children, bench)
        data = bytearray(bench.store.get_sync(checkpoint.uri))
        data[-1] ^= 1
        bench.store.put_sync(checkpoint.uri, bytes(data))
        ended = await bench.run(children, bench.job(checkpoint=checkpoint, attempt=2))
        assert ended.code == 1
        assert bench.failure().code == "checkpoint_unreadable"

    async def test_a_checkpoint_that_is_not_there(self, children: WarmChildren, bench: Bench) -> None:
        checkpoint = await self.checkpoint(children, bench)
        bench.store.delete_sync(checkpoint.uri)
        await bench.run(children, bench.job(checkpoint=checkpoint, attempt=2))
        assert bench.failure().code == "checkpoint_unreadable"

    async def test_a_store_that_is_away(self, children: WarmChildren, bench: Bench) -> None:
        checkpoint = await self.checkpoint(children, bench)
        (bench.folder / "store").rename(bench.folder / "elsewhere")
        await bench.run(children, bench.job(checkpoint=checkpoint, attempt=2))
        assert bench.failure().code == "store_away"
        await bench.run(children, bench.job())
        assert bench.failure().code == "store_away"

    async def test_a_dataset_that_is_another_or_none(self, children: WarmChildren, bench: Bench) -> None:
        bench.store.put_sync("datasets/fruit", b"a,b\n1,2\n")
        await bench.run(children, bench.job())
        assert bench.failure().code == "dataset_unreadable"
        bench.store.delete_sync("datasets/fruit")
        await bench.run(children, bench.job())
        assert bench.failure().code == "dataset_unreadable"
