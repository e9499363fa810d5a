"""The number of the rules, and the rest between attempts."""

from __future__ import annotations

from itertools import pairwise

import pytest

from domain import rules
from domain.backoff import FIRST_MS, LONGEST_MS, backoff_ms
from domain.events import EVENTS, RulesActivated
from domain.refusal import Refusal


class TestRulesActivated:
    def test_rules_come_into_force_one_after_the_other(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(rules, "KNOWN_RULES", 3)
        assert rules.admit(1, RulesActivated(rules=2)) is None
        assert rules.admit(2, RulesActivated(rules=3)) is None

    @pytest.mark.parametrize("number", [1, 2, 4, 7])
    def test_any_other_number_is_refused(self, number: int) -> None:
        assert rules.admit(2, RulesActivated(rules=number)) is Refusal.RULES_OUT_OF_ORDER

    def test_a_build_that_does_not_know_them_judges_no_further(self) -> None:
        with pytest.raises(rules.NewerRules, match=f"rule set {rules.KNOWN_RULES + 1}"):
            rules.admit(rules.KNOWN_RULES, RulesActivated(rules=rules.KNOWN_RULES + 1))

    def test_rules_that_would_be_refused_stop_nobody(self) -> None:
        assert rules.admit(1, RulesActivated(rules=99)) is Refusal.RULES_OUT_OF_ORDER

    def test_every_rule_set_that_is_known_says_which_types_it_knows(self) -> None:
        assert set(rules.TYPES_BY_RULES) == set(range(rules.FIRST_RULES, rules.KNOWN_RULES + 1))

    def test_the_newest_knows_every_event(self) -> None:
        assert rules.TYPES_BY_RULES[rules.KNOWN_RULES] == set(EVENTS)

    def test_the_first_rule_set_never_changes(self) -> None:
        assert {kind.__name__ for kind in rules.TYPES_BY_RULES[1]} == {
            *("DatasetRegistered", "JobRequested", "JobStopRequested", "JobPauseRequested", "JobResumed", "JobRetried"),
            *("PriorityChanged", "AttemptStarted", "EpochCompleted", "CheckpointSaved", "JobStopped", "JobPaused"),
            *("AttemptLost", "ModelRegistered", "JobCompleted", "JobFailed", "RulesActivated"),
        }

    def test_the_second_one_brings_what_is_said_of_the_platform_and_nothing_else(self) -> None:
        assert {kind.__name__ for kind in rules.TYPES_BY_RULES[2] - rules.TYPES_BY_RULES[1]} == {
            *("ProjectionsRebuildStarted", "ProjectionsRebuilt", "ProjectionsSwapped", "ProjectionsRolledBack"),
            "ProjectionsRebuildCancelled",
        }


class TestBackoff:
    def test_the_first_setback_is_free(self) -> None:
        assert backoff_ms(1) == 0

    def test_then_it_doubles_up_to_a_minute(self) -> None:
        rests = [backoff_ms(n) for n in range(2, 12)]
        assert rests[0] == FIRST_MS
        assert all(later in (2 * earlier, LONGEST_MS) for earlier, later in pairwise(rests))
        assert rests[-1] == LONGEST_MS

    @pytest.mark.parametrize("setbacks", [0, 10**6])
    def test_it_is_total(self, setbacks: int) -> None:
        assert 0 <= backoff_ms(setbacks) <= LONGEST_MS
