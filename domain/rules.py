"""The rules have a number: whatever changes any verdict is a new rule set, in force only after its `RulesActivated`."""

from __future__ import annotations

from domain.events import REPORTS, REQUESTS, SYSTEM, Event, RulesActivated
from domain.refusal import Refusal

FIRST_RULES = 1
"""In force in a partition before any `RulesActivated`."""
KNOWN_RULES = 2
"""The newest rule set that this build can judge by."""

SYSTEM_WORKSPACE = "system"
"""The workspace of records about the platform itself: rules are written to every partition, the others to its own."""

_FIRST: frozenset[type[Event]] = frozenset((*REQUESTS, *REPORTS, RulesActivated))
TYPES_BY_RULES: dict[int, frozenset[type[Event]]] = {1: _FIRST, 2: _FIRST | frozenset(SYSTEM)}
"""The event types that each rule set knows. A released entry never changes.

Rule set 2 brings the records about the platform itself, in the workspace `system`.
"""


class NewerRules(Exception):
    """The log activates rules that this build does not know: it must not judge any further."""


def admit(current: int, event: RulesActivated) -> Refusal | None:
    """Whether `event` takes effect in a partition judged by `current`. Raises `NewerRules` if it does and is unknown here."""
    if event.rules != current + 1:
        return Refusal.RULES_OUT_OF_ORDER
    if event.rules > KNOWN_RULES:
        raise NewerRules(f"rule set {event.rules} comes into force; this build knows up to {KNOWN_RULES}")
    return None
