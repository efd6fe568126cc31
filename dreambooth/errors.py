"""Errors with a message for users.

Whatever a user can fix is raised as :class:`UserError`, whose text is shown as it is. Any other exception is a bug: it
is shown with its traceback in the log.
"""

from __future__ import annotations

from collections.abc import Iterable


class UserError(Exception):
    """An error that the user can fix: one line per problem, each naming the file or field and the fix."""

    def __init__(self, message: str):
        super().__init__(message)
        self.problems: list[str] = [message]

    @classmethod
    def from_problems(cls, problems: Iterable[str]) -> UserError:
        """One error for all problems, so that they can be fixed in one go."""
        listed = list(problems)
        error = cls("\n".join(listed))
        error.problems = listed
        return error


class Cancelled(Exception):
    """The user canceled the task. Files saved so far are complete."""


def first_sentence(error: BaseException) -> str:
    """What went wrong, without the advice for developers that torch adds; the error's type if it says nothing."""
    first_line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return first_line.partition(". ")[0].rstrip(".")


def describe_unexpected(error: BaseException, log: str) -> str:
    """One line about an error that is not a :class:`UserError`. ``log``: where its traceback is."""
    first_line = next(iter(str(error).strip().splitlines()), "")
    reason = f": {first_line.rstrip('.')}" if first_line else ""
    return f"Unexpected {type(error).__name__}{reason}. The traceback is in {log}."
