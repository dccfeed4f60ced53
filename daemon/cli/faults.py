"""What can go wrong for whoever types ``hostctl``: exit statuses, and the one exception for people."""

from __future__ import annotations

from enum import IntEnum
from typing import Any


class Exit(IntEnum):
    """Exit statuses, documented in docs/hostctl.md; scripts rely on them."""

    OK = 0
    FAILED = 1
    USAGE = 2  # click's own
    UNWELL = 3  # something does not run or is unhealthy (LSB: program is not running)
    UNREACHABLE = 4  # no such agent, or no daemon to ask
    INTERRUPTED = 130  # 128 + SIGINT
    PIPE = 141  # 128 + SIGPIPE: nobody reads our output any more


class CliFault(Exception):
    """A fault to tell in two lines: what is wrong, and what to do.

    Args:
        message: the cause.
        hint: the next step, a command where there is one; empty for none.
        status: what ``hostctl`` ends with.
    """

    def __init__(self, message: str, *, hint: str = "", status: Exit = Exit.FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.status = status


class Unreachable(CliFault):
    """The daemon cannot be asked: it does not run, went away, or may not be asked by us.

    Args:
        away: whether waiting may help: it was not there, or left. False where it is there and refuses.
    """

    def __init__(self, message: str, *, hint: str, away: bool) -> None:
        super().__init__(message, hint=hint, status=Exit.UNREACHABLE)
        self.away = away


class Refused(CliFault):
    """The daemon answered with an error.

    Attributes:
        http_status: of the answer.
        problem: its body, RFC 9457.
    """

    def __init__(self, http_status: int, problem: dict[str, Any], *, hint: str = "") -> None:
        code = problem.get("code")
        detail = str(problem.get("detail") or problem.get("title") or f"HTTP status {http_status}")
        super().__init__(f"{code} {detail}" if code else detail, hint=hint)
        self.http_status = http_status
        self.problem = problem
