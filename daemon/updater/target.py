"""What can be updated: the steps that differ between an agent and the daemon itself, behind one protocol.

:class:`daemon.updater.manager.UpdateManager` walks the steps, writes the journal before each of them and
decides what follows a failure; a target only carries out its part, and can be asked to do so a second time by
a daemon that took over from one that was killed in the middle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import msgspec

from daemon.errors import RequestError


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """What ``apply`` replaces, written down before it does: enough to undo it or to see that it happened.

    Attributes:
        target: what is replaced: the binary of an agent, the version folder of the daemon.
        old_sha256, new_sha256: of its content before and after; empty where there was none, or for a folder.
        backup: the copy of the old one.
        files: other files that came with it, path to SHA-256; to be removed by a roll-back where ``added``.
        added: those of ``files`` that did not exist before.
        replaced: of ``files`` that an update had installed before: path to its copy in the backup.
        mode, uid, gid, capability: rights of the old one; the capabilities of the file in hex.
        link: what the symbolic link said that is replaced; empty where a file is.
        folders: that did not exist before and are made for ``files``.
        ran: the agents that ran and were well before; after a roll-back they have to again.
    """

    target: str
    old_sha256: str = ""
    new_sha256: str = ""
    backup: str = ""
    files: Mapping[str, str] = {}
    added: tuple[str, ...] = ()
    replaced: Mapping[str, str] = {}
    mode: int = 0o755
    uid: int = -1
    gid: int = -1
    capability: str = ""
    link: str = ""
    folders: tuple[str, ...] = ()
    ran: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One update as a target sees it.

    Attributes:
        id: of the update; names temporary files.
        version: the new one.
        old_version: the one before, empty where it is not known.
        folder: the update's own staging folder, 0700, gone when the update is over.
        files: the unpacked package: name in the package to its file below ``folder``; all of them verified.
        sha256: of each of them, as the signed manifest says; what is applied must be these bytes.
        modes: likewise their permission bits.
        main: the name of the one that is the program.
        applied: as ``plan`` returned it; None before.
    """

    id: str
    version: str
    old_version: str
    folder: Path
    files: Mapping[str, Path] = field(default_factory=dict)
    sha256: Mapping[str, str] = field(default_factory=dict)
    modes: Mapping[str, int] = field(default_factory=dict)
    main: str = ""
    applied: Applied | None = None


class UpdateTarget(Protocol):
    """An agent, or the daemon itself."""

    @property
    def name(self) -> str:
        """The agent's id, or ``daemon``; one update at a time for each."""
        ...

    @property
    def components(self) -> frozenset[str]:
        """What a manifest for it may name as its component."""
        ...

    @property
    def hands_over(self) -> bool:
        """Whether ``apply`` ends this process: then a stop of the daemon does not wait for it."""
        ...

    async def refusal(self) -> RequestError | None:
        """Why it cannot be updated at all just now (PRECONDITION); None when it can."""
        ...

    async def installed(self) -> str:
        """The installed version; empty where nobody knows it."""
        ...

    def rooms(self) -> tuple[Path, ...]:
        """Folders whose filesystems need room for the new version and the backup."""
        ...

    async def plan(self, job: Job) -> Applied:
        """Copies what is there now into a backup, checked, and says what ``apply`` will replace.

        Raises:
            UpdateApplyError: D4003; nothing was changed.
        """
        ...

    async def discard(self, job: Job) -> None:
        """Removes what ``plan`` and ``preflight`` may have left outside of the staging folder, when an update
        ends before ``apply``. Never raises, and does no harm at any time before ``apply``."""
        ...

    async def preflight(self, job: Job) -> None:
        """Tries the new version without putting it in place, as far as that is possible.

        Raises:
            UpdateApplyError: D4003, it would not run; nothing was changed.
        """
        ...

    async def apply(self, job: Job) -> None:
        """Puts the new version in place and runs it; doing it again changes nothing more.

        Raises:
            UpdateApplyError: D4003; a roll-back follows.
        """
        ...

    async def verify(self, job: Job) -> Mapping[str, Any]:
        """Waits until the new version has been healthy for ``verify_period``; the evidence.

        Raises:
            UpdateApplyError: D4003 with ``details["evidence"]``; a roll-back follows.
        """
        ...

    async def roll_back(self, job: Job) -> Mapping[str, Any]:
        """Puts the old version back and proves that it runs; the evidence. Doing it again is harmless.

        Raises:
            UpdateRollbackError: D4004, with the cause and what an operator has to do.
        """
        ...

    def leave(self) -> None:
        """The daemon stops during ``apply`` or ``roll_back``: what is between two versions is ended, and a
        proof that is waited for now or then ends with CancelledError, for the next daemon to begin anew."""
        ...

    async def prune(self, job: Job, keep: int) -> None:
        """Removes backups beyond ``keep``, never what runs nor what the last update replaced."""
        ...

    async def previous(self) -> Job | None:
        """A job that goes back to the version before the installed one, for a roll-back on request; None when
        none is kept."""
        ...
