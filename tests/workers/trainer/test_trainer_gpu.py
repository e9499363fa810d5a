"""Training on a real GPU, and what becomes of everybody else when one fails. Left out where there is none."""

from __future__ import annotations

import asyncio
import json
import os

import polars as pl
import pytest
import torch

from adapters.durable_files import sha256_of
from domain.events import DatasetRef
from recipes.predict import predict
from tests.recipes.made_up import figures
from tests.workers.trainer.bench import TABLE, Bench
from tests.workers.trainer.test_trainer import named
from workers.child_messages import CheckpointWritten, EpochDone, Go, Leave, Left, Logged, ModelWritten, Prepared
from workers.child_process import Child
from workers.devices import Devices
from workers.warm_child import WarmChildren

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here"),
]
GPU = "cuda:0"
CYCLES = int(os.environ.get("RAVAND_TEST_GPU_CYCLES", "1"))
"""How often each kind of trouble is made: once in a test run, a hundred times where somebody wants to know."""
MODEL = "jobs/job/1/model"


def weights(bench: Bench, attempt: int = 1) -> bytes:
    """The model's file."""
    return bench.store.get_sync(f"jobs/job/{attempt}/model/model.safetensors")


async def until_busy(child: Child) -> None:
    """Return when the child says that its GPU works."""
    while (message := await child.receive()) is not None:
        if isinstance(message, Logged) and message.text == "busy":
            return
    pytest.fail("the child ended before it was busy")


class TestTraining:
    async def test_the_manifest_names_the_gpu(self, children: WarmChildren, bench: Bench) -> None:
        assert (await bench.run(children, bench.job(device=GPU))).code == 0
        manifest = json.loads(bench.store.get_sync(f"{MODEL}/manifest.json"))
        assert manifest["environment"]["device"] == torch.cuda.get_device_name(0)

    async def test_a_worker_that_was_not_told_takes_the_gpu(self, children: WarmChildren, bench: Bench) -> None:
        assert (await bench.run(children, bench.job(device=None))).code == 0
        manifest = json.loads(bench.store.get_sync(f"{MODEL}/manifest.json"))
        assert manifest["environment"]["device"] == torch.cuda.get_device_name(0)

    async def test_what_a_gpu_learned_is_answered_without_one(self, children: WarmChildren, bench: Bench) -> None:
        parameters = {**TABLE, "epochs": 30, "validation_fraction": 0.0}
        assert (await bench.run(children, bench.job(parameters=parameters, device=GPU))).code == 0
        root = bench.store.local_path(MODEL)
        assert root is not None
        answers = predict(root, bench.folder / "fruit.csv")
        truth = pl.read_csv(bench.folder / "fruit.csv")["وضعیت"]
        assert (answers["prediction"] == truth).sum() > 50

    async def test_images(self, children: WarmChildren, bench: Bench) -> None:
        file = figures(bench.folder / "figures.npz")
        bench.store.put_file_sync("datasets/figures", file)
        bench.dataset = DatasetRef(id="f", uri="datasets/figures", sha256=sha256_of(file), format="npz")
        job = bench.job("image-classification", {"epochs": 8, "batch_size": 32}, device=GPU)
        assert (await bench.run(children, job)).code == 0
        (model,) = bench.heard(ModelWritten)
        assert model.metrics["val_accuracy"] > 0.8

    async def test_one_seed_gives_the_same_bytes(self, children: WarmChildren, bench: Bench) -> None:
        await bench.run(children, bench.job(device=GPU))
        first = weights(bench)
        await bench.run(children, bench.job(device=GPU))
        assert weights(bench) == first


