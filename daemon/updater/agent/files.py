"""What an update of one agent does with files, in one piece for each step. Blocks: on a lane only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from daemon.config.schema import UpdateConfig
from daemon.interfaces import WallClock
from daemon.updater.agent.backup import MAIN, Backup, Backuper
from daemon.updater.agent.copying import content_of
from daemon.updater.agent.installed import Installed, load_installed, save_installed
from daemon.updater.agent.placing import further_files, new_folders, place_of
from daemon.updater.agent.replacing import sweep, unstage
from daemon.updater.target import Applied, Job


class AgentFiles:
    """Backups and records of one agent.

    Args:
        agent_id: its id, the component of its backups.
        config: the ``update`` section in force.
        wall: names backups.
    """

    def __init__(self, agent_id: str, config: Callable[[], UpdateConfig], wall: WallClock) -> None:
        self._agent_id = agent_id
        self._config = config
        self.backups = Backuper(lambda: Path(config().backup_dir), wall)

    def plan(self, binary_path: str, version: str, job: Job) -> tuple[Applied, tuple[str, ...]]:
        """Copies what is there into a backup and says what is replaced.

        Returns:
            that, without ``ran``; and further files that are somebody else's and stay.

        Raises:
            UpdateApplyError: D4003, nothing was changed.
        """
        place = place_of(binary_path)
        unstage(place.path)
        record = load_installed(self.backups.directory, self._agent_id)
        taken, replaced, kept = further_files(job, place.path, record.files)
        same = {p for name, p in taken.items() if p in replaced and content_of(Path(p)) == job.sha256[name]}
        taken = {name: path for name, path in taken.items() if path not in same}
        replaced = [path for path in replaced if path not in same]
        backup: Backup | None = None
        if place.program is not None or replaced:
            backup = self.backups.create(
                self._agent_id, job.old_version or version, place.path, program=place.program,
                link=place.link, others=[Path(path) for path in replaced],
            )
        main = backup.facts.main if backup is not None else None
        copies = backup.facts.files if backup is not None else {}
        rights = place.rights
        if place.program is None:
            rights = replace(rights, mode=job.modes.get(job.main, rights.mode))
        return Applied(
            target=str(place.path),
            old_sha256=main.sha256 if main is not None else "",
            new_sha256=job.sha256[job.main],
            backup=str(backup.path) if backup is not None else "",
            files={path: job.sha256[name] for name, path in taken.items()},
            added=tuple(path for path in taken.values() if path not in copies),
            replaced={p: str(backup.copy_of(f)) for p, f in copies.items()} if backup is not None else {},
            mode=rights.mode & 0o777, uid=rights.uid, gid=rights.gid, capability=rights.capability,
            link=place.link,
            folders=new_folders(place.path, taken),
        ), tuple(kept)

    def discard(self, binary_path: str, job: Job) -> None:
        """Removes what a plan or a preflight that did not come to its end left beside the binary.

        Raises:
            OSError, UpdateApplyError: it cannot.
        """
        if job.applied is not None:
            sweep(job.applied)
        elif binary_path:
            unstage(place_of(binary_path).path)

    def finish(self, job: Job, applied: Applied, keep: int) -> None:
        """Notes what is installed now, and removes what is staged still and old backups.

        Raises:
            OSError, StorageError, UpdateApplyError: it cannot.
        """
        directory = self.backups.directory
        sweep(applied)
        record = load_installed(directory, self._agent_id)
        previous = record.previous if record.sha256 == applied.new_sha256 else ""
        if applied.old_sha256 != applied.new_sha256:
            previous = applied.backup
        self.backups.prepare()
        save_installed(directory, self._agent_id, Installed(
            version=job.version, sha256=applied.new_sha256, files={**record.files, **applied.files},
            previous=previous,
        ))
        self.backups.prune(
            self._agent_id, keep, running=applied.new_sha256, protect={applied.backup, previous} - {""}
        )

    def previous(self, binary_path: str, version: str) -> Job | None:
        """A job that puts the version before back; None when no intact backup holds one.

        Raises:
            UpdateApplyError: the binary cannot be replaced, or others may write among the backups.
            OSError: the folder of backups cannot be looked at.
        """
        place = place_of(binary_path)
        self.backups.prepare()  # a backup is not signed: it is trusted for the folder it lies in
        now = content_of(place.program) if place.program is not None else ""
        record = load_installed(self.backups.directory, self._agent_id)
        known = [
            backup for backup in self.backups.all_of(self._agent_id)
            if backup.facts.main is not None and backup.facts.main.sha256 != now
            and backup.facts.path == str(place.path) and self.backups.intact(backup)
        ]
        chosen = next((b for b in known if str(b.path) == record.previous), known[0] if known else None)
        if chosen is None or chosen.facts.main is None:
            return None
        folder = place.path.parent
        inside = {p: f for p, f in chosen.facts.files.items() if Path(p).is_relative_to(folder)}
        files = {str(Path(path).relative_to(folder)): file for path, file in inside.items()}
        main = MAIN if MAIN not in files else f".{MAIN}"
        files[main] = chosen.facts.main
        return Job(
            id="", version=chosen.facts.version, old_version=version,
            folder=Path(self._config().download_dir) / "roll-back",
            files={name: chosen.copy_of(file) for name, file in files.items()},
            sha256={name: file.sha256 for name, file in files.items()},
            modes={name: file.mode & 0o777 for name, file in files.items()},
            main=main,
        )
