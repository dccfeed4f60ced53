"""The files of an agent's update: staged beside their places, renamed into them, put back.

The program is renamed last: until then the old version is in place, whatever happens. Every function can be
called again after a crash at any point. Everything here blocks: on a lane only.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from daemon import faults
from daemon.durable.atomic import fsync_directory
from daemon.errors import UpdateApplyError, UpdateRollbackError
from daemon.updater.agent.backup import Backup
from daemon.updater.agent.copying import Rights, WrongContentError, content_of, copy
from daemon.updater.agent.placing import beside
from daemon.updater.target import Applied, Job

FILE_MODE = 0o644
_ID = re.compile(r"[A-Za-z0-9-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What a roll-back did to the files.

    Attributes:
        sha256: of the program now; empty for none.
        changed: whether anything was put back.
        left: files that somebody else has changed meanwhile, and that were left alone.
    """

    sha256: str
    changed: bool
    left: tuple[str, ...] = ()


# --------------------------------------------------------------------------------------------------- staging


def staged_path(target: Path, job_id: str) -> Path:
    """Where a file waits beside its place.

    Raises:
        UpdateApplyError: the id cannot be part of a file name.
    """
    if not _ID.fullmatch(job_id):
        raise UpdateApplyError(f"the update id {job_id!r} cannot be part of a file name")
    return target.with_name(f".{target.name}.hostdaemon-{job_id}.new")


def stage(job: Job, name: str, target: Path, rights: Rights) -> Path:
    """Copies a file of the package beside its place, with the rights it will have there.

    Raises:
        UpdateApplyError: D4003, nothing of it is left.
    """
    to = staged_path(target, job.id)
    try:
        to.unlink(missing_ok=True)  # of a daemon that was killed
        copy(job.files[name], to, sha256=job.sha256[name], rights=rights, point="update.agent.stage")
    except WrongContentError as error:
        raise UpdateApplyError(f"{name} of the package is not what its manifest says: {error}") from error
    except OSError as error:
        raise _cannot("stage", to, error) from error
    return to


def unstage(target: Path) -> None:
    """Removes every staged file of this target, also of updates whose daemon was killed."""
    pattern = re.compile(rf"\.{re.escape(target.name)}\.hostdaemon-[A-Za-z0-9-]{{1,64}}\.(new|old)")
    with suppress(FileNotFoundError):
        for entry in list(target.parent.iterdir()):
            if pattern.fullmatch(entry.name) and not stat.S_ISDIR(entry.lstat().st_mode):
                entry.unlink()


def sweep(applied: Applied) -> None:
    """Likewise for every file of an update.

    Raises:
        OSError: for the caller to tell.
    """
    for path in (applied.target, *applied.files):
        unstage(Path(path))


# ------------------------------------------------------------------------------------------------- replacing


def rights_in(applied: Applied) -> Rights:
    """The rights of the old program, which the new one gets."""
    return Rights(mode=applied.mode, uid=applied.uid, gid=applied.gid, capability=applied.capability)


def stage_all(job: Job, applied: Applied) -> None:
    """Stages whatever is not in place yet.

    Raises:
        UpdateApplyError: D4003, nothing was changed.
    """
    try:
        old = _replaceable(applied)
        for folder in applied.folders:
            with suppress(FileExistsError):
                os.mkdir(folder, 0o755)  # noqa: PTH102 - the mode as it is, whatever the umask, follows
                os.chmod(folder, 0o755)  # noqa: PTH101
        for name, path in _named(job, applied).items():
            target = Path(path)
            if content_of(target) != job.sha256[name]:
                stage(job, name, target, _rights_of_new(job, name, applied))
        if old:
            stage(job, job.main, Path(applied.target), rights_in(applied))
    except OSError as error:
        raise _cannot("stage", Path(applied.target), error) from error


def replace_all(job: Job, applied: Applied) -> None:
    """Renames what is staged into its place, the program last.

    Raises:
        UpdateApplyError: D4003; some of it may have happened.
    """
    folders = []
    try:
        old = _replaceable(applied)
        for name, path in _named(job, applied).items():
            target, staged = Path(path), staged_path(Path(path), job.id)
            if content_of(target) == job.sha256[name]:
                continue
            if path in applied.added and os.path.lexists(target):
                raise UpdateApplyError(f"{path} has appeared since the update began; move it away")
            faults.hit("update.agent.file")
            staged.rename(target)
            folders.append(target.parent)
        for folder in folders:
            fsync_directory(folder)
        faults.hit("update.agent.files")
        target = Path(applied.target)
        if old:
            faults.hit("update.agent.rename")
            staged_path(target, job.id).rename(target)
        faults.hit("update.agent.renamed")
        fsync_directory(target.parent)
    except OSError as error:
        raise _cannot("replace", Path(applied.target), error) from error


def _named(job: Job, applied: Applied) -> dict[str, str]:
    """The further files of the update by their names in the package."""
    target = Path(applied.target)
    paths = {name: str(beside(target, name)) for name in sorted(job.files) if name != job.main}
    return {name: path for name, path in paths.items() if path in applied.files}


def _rights_of_new(job: Job, name: str, applied: Applied) -> Rights:
    """Of a further file: the package's mode, the program's owner."""
    return Rights(mode=job.modes.get(name, FILE_MODE), uid=applied.uid, gid=applied.gid)


