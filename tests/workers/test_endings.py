"""Every way in which an attempt can end has one record, and it is the right one."""

from __future__ import annotations

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.events import (
    AttemptEvent,
    AttemptLost,
    Checkpoint,
    JobCompleted,
    JobFailed,
    JobPaused,
    JobStopped,
    ModelRegistered,
    StoredFile,
)
from workers.child_messages import Failed, Left, ModelWritten
from workers.child_process import Ended
from workers.endings import FAILURES, SURROUNDINGS, Ending, record_of

START = Checkpoint(attempt=1, epoch=3, step=0, uri="jobs/j/1/checkpoint-3-0", sha256="0")
FILE = StoredFile(name="model.safetensors", uri="jobs/j/2/model/model.safetensors", sha256="0", bytes=1)


def end(
    said: ModelWritten | Failed | Left | None = None,
    ended: Ended | None = None,
    *,
    told: bool = False,
    wanted: str | None = None,
) -> AttemptEvent:
    ending = Ending(said=said, ended=ended, told_to_leave=told)
    return record_of(ending, attempt=2, worker="w", model="m", wanted=wanted, start=START)


def failed(code: str) -> Failed:
    return Failed(code=code, exception="Error", text="secret")


class TestLastWords:
    def test_a_model_completes_the_job(self) -> None:
        written = ModelWritten(last_epoch=9, files=(FILE,), metrics={"loss": 1.0})
        expected = ModelRegistered(attempt=2, worker="w", last_epoch=9, model="m", files=(FILE,), metrics={"loss": 1.0})
        assert end(written) == expected
        assert end(written, told=True, wanted="stop") == expected

    def test_training_without_a_model_completes_it_too(self) -> None:
        written = ModelWritten(last_epoch=9, files=(), metrics={})
        assert end(written) == JobCompleted(attempt=2, worker="w", last_epoch=9)

    @pytest.mark.parametrize("code", sorted(FAILURES))
    def test_what_trying_again_would_repeat_fails_the_job(self, code: str) -> None:
        assert end(failed(code)) == JobFailed(attempt=2, worker="w", code=code, exception="Error")

    @pytest.mark.parametrize("code", sorted(SURROUNDINGS))
    def test_the_surroundings_lose_the_attempt(self, code: str) -> None:
        lost = end(failed(code))
        assert isinstance(lost, AttemptLost)
        assert lost.reason == SURROUNDINGS[code]
        assert lost.checkpoint == (START if code == "checkpoint_unreadable" else None)

    @pytest.mark.parametrize(
        ("wanted", "record"),
        [
            ("stop", JobStopped(attempt=2, worker="w")),
            ("pause", JobPaused(attempt=2, worker="w")),
            (None, AttemptLost(attempt=2, worker="w", reason="released")),
        ],
    )
    def test_who_leaves_as_told_says_what_is_wanted_now(self, wanted: str | None, record: AttemptEvent) -> None:
        assert end(Left(), told=True, wanted=wanted) == record
        killed = Ended(code=None, signal=signal.SIGKILL)
        assert end(None, killed, told=True, wanted=wanted) == record


class TestDeath:
    def test_the_kernel_took_the_memory_back(self) -> None:
        lost = end(None, Ended(code=None, signal=signal.SIGKILL, out_of_memory=True))
        assert lost == AttemptLost(attempt=2, worker="w", reason="out_of_memory")

    @pytest.mark.parametrize(
        "ended", [Ended(code=None, signal=signal.SIGSEGV), Ended(code=7, signal=None), Ended(code=0, signal=None), None]
    )
    def test_any_other_death_without_a_word_is_a_kill(self, ended: Ended | None) -> None:
        assert end(None, ended) == AttemptLost(attempt=2, worker="w", reason="killed")


said = st.one_of(
    st.none(),
    st.just(Left()),
    st.builds(failed, st.text(max_size=20)),
    st.builds(ModelWritten, last_epoch=st.integers(0, 9), files=st.just((FILE,)), metrics=st.just({})),
)


class TestAnything:
    @given(said, st.booleans(), st.sampled_from([None, "stop", "pause"]))
    def test_there_is_always_a_record_that_ends_the_attempt_and_quotes_no_text(
        self, word: ModelWritten | Failed | Left | None, told: bool, wanted: str | None
    ) -> None:
        record = end(word, told=told, wanted=wanted)
        assert (record.attempt, record.worker) == (2, "w")
        assert "secret" not in str(record)

    @given(said, st.booleans())
    def test_only_bad_ends_keep_the_last_lines(self, word: ModelWritten | Failed | Left | None, told: bool) -> None:
        ending = Ending(said=word, ended=None, told_to_leave=told)
        good = isinstance(word, ModelWritten | Left) or (word is None and told)
        assert ending.is_bad is not good
