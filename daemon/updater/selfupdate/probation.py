"""The record of the daemon's last update of itself, ``ROOT/probation.json``: who tries, who falls back, what
came.

The old version writes it before it gives way; the new one confirms it once it has proven itself; watcher,
launcher, or the new version itself take it back. Whoever changes it holds ``ROOT/probation.lock`` and reads
it anew first, so a confirmation and a roll-back cannot both happen. All of it blocks: on a thread, or where
the process is leaving.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import msgspec

from daemon import faults
from daemon.model.agent import Identity
from daemon.updater.selfupdate import launcher

SCHEMA = 1
WATCHER_LOG = "probation.log"
STDERR_LOG = "probation.stderr"


class Phase(Enum):
    """How an update of the daemon stands."""

    TRYING = launcher.TRYING
    CONFIRMED = launcher.CONFIRMED
    ROLLED_BACK = launcher.ROLLED_BACK


class Probation(msgspec.Struct, frozen=True, kw_only=True):
    """One update of the daemon. Times ending in ``_mono`` are CLOCK_MONOTONIC within the boot of ``daemon``:
    a host that sleeps proves nothing meanwhile, and must not be blamed for it.

    Attributes:
        id: of the update.
        old, new: the versions; ``old`` comes back when ``new`` does not prove itself.
        earlier: the version before ``old``, still kept; empty for none.
        settled: whether the version that came out of it runs and is ready.
        by, reason, evidence: who took it back, and why.
        began_at: Unix seconds.
        give_up_mono: until then the new version must have proven itself, else it gives up.
        deadline_mono: then the watcher ends it.
        kill_after_s: from SIGTERM to SIGKILL.
        grace_s: for somebody else (a supervisor) to start the daemon after it died, before the watcher does.
        verify_period_s: how long all must be well.
        daemon: the process; an exec keeps it.
        watcher: the process that watches it; None before it does.
        agents: what ran, by agent: the same processes must run afterwards.
        argv, env, cwd: how the watcher starts the old version again; taken out once all is settled.
        supervised: by a service manager, which starts it again by itself.
        stopping: an operator asked the new version to leave before it had proven itself.
        work_dir: of the daemon.
        logs: files whose last lines tell why it died.
    """

    schema: int = SCHEMA
    id: str
    old: str
    new: str
    earlier: str = ""
    state: Phase = Phase.TRYING
    settled: bool = False
    by: str = ""
    reason: str = ""
    evidence: Mapping[str, Any] = {}
    began_at: float = 0.0
    give_up_mono: float = 0.0
    deadline_mono: float = 0.0
    kill_after_s: float = 5.0
    grace_s: float = 3.0
    verify_period_s: float = 0.0
    daemon: Identity
    watcher: Identity | None = None
    agents: Mapping[str, Identity] = {}
    argv: tuple[str, ...] = ()
    env: Mapping[str, str] = {}
    cwd: str = "/"
    supervised: bool = False
    stopping: bool = False
    work_dir: str = ""
    logs: tuple[str, ...] = ()


class Kind(Enum):
    """What a version that starts finds of an update."""

    NONE = "none"
    PENDING = "pending"
    CONFIRMED = "confirmed"
    ROLLED_BACK = "rolled_back"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of an update; see :meth:`ProbationFile.outcome`.

    Attributes:
        reason: why it was taken back.
        evidence: what proves it: exit status, last lines, what the new version lacked.
    """

    kind: Kind
    reason: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)


class ProbationFile:
    """Reads and changes the record.

    Args:
        root: of the installation.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self) -> Probation | None:
        """The record; None where there is none, or none that this version understands.

        Raises:
            OSError: it cannot be read.
        """
        try:
            return _typed(launcher.read_record(self.root))
        except (ValueError, msgspec.ValidationError):
            return None  # the launcher sets it aside at the next start

    def begin(self, probation: Probation) -> None:
        """Writes a new one, in the place of the last one.

        Raises:
            OSError: the old one stands.
        """
        with launcher.locked(self.root):
            launcher.write_record(self.root, msgspec.to_builtins(probation))

    def note(self, update_id: str, **facts: Any) -> bool:
        """Adds facts to the update that is tried; False when that is over.

        Raises:
            OSError: nothing was noted.
        """
        return self._change(update_id, Phase.TRYING, facts) is not None

    def confirm(self, update_id: str) -> bool:
        """The new version has proven itself; False when it was taken back meanwhile.

        Raises:
            OSError: it is not confirmed.
        """
        with launcher.locked(self.root):
            record = self._record(update_id, Phase.TRYING)
            if record is None:
                return False
            faults.hit("update.daemon.proven")
            launcher.write_record(
                self.root, record | {"state": launcher.CONFIRMED, "settled": True, "argv": [], "env": {}}
            )
        faults.hit("update.daemon.confirmed")
        return True

    def take_back(
        self, update_id: str, by: str, reason: str, evidence: Mapping[str, Any] | None = None,
        *, even_confirmed: bool = False,
    ) -> bool:
        """``current`` names the old version again, and the record says why; False when it was confirmed or
        taken back already.

        Raises:
            OSError: the disk refuses; doing it again is harmless.
        """
        with launcher.locked(self.root):
            record = self._record(update_id, Phase.TRYING, *([Phase.CONFIRMED] if even_confirmed else []))
            if record is None:
                return False
            launcher.take_back(self.root, record, by, reason, dict(evidence or {}))
            return True

    def settle(self, update_id: str) -> bool:
        """The old version runs again and is ready; False when there is nothing to settle.

        Raises:
            OSError: it is not noted.
        """
        return self._change(
            update_id, Phase.ROLLED_BACK, {"settled": True, "argv": [], "env": {}}
        ) is not None

    def outcome(self, update_id: str, running: str) -> Outcome:
        """What came of an update, asked by a version that starts.

        An update that was interrupted before its new version ever ran is taken back here.

        Args:
            update_id: of the update.
            running: the version that asks.

        Raises:
            OSError: nobody can tell.
        """
        found = self.read()
        if found is None or found.id != update_id:
            return Outcome(kind=Kind.NONE)
        if found.state is Phase.TRYING and running == found.new:
            return Outcome(kind=Kind.PENDING)
        if found.state is Phase.TRYING and running == found.old:
            self.take_back(update_id, "daemon", "the daemon was ended before it gave way to the new version")
            found = self.read() or found
        if found.state is Phase.TRYING:
            return Outcome(kind=Kind.NONE)
        kind = Kind.CONFIRMED if found.state is Phase.CONFIRMED else Kind.ROLLED_BACK
        return Outcome(kind=kind, reason=found.reason, evidence={"by": found.by, **found.evidence})

    def _record(self, update_id: str, *states: Phase) -> launcher.Record | None:
        try:
            record = launcher.read_record(self.root)
        except ValueError:
            return None
        fits = record is not None and record.get("id") == update_id
        return record if fits and record is not None and Phase(record["state"]) in states else None

    def _change(self, update_id: str, state: Phase, facts: Mapping[str, Any]) -> launcher.Record | None:
        with launcher.locked(self.root):
            record = self._record(update_id, state)
            if record is None:
                return None
            changed: launcher.Record = record | msgspec.to_builtins(dict(facts))
            launcher.write_record(self.root, changed)
            return changed


def _typed(record: launcher.Record | None) -> Probation | None:
    return None if record is None else msgspec.convert(record, Probation)
