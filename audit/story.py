"""Tells what happened so that a person can follow it: who did what, what came of it, and why what was refused was refused."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime

import msgspec

from audit.entries import Entry
from audit.reasons import reason
from domain import job as jobs
from domain.events import (
    AttemptLost,
    AttemptStarted,
    CheckpointSaved,
    DatasetRegistered,
    EpochCompleted,
    Event,
    JobCompleted,
    JobFailed,
    JobPaused,
    JobPauseRequested,
    JobRequested,
    JobResumed,
    JobRetried,
    JobStopped,
    JobStopRequested,
    ModelRegistered,
    PriorityChanged,
    ProjectionsRebuildStarted,
    ProjectionsRebuilt,
    ProjectionsRolledBack,
    ProjectionsSwapped,
    RulesActivated,
    SystemEvent,
)
from domain.job import Job, Status
from schemas.job_view import message

_KEPT_JOBS = 10_000
Load = Callable[[Entry], Awaitable[Job | None]]
"""The job that a record is about, as it was before it."""


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """One paragraph of the story: one record, or several epochs in a row."""

    first: Entry
    last: Entry
    records: int
    sentence: str
    effective: bool
    after: Job | None

    @property
    def when(self) -> str:
        """The broker's time of the first record."""
        return moment(self.first.at)

    @property
    def mark(self) -> str:
        """`v12`, `v12-18`, or `refused`."""
        if not self.effective:
            return "refused"
        if self.first is self.last:
            return f"v{self.first.version}"
        return f"v{self.first.version}-{self.last.version}"


def moment(at: int) -> str:
    """RFC 3339, UTC, to the millisecond."""
    return datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{at % 1000:03d}Z"


class Narrator:
    """Follows jobs from record to record. `load` fetches a job that it has not followed; None: all begin here."""

    def __init__(self, load: Load | None = None, *, always: bool = False) -> None:
        self._load = load
        self._always = always
        """Whether records are left out between those that are told, so that nothing can be followed."""
        self._jobs: OrderedDict[tuple[str, str], Job | None] = OrderedDict()
        self._wishes: dict[tuple[str, str], str] = {}
        self._requests: OrderedDict[tuple[str, str], str] = OrderedDict()

    async def tell(self, entries: AsyncIterator[Entry], *, every: bool = False) -> AsyncIterator[Told]:
        """Paragraph after paragraph; with `every` each epoch has its own."""
        run: list[tuple[Entry, Job | None]] = []
        async for entry in entries:
            before = await self._before(entry)
            after = self._after(entry, before)
            if not every and self._continues(run, entry):
                run.append((entry, after))
                continue
            if run:
                yield _epochs(run)
                run = []
            if not every and entry.version is not None and isinstance(entry.event, EpochCompleted):
                run = [(entry, after)]
                continue
            yield Told(
                first=entry,
                last=entry,
                records=1,
                sentence=self._sentence(entry, before, after),
                effective=entry.version is not None,
                after=after,
            )
        if run:
            yield _epochs(run)

    @staticmethod
    def _continues(run: list[tuple[Entry, Job | None]], entry: Entry) -> bool:
        if not run or entry.version is None or not isinstance(entry.event, EpochCompleted | CheckpointSaved):
            return False
        first = run[0][0]
        assert isinstance(first.event, EpochCompleted)
        return (first.workspace, first.subject, first.event.attempt) == (
            entry.workspace,
            entry.subject,
            entry.event.attempt,
        )

    async def _before(self, entry: Entry) -> Job | None:
        if entry.before is not msgspec.UNSET:
            return entry.before
        key = (entry.workspace, entry.subject)
        if not self._always and (key in self._jobs or self._load is None):
            return self._jobs.get(key)
        return None if self._load is None else await self._load(entry)

    def _after(self, entry: Entry, before: Job | None) -> Job | None:
        event, key = entry.event, (entry.workspace, entry.subject)
        after = before
        if entry.version is not None and event is not None:
            if isinstance(event, JobRequested):
                after = jobs.request(event, job_id=entry.subject, actor=entry.actor, at=entry.at, version=entry.version)
            elif before is not None and not isinstance(event, DatasetRegistered | RulesActivated | SystemEvent):
                after = jobs.evolve(
                    before,
                    event,  # type: ignore[arg-type]  # A job's, since it took effect on one.
                    at=entry.at,
                    version=entry.version,
                    model_number=entry.model_number,
                )
        self._jobs[key] = after
        self._jobs.move_to_end(key)
        if len(self._jobs) > _KEPT_JOBS:
            forgotten, _ = self._jobs.popitem(last=False)
            self._wishes.pop(forgotten, None)
        return after

    def _sentence(self, entry: Entry, before: Job | None, after: Job | None) -> str:
        key, event = (entry.workspace, entry.subject), entry.event
        if entry.refusal is not None:
            what = attempted(entry)
            first = self._requests.get((entry.workspace, entry.id)) if entry.refusal == "duplicate" else None
            return f"{what} This did not take effect: {reason(entry.refusal, event, before, first=first)}."
        assert event is not None
        if event.is_request:
            self._requests[entry.workspace, entry.id] = f"at version {entry.version}"
            if len(self._requests) > _KEPT_JOBS:
                self._requests.popitem(last=False)
        if isinstance(event, JobStopRequested | JobPauseRequested):
            self._wishes[key] = f"{entry.actor} asked for it at version {entry.version}"
        elif isinstance(event, JobResumed | JobRetried):
            self._wishes.pop(key, None)
        said = happened(entry, event, before)
        if after is None or (before is not None and before.status is after.status and event.is_request):
            return said
        if before is None or before.status is not after.status:
            return f"{said} {_so(event, before, after, self._wishes.get(key))}"
        return said