class TestGoingOn:
    async def test_an_attempt_that_left_goes_on_as_if_it_had_not(self, children: WarmChildren, bench: Bench) -> None:
        job = bench.job(parameters={**TABLE, "epochs": 8}, device=GPU)
        await bench.run(children, job)
        whole, whole_weights = bench.heard(EpochDone), weights(bench)

        child = await children.take()
        await child.send(job)
        await child.send(Go())
        while not isinstance(message := await child.receive(), EpochDone):
            assert message is not None
        done = [message]
        await child.send(Leave())
        assert (await bench.listen(child)).code == 0
        done += bench.heard(EpochDone)
        (written,) = bench.heard(CheckpointWritten)
        assert isinstance(bench.said[-1], Left)

        again = bench.job(parameters=job.parameters, checkpoint=named(written), attempt=2, device=GPU)
        assert (await bench.run(children, again)).code == 0
        done += bench.heard(EpochDone)
        assert [(epoch.epoch, epoch.metrics) for epoch in done] == [(epoch.epoch, epoch.metrics) for epoch in whole]
        assert weights(bench, 2) == whole_weights

    @pytest.mark.parametrize(("first", "second"), [(GPU, "cpu"), ("cpu", GPU)])
    async def test_it_goes_on_where_there_is_another_device(
        self, children: WarmChildren, bench: Bench, first: str, second: str
    ) -> None:
        job = bench.job(parameters={**TABLE, "epochs": 8}, device=first)
        child = await children.take()
        await child.send(job)
        await child.send(Go())
        while not isinstance(await child.receive(), EpochDone):
            pass
        await child.send(Leave())
        await bench.listen(child)
        (written,) = bench.heard(CheckpointWritten)
        again = bench.job(parameters=job.parameters, checkpoint=named(written), attempt=2, device=second)
        assert (await bench.run(children, again)).code == 0
        assert bench.heard(ModelWritten)[0].last_epoch == 8


class TestTrouble:
    @pytest.mark.parametrize("_cycle", range(CYCLES))
    @pytest.mark.parametrize(
        ("recipe", "code"),
        [("asks_the_gpu_for_too_much", "out_of_memory"), ("fails_on_the_gpu", "device_error")],
    )
    async def test_it_has_a_code_and_harms_nobody_else(
        self, children: WarmChildren, bench: Bench, recipe: str, code: str, _cycle: int
    ) -> None:
        await bench.run(children, bench.job(device=GPU))
        undisturbed = weights(bench)
        beside = await self._preparing(children, bench)
        ended = await bench.run(children, bench.job(recipe, attempt=2, device=GPU))
        assert (ended.code, bench.failure().code) == (1, code)
        await beside.send(Go())
        assert (await bench.listen(beside)).code == 0
        assert weights(bench) == undisturbed

    @pytest.mark.parametrize("_cycle", range(CYCLES))
    async def test_one_that_is_killed_at_work_leaves_the_gpu_to_others(
        self, children: WarmChildren, bench: Bench, _cycle: int
    ) -> None:
        await bench.run(children, bench.job(device=GPU))
        undisturbed = weights(bench)
        child = await children.take()
        await child.send(bench.job("keeps_the_gpu_busy", attempt=2, device=GPU))
        await child.send(Go())
        await until_busy(child)
        beside = await self._preparing(children, bench)
        child.kill()
        ended = await bench.listen(child)
        assert ended.signal == 9
        await beside.send(Go())
        assert (await bench.listen(beside)).code == 0
        assert weights(bench) == undisturbed

    @staticmethod
    async def _preparing(children: WarmChildren, bench: Bench) -> Child:
        """Another job's child that has its data, and its weights, on the same GPU."""
        child = await children.take()
        await child.send(bench.job(device=GPU))
        while not isinstance(message := await child.receive(), Prepared):
            assert message is not None
        return child


class TestReadings:
    async def test_a_child_at_work_is_seen_on_the_gpu(self, children: WarmChildren, bench: Bench) -> None:
        devices = Devices()
        devices.start()
        child = await children.take()
        try:
            await child.send(bench.job("keeps_the_gpu_busy", device=GPU))
            await child.send(Go())
            await until_busy(child)
            async with asyncio.timeout(20):
                while (devices.used_by({child.pid})[1] or 0) < 4096 * 4096 * 4:  # noqa: ASYNC110 — a thread reads.
                    await asyncio.sleep(0.1)
            (card, *_) = devices.readings
            assert card.name == torch.cuda.get_device_name(0)
            assert card.memory_total
            assert card.memory_used
        finally:
            devices.stop()
            child.kill()
            await bench.listen(child)
