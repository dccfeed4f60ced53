"""Packages that ran here, by their SHA-256: the same bytes under another version are a replay."""

from __future__ import annotations

from pathlib import Path

import msgspec
from twisted.logger import Logger

from daemon.aio.threads import Threads
from daemon.durable.atomic import read_bounded, write_atomic
from daemon.errors import StorageError
from daemon.updater.journal import tell_unreadable

SCHEMA = 1
FILE_MAX = 16 * 2**20  # bytes
KNOWN_MAX = 500  # packages of each target
LANE = "updates"
DEADLINE_S = 30.0


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """The file: SHA-256 to version, by target, the oldest first."""

    schema: int = SCHEMA
    packages: dict[str, dict[str, str]] = {}

    def version_of(self, target: str, sha256: str) -> str:
        """Under which version these bytes were installed; empty for never."""
        return self.packages.get(target, {}).get(sha256, "")

    def newest(self, target: str) -> str:
        """The version that was installed last, by a roll-back too; empty for none."""
        return next(reversed(self.packages.get(target, {}).values()), "")

    def with_package(self, target: str, sha256: str, version: str) -> Known:
        """The same, and that one."""
        others = {key: value for key, value in self.packages.get(target, {}).items() if key != sha256}
        kept = dict(list(others.items())[-(KNOWN_MAX - 1) :])
        return Known(packages={**self.packages, target: {**kept, sha256: version}})


class KnownPackages:
    """What is known, and its file.

    Args:
        path: ``work_dir/state/updates/known.json``.
        threads: write it.
    """

    log = Logger()

    def __init__(self, path: Path, threads: Threads) -> None:
        self._path = path
        self._threads = threads
        self._known = Known()

    def recall(self) -> None:
        """Reads the file; one that cannot be understood is set aside. Blocks; for the start only."""
        try:
            known = msgspec.json.decode(read_bounded(self._path, FILE_MAX), type=Known)
            if known.schema > SCHEMA:
                raise ValueError(f"schema {known.schema} is newer than this daemon's {SCHEMA}")
        except FileNotFoundError:
            return
        except (StorageError, ValueError, RecursionError, msgspec.MsgspecError) as error:
            tell_unreadable(self._path, error)
            return
        self._known = known

    def version_of(self, target: str, sha256: str) -> str:
        """See :class:`Known`."""
        return self._known.version_of(target, sha256)

    def newest(self, target: str) -> str:
        """See :class:`Known`."""
        return self._known.newest(target)

    def keep(self, target: str, sha256: str, version: str) -> None:
        """A package runs from now on, or after a roll-back the program of one; written in the background."""
        self._known = known = self._known.with_package(target, sha256, version)
        saving = self._threads.run(LANE, DEADLINE_S, write_atomic, self._path, msgspec.json.encode(known))
        saving.addErrback(lambda failure: self.log.warn(
            "D1004 the list of known packages cannot be written: {error}",
            error=failure.getErrorMessage(), error_code="D1004",
        ))
