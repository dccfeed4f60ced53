"""Updates as everybody sees them: what is asked for, how far it is, what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

DAEMON = "daemon"  # the component that is the daemon itself
SOLE_AGENT = "agent"  # the component that is the one agent there is


class UpdateState(Enum):
    """How an update stands."""

    ACCEPTED = "accepted"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"  # nothing was changed
    ROLLED_BACK = "rolled_back"
    CANCELLED = "cancelled"
    BROKEN = "broken"  # the roll-back failed too: an operator has to look

    @property
    def over(self) -> bool:
        """Whether nothing follows any more."""
        return self not in (UpdateState.ACCEPTED, UpdateState.RUNNING)


class UpdateStep(Enum):
    """Where an update is, in this order; ROLLBACK only after a failure from APPLY on."""

    SOURCE = "source"
    SPACE = "space"
    DOWNLOAD = "download"
    SIGNATURE = "signature"
    HASH = "hash"
    MANIFEST = "manifest"
    BACKUP = "backup"
    PREFLIGHT = "preflight"
    APPLY = "apply"
    VERIFY = "verify"
    PRUNE = "prune"
    ROLLBACK = "rollback"
    DONE = "done"


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateRequest:
    """What is asked for, nothing of it checked.

    Attributes:
        component: ``daemon``, an agent's id, or ``agent`` where there is exactly one.
        download_url, update_data: exactly one of them.
        hash: SHA-256 of the package in hex.
        signature: of the package, base64.
    """

    component: str
    version: str
    hash: str
    signature: str
    download_url: str = ""
    update_data: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateView:
    """One update, under way or over.

    Attributes:
        progress: 0 to 1 of the step that is named.
        started_at, finished_at: Unix seconds; 0 for not yet.
        success: None until the journal is finished, roll-back included.
        code: D-code of ``error``; empty for none.
        evidence: what proves the outcome: exit status, verdict, last log lines, hashes.
    """

    id: str
    component: str
    version: str
    state: UpdateState
    step: UpdateStep
    progress: float = 0.0
    started_at: float = 0.0
    finished_at: float = 0.0
    success: bool | None = None
    old_version: str = ""
    new_version: str = ""
    error: str = ""
    code: str = ""
    rolled_back: bool = False
    evidence: Mapping[str, Any] = field(default_factory=dict)