def attempted(entry: Entry) -> str:
    """What a refused record wanted."""
    if entry.event is None:
        return f"Something wrote bytes that this build cannot read{f' ({entry.type})' if entry.type else ''}."
    return happened(entry, entry.event, None, meant=True)


def happened(entry: Entry, event: Event, before: Job | None, *, meant: bool = False) -> str:
    """The record in one sentence."""
    who = entry.actor
    verb = "wanted to " if meant else ""

    def did(past: str, plain: str) -> str:
        return f"{who} {verb + plain if meant else past}"

    match event:
        case DatasetRegistered():
            return f"{did('registered', 'register')} the dataset {event.name} ({event.rows:,} rows, {event.format})."
        case JobRequested():
            return (
                f"{did('asked', 'ask')} for the job {event.name}: {event.recipe} version {event.recipe_version} on dataset"
                f" {event.dataset.id}, {event.epochs} epochs, for the model {event.model}."
            )
        case JobStopRequested():
            return f"{did('asked for a stop', 'ask for a stop')}."
        case JobPauseRequested():
            return f"{did('asked for a pause', 'ask for a pause')}."
        case JobResumed():
            return f"{did('let the job go on', 'let the job go on')}."
        case JobRetried():
            return f"{did('had', 'have')} the job tried again{' from the beginning' if event.fresh else ''}."
        case PriorityChanged():
            was = f" (it was {before.priority})" if before is not None else ""
            return f"{did('set', 'set')} the priority to {event.priority}{was}."
        case AttemptStarted():
            named = event.checkpoint
            start = f"the checkpoint of attempt {named.attempt} after epoch {named.epoch}" if named else "the beginning"
            return (
                f"Worker {event.worker} {verb + 'claim' if meant else 'claimed'} attempt {event.attempt}, from {start}."
            )
        case EpochCompleted():
            loss = event.metrics.get("loss")
            return f"Worker {event.worker} reported epoch {event.epoch} of attempt {event.attempt}" + (
                f" (loss {loss:.4g})." if loss is not None else "."
            )
        case CheckpointSaved():
            return (
                f"Worker {event.worker} saved a checkpoint of attempt {event.attempt} after epoch {event.epoch}, step"
                f" {event.step}."
            )
        case JobStopped() | JobPaused():
            how = "stopped" if isinstance(event, JobStopped) else "rested"
            return f"Worker {event.worker} reported that attempt {event.attempt} has {how}."
        case AttemptLost(reason="released"):
            return f"Worker {event.worker} handed attempt {event.attempt} back."
        case AttemptLost():
            return (
                f"{who} reported that attempt {event.attempt} of worker {event.worker} was lost:"
                f" {_LOSSES.get(event.reason, event.reason)}."
            )
        case ModelRegistered():
            number = f", version {entry.model_number}," if entry.model_number else ""
            return (
                f"Worker {event.worker} {verb + 'register' if meant else 'registered'} the model {event.model}{number} from"
                f" attempt {event.attempt} after epoch {event.last_epoch}."
            )
        case JobCompleted():
            return f"Worker {event.worker} reported the end of attempt {event.attempt} after epoch {event.last_epoch}."
        case JobFailed():
            what = f"{event.code}, {event.exception}" if event.exception else event.code
            return f"Worker {event.worker} reported that attempt {event.attempt} failed ({what})."
        case RulesActivated():
            return f"{did('brought', 'bring')} rule set {event.rules} into force."
        case SystemEvent():
            return _of_the_platform(event, who, verb)
        case _:
            return f"{who} {verb + 'write' if meant else 'wrote'} {type(event).__name__}."


