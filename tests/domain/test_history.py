"""The curve of a job: which epochs of which attempts count."""

from __future__ import annotations

from domain.history import Segment, chain
from domain.job import Origin


class TestChain:
    def test_of_a_job_that_never_ran_is_empty(self) -> None:
        assert chain([]) == []

    def test_of_one_attempt_is_all_of_it(self) -> None:
        assert chain([Origin(1, 0, 0)]) == [Segment(1, 0, None)]

    def test_what_lies_beyond_the_named_checkpoint_is_superseded(self) -> None:
        assert chain([Origin(1, 0, 0), Origin(2, 1, 5)]) == [Segment(1, 0, 5), Segment(2, 5, None)]

    def test_an_attempt_that_began_again_supersedes_everything(self) -> None:
        assert chain([Origin(1, 0, 0), Origin(2, 0, 0)]) == [Segment(2, 0, None)]

    def test_an_attempt_that_nobody_went_on_from_is_left_out(self) -> None:
        origins = [Origin(1, 0, 0), Origin(2, 1, 5), Origin(3, 1, 4)]
        assert chain(origins) == [Segment(1, 0, 4), Segment(3, 4, None)]

    def test_a_checkpoint_saved_where_its_attempt_began_adds_no_segment(self) -> None:
        origins = [Origin(1, 0, 0), Origin(2, 1, 5), Origin(3, 2, 5)]
        assert chain(origins) == [Segment(1, 0, 5), Segment(3, 5, None)]

    def test_a_checkpoint_before_the_first_epoch_adds_no_segment(self) -> None:
        assert chain([Origin(1, 0, 0), Origin(2, 1, 0)]) == [Segment(2, 0, None)]

    def test_of_a_long_line_of_attempts(self) -> None:
        origins = [Origin(n, n - 1, (n - 1) * 10) for n in range(1, 6)]
        assert chain(origins) == [*(Segment(n, (n - 1) * 10, n * 10) for n in range(1, 5)), Segment(5, 40, None)]
