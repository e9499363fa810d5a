"""What holds for a whole workspace: its numbers, ids that decide once, and what judging reads."""

from __future__ import annotations

import pytest

from domain.events import EVENTS, REPORTS, REQUESTS, SYSTEM, ProjectionsSwapped, RulesActivated
from domain.refusal import Refusal
from domain.workspace import Effect, Needs, Workspace, judge, needs
from tests.domain.scenario import (
    D,
    J,
    Record,
    checkpoint,
    dataset,
    epoch,
    failed,
    given,
    lost,
    model,
    pause,
    priority,
    requested,
    resume,
    retry,
    saved,
    started,
    stop,
)


class TestDatasetRegistered:
    def test_it_is_the_first_version_of_its_name(self) -> None:
        effect = given(with_dataset=False).when(dataset(actor="user-3")).then_effect()
        assert effect.dataset is not None
        assert (effect.dataset.id, effect.dataset.number, effect.dataset.registered_by) == (D, 1, "user-3")

    def test_versions_count_by_name(self) -> None:
        scenario = given(with_dataset=False)
        numbers = []
        for number, name in enumerate(["a", "b", "a", "a", "b"]):
            made = scenario.when(dataset(f"dataset-{number}", name)).then_effect().dataset
            numbers.append((name, made and made.number))
        assert numbers == [("a", 1), ("b", 1), ("a", 2), ("a", 3), ("b", 2)]

    def test_the_same_bytes_twice_are_two_datasets(self) -> None:
        given(dataset("dataset-2")).when(dataset("dataset-3")).then_effect()

    def test_twice_under_one_id_is_a_duplicate(self) -> None:
        given().when(dataset()).then_refused(Refusal.DUPLICATE)

    def test_under_an_id_that_is_not_the_datasets_it_is_refused(self) -> None:
        given().when(dataset("dataset-2", id="another")).then_refused(Refusal.MISROUTED)


class TestIdsOfRequests:
    @pytest.mark.parametrize("kind", REQUESTS)
    def test_every_kind_of_request_is_decided_once(self, kind: type) -> None:
        requests = (dataset("dataset-2"), requested("job-2"), stop, pause, resume, retry, priority(3))
        record = next(request for request in requests if type(request.event) is kind)
        scenario = given(requested())
        again = Record(record.event, record.subject, id=record.numbered(99))
        scenario.judge(again)
        scenario.when(again).then_refused(Refusal.DUPLICATE)

    def test_a_refused_request_decides_its_id_too(self) -> None:
        scenario = given(requested())
        asked = Record(retry.event, J, id="request-1")
        assert scenario.judge(asked) is Refusal.NOT_RETRIABLE
        scenario.judge(stop)
        scenario.when(asked).then_refused(Refusal.DUPLICATE)

    def test_an_id_decides_across_types_and_jobs(self) -> None:
        scenario = given(requested(), requested("job-2"))
        scenario.judge(Record(pause.event, J, id="request-1"))
        scenario.when(Record(stop.event, "job-2", id="request-1")).then_refused(Refusal.DUPLICATE)

    def test_ids_of_reports_decide_nothing(self) -> None:
        scenario = given(requested(), started())
        scenario.judge(Record(epoch(1).event, J, id="same"))
        scenario.when(Record(epoch(2).event, J, id="same")).then_effect()

    def test_reports_and_requests_and_what_is_said_of_the_platform_are_all_the_events(self) -> None:
        assert {kind for kind in EVENTS if kind.is_request} == {*REQUESTS, *SYSTEM}
        assert {*REQUESTS, *REPORTS, RulesActivated, *SYSTEM} == set(EVENTS)


class TestTheSystemsOwnWorkspace:
    SWAPPED = ProjectionsSwapped(projections=("jobs",))

    def judged(self, workspace: Workspace, id: str) -> Effect | Refusal:
        return judge(workspace, id=id, subject="run", actor="admin", event=self.SWAPPED, at=0)

    def test_whatever_was_done_is_the_next_version_once(self) -> None:
        system = Workspace("system")
        assert [self.judged(system, id) for id in ("a", "b")] == [Effect(version=1), Effect(version=2)]
        assert self.judged(system, "a") is Refusal.DUPLICATE

    def test_nobody_says_so_in_a_workspace_of_people(self) -> None:
        assert self.judged(Workspace("team"), "a") is Refusal.MISROUTED


class TestVersions:
    def test_every_effective_record_is_the_next_version(self) -> None:
        scenario = given(with_dataset=False)
        records = [dataset(), requested(), started(), started(), epoch(1), epoch(1), saved(1), stop, stop, failed()]
        verdicts = [scenario.judge(record) for record in records]
        assert [v.version for v in verdicts if isinstance(v, Effect)] == [1, 2, 3, 4, 5, 6, 7]

    def test_a_job_names_the_version_of_its_record_before(self) -> None:
        scenario = given(requested(), requested("job-2"), started(), started(job="job-2"))
        job = scenario.when(epoch(1)).then_job()
        assert (job.version, job.previous) == (6, 4)

    def test_a_jobs_first_record_has_none_before(self) -> None:
        assert given().when(requested()).then_job().previous == 0

    def test_a_refused_record_leaves_the_jobs_version(self) -> None:
        scenario = given(requested(), started())
        scenario.judge(epoch(7))
        assert scenario.workspace.jobs[J].version == 3


class TestRulesActivated:
    @pytest.mark.parametrize("subject", ["partition-1", J])
    def test_inside_a_workspace_it_is_misrouted(self, subject: str) -> None:
        given(requested()).when(Record(RulesActivated(rules=2), subject)).then_refused(Refusal.MISROUTED)


class TestNeeds:
    """What whoever folds has to load before judging."""

    @pytest.mark.parametrize(
        ("record", "keys"),
        [
            (requested(), Needs(job=J, dataset=D, request="id")),
            (dataset(), Needs(dataset=D, series="iris", request="id")),
            (stop, Needs(job=J, request="id")),
            (started(), Needs(job=J)),
            (started(named=checkpoint(3)), Needs(job=J, checkpoint=(J, 1, 3, 300))),
            (lost(unreadable=checkpoint(3)), Needs(job=J, checkpoint=(J, 1, 3, 300))),
            (lost(), Needs(job=J)),
            (epoch(1), Needs(job=J)),
            (model(1), Needs(job=J, model="iris")),
            (Record(RulesActivated(rules=2), "partition"), Needs()),
        ],
    )
    def test_the_keys_of(self, record: Record, keys: Needs) -> None:
        assert needs("id", record.subject, record.event) == keys
