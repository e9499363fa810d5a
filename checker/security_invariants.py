"""S and A: every effect has an actor, and no secret is anywhere."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from urllib.parse import quote_from_bytes

from checker.fold import Fold
from checker.history import History
from checker.violation import Violation


def check(history: History, fold: Fold) -> Iterator[Violation]:
    """A1: calls and events match in actor and workspace. S1: canaries are nowhere."""
    actors = {(call.workspace, call.event_id): call.actor for call in history.calls if call.event_id}
    for (workspace, id), verdict in fold.requests.items():
        assert verdict.document is not None
        said = verdict.document["actor"]
        if not said:
            yield Violation("A1", f"{verdict.type} {id} has no actor")
        elif actors.get((workspace, id), said) != said:
            yield Violation("A1", f"{verdict.type} {id} was asked for by {actors[workspace, id]}, the log says {said}")
    yield from _canaries(history)


def _canaries(history: History) -> Iterator[Violation]:
    places = dict(history.texts)
    for record in history.log:
        places[f"log {record.partition}:{record.offset}"] = record.value or b""
    for canary in history.canaries:
        forms = (canary, base64.b64encode(canary).rstrip(b"="), quote_from_bytes(canary).encode())
        for place, text in places.items():
            if any(form in text for form in forms):
                yield Violation("S1", f"a secret is readable in {place}")
