"""What a child prints, as bounded lines."""

from __future__ import annotations

import asyncio

from workers.log_lines import A_SECOND, LATEST, LONGEST, LineBudget, lines


class Clock:
    """Stands until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def texts(budget: LineBudget, count: int) -> list[str]:
    """What is passed on of so many lines."""
    return [logged.text for logged in budget.take([str(number).encode() for number in range(count)])]


class TestBudget:
    def test_the_first_lines_of_a_second_go_on_at_once(self) -> None:
        assert texts(LineBudget("stdout", Clock()), A_SECOND + 5) == [str(number) for number in range(A_SECOND)]

    def test_the_last_of_too_many_come_when_the_second_is_over(self) -> None:
        clock = Clock()
        budget = LineBudget("stdout", clock)
        texts(budget, A_SECOND + 10 + LATEST)
        clock.now = 1.0
        late = texts(budget, 1)
        assert late[0] == "… 10 lines left out"
        assert late[1:-1] == [str(A_SECOND + 10 + number) for number in range(LATEST)]
        assert late[-1] == "0"

    def test_what_fits_is_held_without_a_word(self) -> None:
        budget = LineBudget("stdout", Clock())
        texts(budget, A_SECOND + 2)
        assert [logged.text for logged in budget.rest()] == [str(A_SECOND), str(A_SECOND + 1)]


async def test_lines_are_cut_and_never_fail_to_decode() -> None:
    reader = asyncio.StreamReader()
    reader.feed_data("سلام\r\n".encode() + b"\xff\xfe\n" + b"x" * (2 * LONGEST) + b"\nend")
    reader.feed_eof()
    read = [logged.text async for logged in lines(reader, "stderr")]
    assert read == ["سلام", "��", "x" * LONGEST, "end"]
