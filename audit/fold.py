"""Folds the records of one partition from offset 0 on, with `domain` alone: no rows, no loading, nothing of the projector's.

What the projector does in batches, from what it finds stored, this does record by record, from nothing. That both come to
the same is what an audit shows.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from domain import rules as partition_rules
from domain.events import RulesActivated
from domain.refusal import Refusal
from domain.rules import FIRST_RULES, NewerRules
from domain.workspace import Effect, Workspace, judge
from projections.chain import GENESIS, link
from projections.reading import Refused, under
from schemas import facts
from schemas.envelope import NAMES, Envelope, headers
from schemas.job_view import view

_encode = msgspec.json.Encoder().encode


class Unjudgeable(Exception):
    """This build cannot judge a record: newer rules, or a bug. What follows it in the partition cannot be judged either."""


class Judged(msgspec.Struct):
    """What one record says of itself and what came of it. `kind` is its type's name on the log; empty where unreadable."""

    said: Envelope | Refused
    kind: str
    version: int | None
    refusal: str | None
    effect: Effect | None
    first: bool
    """Whether it is the first occurrence of a request, whose verdict is kept under the request's id."""


class Fold:
    """The state of one partition after the records taken so far."""

    def __init__(self) -> None:
        self.workspaces: dict[str, Workspace] = {}
        self.rules = FIRST_RULES
        self.chain = GENESIS

    def judge(self, at: int, key: bytes | None, value: bytes | None, said: Envelope | Refused) -> Judged:
        """The verdict on the next record of the log, which says `said`; `at` is its time in milliseconds.

        Raises `Unjudgeable`.
        """
        self.chain = link(self.chain, at, key, value)
        said = under(said, self.rules)
        if type(said) is Refused:
            return Judged(said, said.type, None, said.refusal.value, None, False)
        event = said.data
        workspace = self.workspaces.get(said.workspace)
        if workspace is None:
            workspace = self.workspaces[said.workspace] = Workspace(said.workspace)
        first = event.is_request and said.id not in workspace.requests
        try:
            if type(event) is RulesActivated:
                verdict = self._activate(workspace, event)
            else:
                verdict = judge(workspace, id=said.id, subject=said.subject, actor=said.actor, event=event, at=at)
        except NewerRules as error:
            raise Unjudgeable(str(error)) from None
        except Exception as error:
            raise Unjudgeable(f"{type(error).__name__}: {error}") from error
        if type(verdict) is Effect:
            return Judged(said, NAMES[type(event)], verdict.version, None, verdict, first)
        return Judged(said, NAMES[type(event)], None, verdict.value, None, first)

    def _activate(self, workspace: Workspace, event: RulesActivated) -> Effect | Refusal:
        refusal = partition_rules.admit(self.rules, event)
        if refusal is not None:
            return refusal
        self.rules = event.rules
        workspace.version += 1
        return Effect(version=workspace.version)


def tail_of(effect: Effect, at: int) -> bytes:
    """What the fact of an effective record has beyond the record's own bytes."""
    job = effect.job
    return facts.tail(
        version=effect.version,
        previous=job.previous if job is not None else 0,
        at=at,
        job=view(job) if job is not None else None,
    )


def unusual_headers(found: Sequence[tuple[str, bytes | None]], said: Envelope | Refused) -> bytes | None:
    """A record's headers as the journal keeps them: nothing where they are the copies that every writer makes."""
    if type(said) is not Refused and list(found) == headers(said):
        return None
    return _encode([(name, value) for name, value in found])
