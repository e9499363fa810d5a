"""Training that goes wrong: what the worker hears, and that it can always go on."""

from __future__ import annotations

import os
import select
import signal

import psutil
import pytest

from tests.workers.trainer.bench import TABLE, Bench
from workers.child_messages import EpochDone, Go, Logged, Prepared
from workers.trainer_orders import ORPHANED
from workers.warm_child import WarmChildren

pytestmark = pytest.mark.asyncio(loop_scope="session")


class TestFailures:
    @pytest.mark.parametrize(
        ("recipe", "code", "exception"),
        [
            ("raises", "exception", "KeyError"),
            ("eats_memory", "out_of_memory", "MemoryError"),
            ("asks_torch_for_too_much", "out_of_memory", "RuntimeError"),
            ("loses_its_gpu", "device_error", "RuntimeError"),
            ("is_not_finite", "diverged", "Diverged"),
            ("ends_without_a_model", "exception", "RuntimeError"),
            ("unheard_of", "exception", "UnknownRecipe"),
        ],
    )
    async def test_they_have_codes(
        self, children: WarmChildren, bench: Bench, recipe: str, code: str, exception: str
    ) -> None:
        ended = await bench.run(children, bench.job(recipe))
        assert ended.code == 1
        assert (bench.failure().code, bench.failure().exception) == (code, exception)
        assert "Traceback" in bench.failure().text

    async def test_a_huge_learning_rate_diverges(self, children: WarmChildren, bench: Bench) -> None:
        await bench.run(children, bench.job(parameters={**TABLE, "learning_rate": 1e6, "epochs": 50}))
        assert bench.failure().code == "diverged"

    async def test_data_that_nothing_can_be_learned_from(self, children: WarmChildren, bench: Bench) -> None:
        await bench.run(children, bench.job(parameters={"target": "nowhere"}))
        assert bench.failure().code == "unusable_data"


class TestSignals:
    @pytest.mark.parametrize(("recipe", "number"), [("is_killed", signal.SIGKILL), ("crashes", signal.SIGSEGV)])
    async def test_they_are_told_from_codes(
        self, children: WarmChildren, bench: Bench, recipe: str, number: signal.Signals
    ) -> None:
        ended = await bench.run(children, bench.job(recipe))
        assert (ended.code, ended.signal) == (None, number)
        assert len(bench.heard(EpochDone)) == 1  # What it had said before was heard.

    async def test_a_crash_leaves_its_last_words(self, children: WarmChildren, bench: Bench) -> None:
        await bench.run(children, bench.job("crashes"))
        assert any("Segmentation fault" in line.text for line in bench.heard(Logged))

    async def test_kill_ends_one_that_does_not_listen(self, children: WarmChildren, bench: Bench) -> None:
        child = await children.take()
        await child.send(bench.job("never_asks"))
        await child.send(Go())
        while not isinstance(await child.receive(), EpochDone):
            pass
        child.kill()
        ended = await bench.listen(child)
        assert ended.signal == signal.SIGKILL
        assert not ended.out_of_memory

    async def test_it_does_not_end_by_what_a_terminal_or_an_init_system_sends(
        self, children: WarmChildren, bench: Bench
    ) -> None:
        child = await children.take()
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(child.pid, number)
        await child.send(bench.job())
        await child.send(Go())
        assert (await bench.listen(child)).code == 0


class TestPrinting:
    async def test_everything_that_is_printed_is_heard(self, children: WarmChildren, bench: Bench) -> None:
        await bench.run(children, bench.job("prints"))
        lines = {(line.stream, line.text) for line in bench.heard(Logged)}
        expected = {"from Python", "from C: سلام", "from a process", "without an end of line"}
        assert lines >= {("stdout", text) for text in expected} | {("stderr", "to the error stream")}

    async def test_a_flood_is_bounded_and_keeps_its_end(self, children: WarmChildren, bench: Bench) -> None:
        await bench.run(children, bench.job("floods"))
        lines = [line.text for line in bench.heard(Logged)]
        assert lines[0] == "line 0"
        assert lines[-1] == "the last line"
        assert any("lines left out" in line for line in lines)
        assert len(lines) < 20_000

    async def test_a_process_that_was_left_behind_holds_nothing_up(self, children: WarmChildren, bench: Bench) -> None:
        ended = await bench.run(children, bench.job("leaves_a_process_behind"))
        assert ended.code == 1
        (line,) = [line.text for line in bench.heard(Logged) if line.text.startswith("started")]
        gone(int(line.split()[1]))


class TestPartings:
    @pytest.mark.parametrize("doing", ["never_asks", "tells_for_ever"])
    async def test_a_child_ends_when_its_worker_closes_the_pipe(
        self, children: WarmChildren, bench: Bench, doing: str
    ) -> None:
        child = await children.take()
        await child.send(bench.job(doing))
        await child.send(Go())
        assert isinstance(await child.receive(), Prepared)
        await child.close()
        ended = await child.wait()
        assert ended.code == ORPHANED

    async def test_a_waiting_child_that_is_killed_is_replaced(self, children: WarmChildren, bench: Bench) -> None:
        first = await children.take()
        second = await children.take()
        assert first.pid != second.pid
        os.kill(first.pid, signal.SIGKILL)
        assert (await first.wait()).signal == signal.SIGKILL
        assert (await first.receive()) is None
        await second.send(bench.job())
        await second.send(Go())
        assert (await bench.listen(second)).code == 0

    async def test_a_fork_server_that_is_killed_is_replaced(self, children: WarmChildren, bench: Bench) -> None:
        child = await children.take()
        await child.send(bench.job("never_asks"))
        await child.send(Go())
        server = psutil.Process(child.pid).ppid()
        os.kill(server, signal.SIGKILL)
        ended = await bench.listen(child)
        assert ended.signal == signal.SIGKILL
        gone(child.pid)
        assert (await bench.run(children, bench.job())).code == 0


def gone(pid: int) -> None:
    """Wait until a process that is not our child has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([descriptor], [], [], 20)[0], f"{pid} is still there"
    finally:
        os.close(descriptor)
