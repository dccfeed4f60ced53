"""One update as it is written down: enough for the next daemon to finish or undo it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from daemon.model.update import UpdateState, UpdateStep, UpdateView
from daemon.updater.target import Applied, Job

SCHEMA = 1
ATTEMPTS_MAX = 3  # daemons that take up an update that none of them survived


class UpdateRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The journal of one update; rewritten before each step. Times are wall time, Unix seconds.

    Attributes:
        id: ``{YYYYmmddHHMMSS}-{8 hex digits}``: sorts by age.
        target: the agent's id, or ``daemon``.
        component: what the request said.
        folder: of what it needs on the way; empty for none.
        inline: the package came with the request and is in the staging folder.
        peer: who asked.
        rollback: an operator asked for the version before; nothing is fetched.
        attempts: daemons that took it up.
        old_version: what was installed, empty where nobody knows.
        key: fingerprint of the key that signed the package.
        package_sha256: of the package that was verified.
        files, sha256, modes, main: the new version, verified; see :class:`daemon.updater.target.Job`. Of an
            update that is over only ``main``.
        applied: what ``apply`` replaces; None before.
        success: None until it is over.
        cause: why a roll-back is under way.
    """

    schema: int = SCHEMA
    id: str
    target: str
    component: str
    version: str
    download_url: str = ""
    folder: str = ""
    inline: bool = False
    hash: str = ""
    signature: str = ""
    peer: str = ""
    rollback: bool = False
    state: UpdateState = UpdateState.ACCEPTED
    step: UpdateStep = UpdateStep.SOURCE
    attempts: int = 0
    accepted_at: float = 0.0
    started_at: float = 0.0
    finished_at: float = 0.0
    old_version: str = ""
    key: str = ""
    package_sha256: str = ""
    files: Mapping[str, str] = {}
    sha256: Mapping[str, str] = {}
    modes: Mapping[str, int] = {}
    main: str = ""
    applied: Applied | None = None
    success: bool | None = None
    cause: str = ""
    error: str = ""
    code: str = ""
    rolled_back: bool = False
    evidence: Mapping[str, Any] = {}

    def without_files(self) -> UpdateRecord:
        """As it is kept once it is over: fifty with thousands of files each would burden every start."""
        return msgspec.structs.replace(self, files={}, sha256={}, modes={})

    def job(self) -> Job:
        """As the target sees it."""
        return Job(
            id=self.id, version=self.version, old_version=self.old_version, folder=Path(self.folder),
            files={name: Path(path) for name, path in self.files.items()}, sha256=self.sha256,
            modes=self.modes, main=self.main, applied=self.applied,
        )

    def view(self, progress: float = 0.0) -> UpdateView:
        """As everybody may see it."""
        return UpdateView(
            id=self.id, component=self.component, version=self.version, state=self.state, step=self.step,
            progress=1.0 if self.state.over else progress, started_at=self.started_at,
            finished_at=self.finished_at, success=self.success, old_version=self.old_version,
            new_version=self.version, error=self.error, code=self.code, rolled_back=self.rolled_back,
            evidence=self.evidence,
        )