class There(Enum):
    """What is at the target."""

    OLD = "old"  # what was there when the update was planned
    NEW = "new"
    NOTHING = "nothing"  # although there was something
    OTHER = "other"  # somebody else has been there


def there(applied: Applied) -> There:
    """Looks at the target; where old and new are the same, that is old.

    Raises:
        OSError: it cannot be looked at.
    """
    target = Path(applied.target)
    if not os.path.lexists(target):
        return There.NOTHING if applied.old_sha256 else There.OLD
    link = os.readlink(target) if target.is_symlink() else ""  # noqa: PTH115
    now = content_of(Path(os.path.realpath(target)) if link else target)
    if now == applied.old_sha256 and link == applied.link:
        return There.OLD
    return There.NEW if now == applied.new_sha256 and not link else There.OTHER


def _replaceable(applied: Applied) -> bool:
    """Whether the old one is still there; False where the new one is already.

    Raises:
        UpdateApplyError: somebody else has been there.
    """
    found = there(applied)
    if found in (There.NOTHING, There.OTHER):
        raise UpdateApplyError(
            f"{applied.target} has been changed by somebody else since the update began; update again"
        )
    return found is There.OLD


# ------------------------------------------------------------------------------------------------- restoring


def touched(applied: Applied) -> bool:
    """Whether anything of the new version is in place.

    Raises:
        OSError: it cannot be looked at.
    """
    if there(applied) in (There.NEW, There.NOTHING):
        return True
    now = {path: content_of(Path(path)) for path in applied.files}
    return any(now[path] == sha256 or (not now[path] and path in applied.replaced)
               for path, sha256 in applied.files.items())


def restore_all(job: Job, applied: Applied, backup: Backup | None) -> Restored:
    """Puts back what was there: the further files, then the program.

    Args:
        backup: checked; None where nothing was replaced.

    Raises:
        UpdateRollbackError: D4004, with the cause and what to do.
    """
    left: list[str] = []
    try:
        changed = _restore_files(job, applied, backup, left)
        found = there(applied)
        if found is There.OTHER:
            left.append(applied.target)
        elif found is not There.OLD:
            _restore_program(job, applied, backup)
            changed = True
        sweep(applied)
        target = Path(applied.target)
        fsync_directory(target.parent)
        now = content_of(Path(os.path.realpath(target)))
    except (OSError, WrongContentError, UpdateApplyError) as error:
        cause = getattr(error, "strerror", None) or str(error)
        raise UpdateRollbackError(
            f"{applied.target} cannot be restored: {cause}; copy {applied.backup or 'the old program'} there "
            f"by hand, mode {applied.mode:04o}, and start the agent",
            backup=applied.backup, sha256=applied.old_sha256,
        ) from error
    return Restored(sha256=now, changed=changed, left=tuple(left))


def _restore_program(job: Job, applied: Applied, backup: Backup | None) -> None:
    target = Path(applied.target)
    faults.hit("update.agent.restore")
    if not applied.old_sha256:
        target.unlink(missing_ok=True)  # a first install
        return
    if backup is None or backup.facts.main is None:
        raise UpdateApplyError("there is no backup of it")
    aside = staged_path(target, job.id).with_suffix(".old")
    aside.unlink(missing_ok=True)
    pointed_to = Path(os.path.realpath(target.parent / applied.link))
    if applied.link and content_of(pointed_to) == applied.old_sha256:
        aside.symlink_to(applied.link)
    else:
        copy(
            backup.copy_of(backup.facts.main), aside, sha256=applied.old_sha256, rights=rights_in(applied),
            point="update.agent.restoring",
        )
    aside.rename(target)
    faults.hit("update.agent.restored")


def _restore_files(job: Job, applied: Applied, backup: Backup | None, left: list[str]) -> bool:
    changed = False
    for path, sha256 in applied.files.items():
        target, now = Path(path), content_of(Path(path))
        if path in applied.added:
            if now == sha256:
                target.unlink()
                changed = True
            elif os.path.lexists(target):
                left.append(path)
            continue
        old = backup.facts.files.get(path) if backup is not None else None
        if now not in (sha256, ""):  # the old one, or somebody else's
            if old is not None and now != old.sha256:
                left.append(path)
            continue
        if backup is None or old is None:
            raise UpdateApplyError(f"there is no backup of {path}")
        aside = staged_path(target, job.id).with_suffix(".old")
        aside.unlink(missing_ok=True)
        copy(backup.copy_of(old), aside, sha256=old.sha256, rights=old.rights, point="update.agent.restoring")
        aside.rename(target)
        fsync_directory(target.parent)
        changed = True
    for folder in reversed(applied.folders):
        with suppress(OSError):  # it holds something by now, or was never made
            os.rmdir(folder)  # noqa: PTH106
    return changed


def _cannot(verb: str, path: Path, error: OSError) -> UpdateApplyError:
    hints = {
        errno.ENOSPC: "free space on its file system",
        errno.EDQUOT: "raise the quota or free space",
        errno.EROFS: "remount its file system for writing",
        errno.EBUSY: "it is a mount point: replace what is mounted there instead",
        errno.EPERM: "run the daemon as root, or take an immutable attribute away (chattr -i)",
        errno.EACCES: "let the daemon's user write there",
        errno.ENAMETOOLONG: "choose a shorter binary_path",
    }
    hint = hints.get(error.errno or 0, "check that path and its file system")
    cause = error.strerror or str(error)
    return UpdateApplyError(f"cannot {verb} {path}: {cause}; {hint}", errno=error.errno or 0)
