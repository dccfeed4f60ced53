"""Where an agent's binary is, whether it can be replaced, and which further files may lie beside it.

A binary path that is a symbolic link has the *link* replaced: what else uses the file it points to (another
program, the alternatives of a distribution) does not notice, and a roll-back makes the same link again. Links
further up in the path are followed. Everything here blocks: on a lane only.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from daemon.errors import UpdateApplyError
from daemon.updater.agent.copying import Rights, rights_of
from daemon.updater.target import Job

LINKS_MAX = 40  # as the kernel follows at most
PROGRAM_MODE = 0o755


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a binary is.

    Attributes:
        path: what is renamed over: its folder resolved, its last part not.
        program: the regular file that is executed now; None where there is none.
        link: what the link at ``path`` says; empty for none.
        rights: of the program.
    """

    path: Path
    program: Path | None
    link: str
    rights: Rights


def place_of(binary_path: str) -> Place:
    """Looks at a binary and at whether it can be replaced.

    Raises:
        UpdateApplyError: D4003, it cannot, with the cause and what to do.
    """
    try:
        folder = Path(os.path.realpath(os.path.dirname(binary_path), strict=True))  # noqa: PTH120
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    except OSError as error:
        raise UpdateApplyError(
            f"the folder of {binary_path} cannot be used: {error.strerror}; make it, then update again"
        ) from error
    path = folder / os.path.basename(binary_path)  # noqa: PTH119
    _check_writable(folder, path)
    program, link = _program_at(path)
    if program is None:
        return Place(path=path, program=None, link="", rights=Rights(mode=PROGRAM_MODE))
    try:
        rights = rights_of(program)
    except OSError as error:
        raise UpdateApplyError(
            f"{program} cannot be replaced: {error.strerror}; binary_path must name a plain file"
        ) from error
    if rights.mode & (stat.S_ISUID | stat.S_ISGID):
        raise UpdateApplyError(
            f"{program} is set-uid or set-gid; updates never install such a program: replace it by hand, "
            "or take the bit away and use capabilities (setcap)"
        )
    return Place(path=path, program=program, link=link, rights=rights)


def _program_at(path: Path) -> tuple[Path | None, str]:
    try:
        if not path.is_symlink():
            return (path if os.path.lexists(path) else None), ""
        link = os.readlink(path)  # noqa: PTH115
        return Path(os.path.realpath(path, strict=True)), link
    except OSError as error:
        raise UpdateApplyError(
            f"{path} is a symbolic link that leads nowhere ({error.strerror}); remove or mend it"
        ) from error


def _check_writable(folder: Path, path: Path) -> None:
    try:
        read_only = bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
    except OSError as error:
        raise UpdateApplyError(f"{folder} cannot be looked at: {error.strerror}") from error
    if read_only:
        raise UpdateApplyError(f"{folder} is on a file system mounted read-only; remount it for writing")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UpdateApplyError(
            f"the daemon may not write in {folder}; {path.name} there is replaced by a rename: let the "
            "daemon's user write there, under systemd by ReadWritePaths="
        )


def leads_through(binary_path: str, target: Path) -> bool:
    """Whether a binary path names ``target``, or a link that leads to it."""
    path = Path(binary_path)
    for _ in range(LINKS_MAX):
        path = Path(os.path.realpath(path.parent)) / path.name
        if path == target:
            return True
        try:
            path = path.parent / path.readlink()
        except OSError:
            return False
    return False


def further_files(
    job: Job, target: Path, ours: Mapping[str, str]
) -> tuple[dict[str, str], list[str], list[str]]:
    """Which further files of a package are installed, by name in the package.

    Args:
        ours: paths that updates put there.

    Returns:
        path by name; the paths that exist and are replaced; the paths that are somebody else's and stay.

    Raises:
        UpdateApplyError: a name leads elsewhere.
    """
    taken: dict[str, str] = {}
    replaced: list[str] = []
    kept: list[str] = []
    for name in sorted(job.files):
        if name == job.main:
            continue
        path = beside(target, name)
        if not os.path.lexists(path):
            taken[name] = str(path)
        elif str(path) in ours and stat.S_ISREG(path.lstat().st_mode):
            taken[name] = str(path)
            replaced.append(str(path))
        else:
            kept.append(str(path))
    return taken, replaced, kept


def beside(target: Path, name: str) -> Path:
    """Where a file of the package lies.

    Raises:
        UpdateApplyError: its name leads elsewhere, or something is in the way.
    """
    parts = PurePosixPath(name).parts
    path = target.parent.joinpath(*parts)
    if not parts or name.startswith("/") or ".." in parts or path == target:
        raise UpdateApplyError(f"the package's file {name!r} would not lie beside {target}; it is refused")
    for folder in path.parents:
        if folder == target.parent:
            break
        if os.path.lexists(folder) and not stat.S_ISDIR(folder.lstat().st_mode):
            raise UpdateApplyError(f"{folder} is in the way of the package's file {name!r}: it is no folder")
    return path


def new_folders(target: Path, paths: Mapping[str, str]) -> tuple[str, ...]:
    """The folders that have to be made for those files, the outermost first."""
    missing = {
        str(folder) for path in paths.values() for folder in Path(path).parents
        if folder.is_relative_to(target.parent) and folder != target.parent and not os.path.lexists(folder)
    }
    return tuple(sorted(missing, key=lambda folder: (folder.count("/"), folder)))
