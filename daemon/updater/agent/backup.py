"""Copies of what updates replace: made before anything is changed, checked, bounded in number.

Layout of ``update.backup_dir`` (0700), for a component ``web``:

``web_20261120100000.bak``
    the program that was replaced. A folder of that name where the update replaces more files than the
    program: ``main`` is the program, ``1``, ``2`` ... are the others.
``web_20261120100000.bak.json``
    what it is a copy of: :class:`Facts`.
``web_20261120100000-1.bak``
    a second one of the same second.

The facts are written before the copy gets its name, so a copy without them is none of ours. Nothing is
followed through a symbolic link, and nothing is removed that is not a copy of ours. Everything here blocks:
on a lane only.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
from twisted.logger import Logger

from daemon import faults
from daemon.durable.atomic import fsync_directory, read_bounded, write_atomic
from daemon.durable.explain import storage_error
from daemon.errors import StorageError, UpdateApplyError, UpdateRollbackError
from daemon.interfaces import WallClock
from daemon.updater.agent.copying import Rights, WrongContentError, copy, rights_of, sha256_of

SCHEMA = 1
FACTS_MAX = 16 * 2**20  # bytes of a .json; a package may have thousands of files, each of which is replaced
MAIN = "main"
_COPY_RIGHTS = Rights(mode=0o600)  # a copy is never executed where it lies


class FileFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A file that was copied.

    Attributes:
        name: of the copy in the folder; empty where the backup is the file itself.
        sha256: of the content, hex.
        mode, uid, gid, capability: see :class:`daemon.updater.agent.copying.Rights`.
    """

    name: str = ""
    sha256: str
    mode: int
    uid: int
    gid: int
    capability: str = ""

    @property
    def rights(self) -> Rights:
        """Its rights, to be given back."""
        return Rights(mode=self.mode, uid=self.uid, gid=self.gid, capability=self.capability)


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup is a copy of.

    Attributes:
        component: whose it is.
        version: what it was, empty where nobody knew.
        path: of the program.
        link: what the symbolic link at ``path`` said; empty where the program itself was there.
        main: the program; None where there was none.
        files: the others, by path.
        made_at: Unix seconds.
    """

    schema: int = SCHEMA
    component: str
    version: str = ""
    path: str
    link: str = ""
    main: FileFacts | None = None
    files: Mapping[str, FileFacts] = {}
    made_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """One backup.

    Attributes:
        path: the ``.bak``.
    """

    path: Path
    facts: Facts

    def copy_of(self, file: FileFacts) -> Path:
        """Where the copy of one of its files is."""
        return self.path / file.name if file.name else self.path

    @property
    def copies(self) -> tuple[tuple[Path, FileFacts], ...]:
        """Every copy."""
        files = [*([self.facts.main] if self.facts.main is not None else ()), *self.facts.files.values()]
        return tuple((self.copy_of(file), file) for file in files)


class Backuper:
    """Makes backups, reads them and removes old ones.

    Args:
        directory: ``update.backup_dir`` as it is in force.
        wall: names them.
    """

    log = Logger()

    def __init__(self, directory: Callable[[], Path], wall: WallClock) -> None:
        self._directory = directory
        self._wall = wall

    @property
    def directory(self) -> Path:
        """``update.backup_dir``."""
        return self._directory()

    # ------------------------------------------------------------------- making

    def create(
        self, component: str, version: str, path: Path, *, program: Path | None, link: str = "",
        others: Sequence[Path] = (),
    ) -> Backup:
        """Copies a program and other files, and reads the copies back.

        An intact backup of exactly the same is taken again: updates that fail one after another must not push
        older versions out.

        Args:
            path: where the program is called.
            program: the regular file it is; None where there is none yet.
            link: see :class:`Facts`.
            others: further files.

        Raises:
            UpdateApplyError: D4003; nothing of it is left.
        """
        directory = self.directory
        try:
            self.prepare()
            facts = Facts(
                component=component, version=version, path=str(path), link=link,
                main=_facts(program, MAIN if others else "") if program is not None else None,
                files={str(other): _facts(other, str(n)) for n, other in enumerate(others, 1)},
                made_at=self._wall(),
            )
            for known in self.all_of(component):
                if _same(known.facts, facts) and self.intact(known):
                    return known
            return self._write(facts, program, directory)
        except WrongContentError as error:
            raise UpdateApplyError(
                f"a file changed while it was copied into the backup of {component} ({error}); "
                "find out who writes to it and update again"
            ) from error
        except OSError as error:
            told = storage_error("write the backup in", directory, error).message
            raise UpdateApplyError(told, path=str(directory)) from error
        except StorageError as error:
            raise UpdateApplyError(error.message, path=str(directory)) from error

    def prepare(self) -> None:
        """Makes the folder, 0700.

        Raises:
            UpdateApplyError: others may write to it: what is restored from there could be anybody's.
            OSError: it cannot be made.
        """
        directory = self.directory
        if not directory.exists():
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            fsync_directory(directory.parent)
        found = directory.stat()
        if found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o022:
            raise UpdateApplyError(
                f"{directory} belongs to or may be written by somebody else; "
                "what an update restores from there must be the daemon's alone: chown and chmod go-w it"
            )

    def _write(self, facts: Facts, program: Path | None, directory: Path) -> Backup:
        self.sweep(facts.component)
        path = self._free_name(facts.component)
        backup = Backup(path=path, facts=facts)
        aside = path.with_name(f".{path.name}.{os.urandom(6).hex()}.tmp")
        sources = [*([program] if program is not None else ()), *map(Path, facts.files)]
        notes = _notes(path)
        try:
            copies = [(source, file) for source, (_copy, file) in zip(sources, backup.copies, strict=True)]
            if facts.files:
                aside.mkdir(mode=0o700)
            for source, file in copies:
                to = aside / file.name if file.name else aside
                copy(source, to, sha256=file.sha256, rights=_COPY_RIGHTS, point="update.backup.copy")
            if facts.files:
                fsync_directory(aside)
            write_atomic(notes, msgspec.json.encode(facts))
            faults.hit("update.backup.noted")
            aside.rename(path)
            fsync_directory(directory)
            faults.hit("update.backup.named")
            for made, file in backup.copies:
                if sha256_of(made) != file.sha256:
                    raise OSError(5, "the copy reads back as something else", str(made))
        except (OSError, StorageError, WrongContentError):
            self._discard(aside)
            self._discard(path)
            with suppress(OSError):
                notes.unlink()
            raise
        return backup

    def _free_name(self, component: str) -> Path:
        stamp = time.strftime("%Y%m%d%H%M%S", time.gmtime(self._wall()))
        n = 0
        while True:
            path = self.directory / f"{component}_{stamp}{f'-{n}' if n else ''}.bak"
            if not os.path.lexists(path) and not os.path.lexists(_notes(path)):
                return path
            n += 1

    def sweep(self, component: str) -> None:
        """Removes what a daemon that was killed while it wrote a backup of this component left.

        Raises:
            OSError: the folder cannot be read.
        """
        if not self.directory.is_dir():
            return
        pattern = re.compile(
            rf"\.{re.escape(component)}(_\d{{14}}(-\d+)?\.bak(\.json)?|\.installed\.json)\.[0-9a-f]{{12}}\.tmp"
        )
        for entry in list(self.directory.iterdir()):
            if pattern.fullmatch(entry.name):
                self._discard(entry)
            elif _ours(component, entry.name.removesuffix(".json")) and entry.name.endswith(".json"):
                noted = entry.with_name(entry.name.removesuffix(".json"))
                if not os.path.lexists(noted) and _read_facts(noted, component) is not None:
                    self._discard(entry)

    def _discard(self, path: Path) -> None:
        """Removes a file or folder that we made; never through a link."""
        try:
            mode = path.lstat().st_mode
            if stat.S_ISDIR(mode):
                shutil.rmtree(path)
            elif stat.S_ISREG(mode):
                path.unlink()
        except FileNotFoundError:
            return
        except OSError as error:
            self.log.warn("{path} cannot be removed: {error}; remove it", path=str(path), error=str(error))

    # ------------------------------------------------------------------ reading

    def all_of(self, component: str) -> list[Backup]:
        """The backups of a component, the newest first; what is none of ours is left out."""
        found = []
        try:
            names = [entry.name for entry in self.directory.iterdir()]
        except OSError:
            return []
        for name in sorted((n for n in names if _ours(component, n)), key=_age, reverse=True):
            path = self.directory / name
            facts = _read_facts(path, component)
            if facts is not None and _is_kind(path, folder=bool(facts.files)):
                found.append(Backup(path=path, facts=facts))
        return found

    def load(self, path: str, component: str) -> Backup:
        """One backup by the path that an update noted, every copy in it read and compared.

        Raises:
            UpdateRollbackError: D4004, it is gone or damaged: nothing of it may be restored.
        """
        where = Path(path)
        facts = _read_facts(where, component)
        if facts is None or not _is_kind(where, folder=bool(facts.files)):
            raise UpdateRollbackError(
                f"the backup {path} is gone or unreadable; install the version before by hand, "
                "its file and hash are in the evidence",
                backup=path,
            )
        backup = Backup(path=where, facts=facts)
        damage = self.damage(backup)
        if damage:
            raise UpdateRollbackError(
                f"the backup {path} of {facts.path} is damaged ({damage}) and not restored; install version "
                f"{facts.version or 'the one before'} by hand and check the disk",
                backup=path,
            )
        return backup

    def damage(self, backup: Backup) -> str:
        """What is wrong with its copies; empty for nothing."""
        for made, file in backup.copies:
            try:
                found = sha256_of(made)
            except OSError as error:
                return f"{made.name}: {error.strerror}"
            if found != file.sha256:
                return f"the SHA-256 of {made.name} is {found}, not {file.sha256}"
        return ""

    def intact(self, backup: Backup) -> bool:
        """Whether its copies are what they were."""
        return not self.damage(backup)

    # ----------------------------------------------------------------- removing

    def prune(self, component: str, keep: int, *, running: str, protect: Collection[str] = ()) -> list[str]:
        """Removes the oldest backups beyond ``keep``.

        Args:
            running: SHA-256 of the program that is in place; the newest backup with that content stays.
            protect: paths that stay whatever their age: what the last update replaced.

        Returns:
            the paths that were removed.
        """
        backups = self.all_of(component)
        staying = {str(backup.path) for backup in backups if str(backup.path) in protect}
        same = [b for b in backups if b.facts.main is not None and b.facts.main.sha256 == running]
        staying |= {str(backup.path) for backup in same[:1]}
        for backup in backups:
            if len(staying) >= keep:
                break
            staying.add(str(backup.path))
        removed = []
        for backup in backups:
            if str(backup.path) not in staying:
                self._discard(backup.path)
                if not os.path.lexists(backup.path):
                    self._discard(_notes(backup.path))
                    removed.append(str(backup.path))
        return removed


def _facts(path: Path, name: str) -> FileFacts:
    rights = rights_of(path)
    return FileFacts(
        name=name, sha256=sha256_of(path), mode=rights.mode, uid=rights.uid, gid=rights.gid,
        capability=rights.capability,
    )


def _same(one: Facts, other: Facts) -> bool:
    return msgspec.structs.replace(one, made_at=0.0) == msgspec.structs.replace(other, made_at=0.0)


def _notes(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _ours(component: str, name: str) -> bool:
    return re.fullmatch(rf"{re.escape(component)}_\d{{14}}(-\d+)?\.bak", name) is not None


def _age(name: str) -> tuple[str, int]:
    stamp, _, n = name.removesuffix(".bak").rpartition("_")[2].partition("-")
    return stamp, int(n or 0)


def _is_kind(path: Path, *, folder: bool) -> bool:
    try:
        mode = path.lstat().st_mode
    except OSError:
        return False
    return stat.S_ISDIR(mode) if folder else stat.S_ISREG(mode)


def _read_facts(path: Path, component: str) -> Facts | None:
    """The facts beside a backup; None where they are missing, unreadable, of another or of a newer daemon."""
    try:
        facts = msgspec.json.decode(read_bounded(_notes(path), FACTS_MAX), type=Facts)
    except (OSError, StorageError, ValueError, RecursionError, msgspec.MsgspecError):
        return None
    names = [file.name for file in facts.files.values()]
    if facts.main is not None:
        names.append(facts.main.name)
    wanted = all(name == MAIN or name.isdigit() for name in names) if facts.files else names in ([""], [])
    return facts if facts.component == component and facts.schema <= SCHEMA and wanted else None
