"""What goes wrong, said to people.

Everything a person can mend is a :class:`UserError`; its text is what they read. Anything else is a fault of
ours and keeps its traceback, for the log.
"""

from __future__ import annotations

from collections.abc import Iterable


class UserError(Exception):
    """One line (or several, one per problem) that names the file or field and what to do about it."""

    def __init__(self, message: str):
        super().__init__(message)
        self.problems: list[str] = [message]

    @classmethod
    def several(cls, problems: Iterable[str]) -> UserError:
        """All problems at once, so that nobody has to mend them one start at a time."""
        listed = list(problems)
        error = cls("\n".join(listed))
        error.problems = listed
        return error


class Cancelled(Exception):
    """The person asked to stop; what was saved so far is whole."""
