"""Which records somebody wants to see."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from domain.events import DatasetRegistered, JobRequested, ModelRegistered

if TYPE_CHECKING:
    from audit.entries import Entry

_OF_DATASETS = frozenset({"DatasetRegistered", "JobRequested", "ModelRegistered"})
_OF_MODELS = frozenset({"JobRequested", "ModelRegistered"})


class Selection:
    """All conditions hold together. Times are milliseconds since 1970, both ends included; versions too.

    A dataset's records are its registration, the requests that name it, and the models that came of them; a model's are
    the requests that ask for it and its versions. To tell, it remembers the jobs that it has met.
    """

    def __init__(
        self,
        *,
        workspace: str | None = None,
        job: str | None = None,
        dataset: str | None = None,
        model: str | None = None,
        actor: str | None = None,
        since: int | None = None,
        until: int | None = None,
        versions: tuple[int, int] | None = None,
        verdict: Literal["effective", "refused"] | None = None,
    ) -> None:
        self.workspace = workspace
        self.subject = job
        self.dataset = dataset
        self.model = model
        self.actor = actor
        self.since = since
        self.until = until
        self.versions = versions
        self.verdict = verdict
        self._jobs: set[str] = set()

    @property
    def types(self) -> frozenset[str] | None:
        """The only types that can match; None for any."""
        if self.dataset is not None:
            return _OF_DATASETS
        return _OF_MODELS if self.model is not None else None

    @property
    def remembers(self) -> bool:
        """Whether what matches depends on records before it, so that all of them have to be looked at."""
        return self.dataset is not None

    @property
    def is_whole(self) -> bool:
        """Whether nothing of the jobs that are met is left out."""
        left_out = (self.dataset, self.model, self.actor, self.since, self.until, self.versions, self.verdict)
        return all(condition is None for condition in left_out)

    def matches(self, entry: Entry) -> bool:
        """Whether the record is wanted, but for versions."""
        if self.workspace is not None and entry.workspace != self.workspace:
            return False
        if self.subject is not None and entry.subject != self.subject:
            return False
        if self.dataset is not None and not self._is_of_dataset(entry):
            return False
        if self.model is not None and not self._is_of_model(entry):
            return False
        if self.actor is not None and entry.actor != self.actor:
            return False
        if self.since is not None and entry.at < self.since:
            return False
        if self.until is not None and entry.at > self.until:
            return False
        return self.verdict is None or (entry.version is not None) == (self.verdict == "effective")

    def within(self, entry: Entry, version: int) -> bool:
        """Whether the record lies between the wanted versions; `version` is the workspace's after it."""
        if self.versions is None:
            return True
        low, high = self.versions
        if entry.version is not None:
            return low <= entry.version <= high
        return low - 1 <= version < high

    def _is_of_dataset(self, entry: Entry) -> bool:
        match entry.event:
            case DatasetRegistered():
                return entry.subject == self.dataset
            case JobRequested(dataset=dataset) if dataset.id == self.dataset:
                self._jobs.add(entry.subject)
                return True
            case ModelRegistered():
                return entry.subject in self._jobs
            case _:
                return False

    def _is_of_model(self, entry: Entry) -> bool:
        match entry.event:
            case JobRequested(model=name) | ModelRegistered(model=name):
                return name == self.model
            case _:
                return False
