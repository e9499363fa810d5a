"""What went wrong first, out of the groups that groups of tasks wrap it in."""

from __future__ import annotations


def first_error(error: BaseException) -> BaseException:
    """The first error of a group, of its first group, and so on; what is no group is itself."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
