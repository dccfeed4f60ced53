"""What follows: of a failure at a step, of a daemon that took over an update. Pure."""

from __future__ import annotations

from enum import Enum

from daemon.model.update import UpdateStep
from daemon.updater.record import ATTEMPTS_MAX, UpdateRecord

ORDER = tuple(UpdateStep)
FETCHED = frozenset({
    UpdateStep.SOURCE, UpdateStep.SPACE, UpdateStep.DOWNLOAD, UpdateStep.SIGNATURE, UpdateStep.HASH,
    UpdateStep.MANIFEST,
})


class Course(Enum):
    """How an update goes on."""

    BEGIN = "begin"  # from the start; what was downloaded is used again
    APPLY = "apply"
    VERIFY = "verify"
    FINISH = "finish"
    GIVE_UP = "give up"  # nothing was changed: it failed
    ROLL_BACK = "roll back"


def changes_something(step: UpdateStep) -> bool:
    """Whether a failure at that step is followed by a roll-back."""
    return ORDER.index(step) >= ORDER.index(UpdateStep.APPLY)


def cancellable(record: UpdateRecord) -> bool:
    """Whether an operator can still call it off."""
    return not record.state.over and not changes_something(record.step)


class Outcome(Enum):
    """What became of an update that only another process could finish: the daemon's own."""

    NONE = "none"  # nobody did anything about it
    PENDING = "pending"  # this process is the new version, on probation
    CONFIRMED = "confirmed"
    ROLLED_BACK = "rolled back"


def course(record: UpdateRecord, outcome: Outcome = Outcome.NONE) -> Course:
    """What a daemon that finds the record does with it.

    An update that daemons keep dying of ends: before ``apply`` it failed, from there on it is rolled back.
    A version on probation is not blamed for daemons that ended before it: its own watcher counts.
    """
    tired = record.attempts >= ATTEMPTS_MAX
    if outcome is Outcome.CONFIRMED:
        return Course.FINISH
    if outcome is Outcome.ROLLED_BACK:
        return Course.ROLL_BACK
    if record.step in (UpdateStep.PRUNE, UpdateStep.DONE):
        return Course.FINISH
    if record.step is UpdateStep.ROLLBACK:
        return Course.ROLL_BACK
    if not changes_something(record.step):
        return Course.GIVE_UP if tired else Course.BEGIN
    if outcome is Outcome.PENDING:
        return Course.VERIFY
    if tired:
        return Course.ROLL_BACK
    return Course.VERIFY if record.step is UpdateStep.VERIFY else Course.APPLY
