"""The journal of updates: one file each in ``work_dir/state/updates``.

A file is rewritten and synced before each step of its update; it is the whole memory of an update, under way
or over. Everything here blocks: on the lane of updates, or at start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from twisted.logger import Logger

from daemon import faults
from daemon.durable.atomic import read_bounded, remove_stale_temporaries, set_aside, write_atomic
from daemon.durable.explain import storage_error
from daemon.errors import StorageError
from daemon.updater.record import SCHEMA, UpdateRecord

# Bytes. It holds each name of the package's manifest four times, once with the whole path, and so is several
# times as large; the manifest may have 1 MiB. A bundle of the daemon, of 4,000 files, makes 1.3 MiB here.
FILE_MAX = 16 * 2**20
KEPT = 50  # updates that are over, of each target

_DECODER = msgspec.json.Decoder(UpdateRecord)


def _plain(value: object) -> object:
    """Steps hand over read-only mappings, and evidence may hold whatever proves something."""
    return dict(value) if isinstance(value, Mapping) else str(value)


_encode = msgspec.json.Encoder(enc_hook=_plain).encode


class UpdateJournal:
    """The files.

    Args:
        directory: made by :meth:`load`.
    """

    log = Logger()

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def load(self) -> tuple[UpdateRecord, ...]:
        """Every update that can be read, the oldest first; a file that cannot is set aside and logged.

        Raises:
            StorageError: the folder cannot be used.
        """
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            remove_stale_temporaries(self._directory)
            names = sorted(self._directory.glob("[0-9]*.json"))
        except OSError as error:
            raise StorageError(f"cannot read {self._directory}: {error.strerror}; mend its rights") from error
        found = []
        for path in names:
            record = self._read(path)
            if record is not None:
                found.append(record)
        return tuple(found)

    def _read(self, path: Path) -> UpdateRecord | None:
        try:
            record = _DECODER.decode(read_bounded(path, FILE_MAX))
            if record.schema > SCHEMA:
                raise ValueError(f"schema {record.schema} is newer than this daemon's {SCHEMA}")
            if path.name != f"{record.id}.json":
                raise ValueError(f"it is of update {record.id!r}")
        except (StorageError, ValueError, RecursionError, msgspec.MsgspecError) as error:
            tell_unreadable(path, error)
            return None
        return record

    def save(self, record: UpdateRecord) -> None:
        """Writes one update, synced.

        Raises:
            StorageError: it is not written.
        """
        path = self._directory / f"{record.id}.json"
        data = _encode(record)
        if len(data) > FILE_MAX:  # the next daemon would not read it
            raise StorageError(
                f"cannot write {path}: it would be larger than {FILE_MAX} bytes; make a package with fewer "
                "files", errno=0, path=str(path),
            )
        try:
            faults.hit(f"update.journal.{record.step.value}")
        except OSError as error:
            raise storage_error("write", path, error) from error
        write_atomic(path, data)

    def forget(self, records: Sequence[UpdateRecord]) -> None:
        """Removes updates that are over."""
        for record in records:
            try:
                (self._directory / f"{record.id}.json").unlink(missing_ok=True)
            except OSError as error:
                self.log.debug("update {id} stays on disk: {error}", id=record.id, error=str(error))


def tell_unreadable(path: Path, error: Exception) -> None:
    """Sets a file aside that cannot be understood, and says so."""
    try:
        kept = str(set_aside(path))
    except (OSError, StorageError) as why_not:
        kept = f"its place ({why_not})"
    UpdateJournal.log.warn(
        "D1004 {path} is unreadable ({error}); kept as {kept}",
        path=str(path), error=str(error), kept=kept, error_code="D1004",
    )


def too_old(records: Sequence[UpdateRecord], kept: int = KEPT) -> tuple[UpdateRecord, ...]:
    """Of updates, the oldest first, those that are over and not among the last ``kept`` of their target."""
    newer: dict[str, int] = {}
    found = []
    for record in reversed(records):
        if record.state.over:
            newer[record.target] = newer.get(record.target, 0) + 1
            if newer[record.target] > kept:
                found.append(record)
    return tuple(reversed(found))