def _of_the_platform(event: SystemEvent, who: str, verb: str) -> str:
    names = ", ".join(event.projections)
    match event:
        case ProjectionsRebuildStarted():
            return f"{who} {f'{verb}begin' if verb else 'began'} to make {names} anew from the log."
        case ProjectionsRebuilt():
            odd = f", and {event.differing_verdicts:,} verdicts" if event.differing_verdicts else ""
            return (
                f"{event.records:,} records were judged anew and {event.rows:,} rows of {names} compared:"
                f" {event.differing_rows:,} rows{odd} were not what the log says."
            )
        case ProjectionsSwapped():
            return f"{who} {f'{verb}put' if verb else 'put'} the new tables of {names} in the place of the old ones."
        case ProjectionsRolledBack():
            return f"{who} {f'{verb}bring' if verb else 'brought'} back the tables of {names} that a swap had replaced."
        case _:
            return f"{who} {f'{verb}cancel' if verb else 'cancelled'} the rebuild of {names}."


_LOSSES = {
    "lease_expired": "it had been silent past its lease",
    "killed": "its training process was killed",
    "out_of_memory": "it ran out of memory",
    "device_error": "its device failed",
    "checkpoint_unreadable": "the checkpoint that it was to start from could not be read",
}


def _so(event: Event, before: Job | None, after: Job, wish: str | None) -> str:
    """What came of it for the job, and why that."""
    status = after.status.value
    match after.status:
        case Status.STOPPED if isinstance(event, JobStopRequested):
            return "Nothing was running, so the job stopped at once."
        case Status.PAUSED if isinstance(event, JobPauseRequested):
            return "Nothing was running, so the job rests at once."
        case Status.STOPPED | Status.PAUSED if wish:
            return f"The job is {status}, since {wish}."
        case Status.FAILED if isinstance(event, AttemptLost):
            return (
                f"That was loss {after.losses} of {after.spec.max_losses} without a new checkpoint between them, so the job"
                " failed."
            )
        case Status.QUEUED if isinstance(event, AttemptLost) and event.reason != "released":
            rest = f"; it rests until {moment(after.not_before)}" if after.not_before > after.updated_at else ""
            return f"The job is queued again (loss {after.losses} of {after.spec.max_losses}){rest}."
        case Status.QUEUED if before is not None:
            return "The job is queued again."
        case _:
            return f"The job is {status}."


def _epochs(run: list[tuple[Entry, Job | None]]) -> Told:
    first, last = run[0][0], run[-1][0]
    epochs = [entry.event for entry, _ in run if isinstance(entry.event, EpochCompleted)]
    saved = len(run) - len(epochs)
    begun, ended = epochs[0], epochs[-1]
    several = f"epochs {begun.epoch} to {ended.epoch}" if len(epochs) > 1 else f"epoch {begun.epoch}"
    a, b = begun.metrics.get("loss"), ended.metrics.get("loss")
    loss = ""
    if a is not None and b is not None:
        loss = f" (loss {a:.4g} → {b:.4g})" if len(epochs) > 1 else f" (loss {a:.4g})"
    kept = f", and saved {saved} checkpoint{'s' if saved > 1 else ''}" if saved else ""
    return Told(
        first=first,
        last=last,
        records=len(run),
        sentence=f"Worker {begun.worker} reported {several} of attempt {begun.attempt}{loss}{kept}.",
        effective=True,
        after=run[-1][1],
    )


def ending(job: Job) -> str:
    """The answer to "why is this job in this state?", after its story."""
    return f"So the job {job.spec.name} is {job.status.value} since version {job.version}. {message(job)}"
