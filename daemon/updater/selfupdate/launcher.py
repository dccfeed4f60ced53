#!/usr/bin/env python3
"""``ROOT/bin/twistd``: starts the version that ``ROOT/current`` names; a copy of this file, outside of all
versions.

Nothing but the standard library, for it must run whatever a version is made of; the daemon and the watcher
use its functions too, so that all three mean the same by a version, a switch and a roll-back.

A start through it while an update of the daemon is not confirmed means that the new version died or the host
was started anew: the old version is put back first. A daemon that is still alive in its probation is left
alone, so that ``--check`` or a second program may be started meanwhile.

``ROOT/versions/V/{bin/twistd,lib/...,manifest.json}`` are the versions, ``ROOT/probation.json`` says how the
last update stands (:mod:`daemon.updater.selfupdate.probation`), ``ROOT/probation.lock`` is held by whoever
changes it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

VERSIONS, CURRENT, PROGRAM, MANIFEST = "versions", "current", "bin/twistd", "manifest.json"
PROBATION, LOCK = "probation.json", "probation.lock"
TRYING, CONFIRMED, ROLLED_BACK = "trying", "confirmed", "rolled_back"
PLUGIN_CACHE = ("plugins", "dropin.cache")
FILE_MAX = 4 * 2**20  # bytes of a manifest or a probation
PIECE = 2**20  # bytes hashed at once
VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+~_-]{0,127}")  # what may be the name of a version's folder

Record = dict[str, Any]


def current(root: Path) -> str:
    """The version that ``current`` names; empty where it names none."""
    try:
        name = (root / CURRENT).readlink().name
    except OSError:
        return ""
    return name if VERSION.fullmatch(name) else ""


def runnable(root: Path, version: str) -> bool:
    """Whether the version is there to be started; its content is not looked at."""
    return bool(VERSION.fullmatch(version)) and (root / VERSIONS / version / PROGRAM).is_file()


def flip(root: Path, version: str) -> None:
    """``current`` names that version from now on, also after a power failure; nobody finds it missing
    meanwhile.

    Raises:
        OSError: it names what it named before.
    """
    temporary = root / f".{CURRENT}.{os.urandom(6).hex()}"
    temporary.symlink_to(f"{VERSIONS}/{version}")
    try:
        temporary.rename(root / CURRENT)
    except OSError:
        temporary.unlink()
        raise
    sync(root)


def sync(directory: Path) -> None:
    """Makes names in a directory last (fsync(2)).

    Raises:
        OSError: the disk refuses.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def files_of(folder: Path) -> dict[str, tuple[str, int]]:
    """The files a version's manifest names, each with its SHA-256 and its permission bits.

    Raises:
        ValueError: there is no manifest, or it is none.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes()[:FILE_MAX])
        main = manifest.get("main", PROGRAM)
        return {
            name: (each["sha256"], int(each.get("mode") or ("0755" if name == main else "0644"), 8))
            for name, each in manifest["files"].items()
        }
    except (OSError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{folder / MANIFEST} cannot be used: {error}") from error


def damage(folder: Path) -> str:
    """What of a version is not as its manifest says; empty for a whole one. Reads all of it: blocks for long.

    What Python and Twisted write beside the files (``__pycache__``, ``dropin.cache``) is no damage.
    """
    try:
        files = files_of(folder)
    except ValueError as error:
        return str(error)
    if PROGRAM not in files:
        return f"{folder / MANIFEST} names no {PROGRAM}"
    for name, (sha256, mode) in files.items():
        path = folder / name
        if Path(name).parts[-2:] == PLUGIN_CACHE:
            continue  # twistd writes it anew where it thinks it must
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            return f"{path}: {error.strerror}"
        try:
            found = os.fstat(fd).st_mode
            if not stat.S_ISREG(found) or digest(fd) != sha256:
                return f"{path} is not what its manifest says"
            if stat.S_IMODE(found) != mode & 0o777:
                return f"{path} has not the mode {mode:04o}"
        except OSError as error:
            return f"{path}: {error.strerror}"
        finally:
            os.close(fd)
    for folder_name, _folders, names in os.walk(folder):
        inside = Path(folder_name).relative_to(folder)
        for each in names:
            path = inside / each
            if str(path) not in files and str(path) != MANIFEST and not _made_by_python(path):
                return f"{folder / path} is not in its manifest"
    return ""


def _made_by_python(path: Path) -> bool:
    return path.parent.name == "__pycache__" or path.parts[-2:] == PLUGIN_CACHE


def digest(fd: int) -> str:
    """The SHA-256 of an open file in hex.

    Raises:
        OSError: it cannot be read.
    """
    found = hashlib.sha256()
    while piece := os.read(fd, PIECE):
        found.update(piece)
    return found.hexdigest()


def order(version: str) -> tuple[tuple[int, int, str], ...]:
    """A sort key good enough to choose among versions that are all installed: numbers by value, ``~`` and
    ``-`` before the end."""
    key = [
        (2, int(part), "") if part.isdigit() else (0 if part in "~-" else 3, 0, part)
        for part in re.findall(r"[0-9]+|[A-Za-z]+|[~-]", version.removeprefix("v").partition("+")[0])
    ]
    return (*key, (1, 0, ""))


def newest_whole(root: Path, without: str = "") -> str:
    """The newest version whose files are all as their manifest says; empty when there is none. Blocks for
    long."""
    try:
        names = [path.name for path in (root / VERSIONS).iterdir()]
    except OSError:
        return ""
    names = [name for name in names if VERSION.fullmatch(name) and name != without]
    return next((n for n in sorted(names, key=order, reverse=True) if not damage(root / VERSIONS / n)), "")


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Nobody else changes the probation meanwhile. Waits for whoever does: they are quick.

    Raises:
        OSError: the lock cannot be used.
    """
    fd = os.open(root / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def read_record(root: Path) -> Record | None:
    """How the last update of the daemon stands; None where there never was one.

    Raises:
        ValueError: the file is damaged.
        OSError: it cannot be read.
    """
    try:
        with (root / PROBATION).open("rb") as file:
            record = json.loads(file.read(FILE_MAX))
    except FileNotFoundError:
        return None
    except RecursionError as error:
        raise ValueError("it is nested without end") from error
    if not isinstance(record, dict) or record.get("state") not in (TRYING, CONFIRMED, ROLLED_BACK):
        raise ValueError("it is no record of an update")
    for name in ("old", "new"):
        if not isinstance(record.get(name), str) or not VERSION.fullmatch(record[name]):
            raise ValueError(f"{name} is no version")
    return record


def write_record(root: Path, record: Record) -> None:
    """Replaces the record as a whole, to last.

    Raises:
        OSError: the old one stands.
    """
    temporary = root / f".{PROBATION}.{os.urandom(6).hex()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            json.dump(record, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(root / PROBATION)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise
    sync(root)


def take_back(root: Path, record: Record, by: str, reason: str, evidence: Record | None = None) -> Record:
    """The old version is current again, and the record says why; the lock must be held.

    First the switch, then the record: whoever dies in between leaves what the next one does once more.

    Raises:
        OSError: the disk refuses; doing it again is harmless.
    """
    back = record["old"]
    if not runnable(root, back):  # it is kept as long as it may be needed, so somebody removed it by hand
        back = newest_whole(root, without=record["new"])
    if not back:
        reason += f"; but the old version {record['old']} is gone, and there is no other"
    elif current(root) != back:
        flip(root, back)
    done = record | {
        "state": ROLLED_BACK, "by": by, "reason": reason, "settled": False,
        "evidence": {**record.get("evidence", {}), **(evidence or {})},
    }
    write_record(root, done)
    return done


def alive(record: Record) -> bool:
    """Whether the daemon of the record lives, and is not we ourselves (boot id, pid and start time)."""
    daemon = record.get("daemon")
    if not isinstance(daemon, dict) or daemon.get("pid") == os.getpid():
        return False
    try:
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        text = Path(f"/proc/{int(daemon['pid'])}/stat").read_text(errors="replace")
        state, *fields = text.rpartition(")")[2].split()
        same = boot_id == daemon["boot_id"] and int(fields[18]) == daemon["start_ticks"]
        return same and state not in "ZXx"
    except (OSError, LookupError, ValueError, TypeError):
        return False


def interpreter() -> list[str]:
    """What runs our programs: what runs this one, for the manifest was compared with it; as much cut off from
    variables and packages of the host as this process is, which a bundle would else see to by one more
    exec, and as optimized: with ``-OO`` other compiled files are read."""
    flags = {"-I": sys.flags.isolated, "-S": sys.flags.no_site, "-B": sys.flags.dont_write_bytecode}
    optimized = ["-" + "O" * sys.flags.optimize] if sys.flags.optimize else []
    return [sys.executable, *(flag for flag, set_ in flags.items() if set_), *optimized]


def prepare(root: Path) -> str:
    """Before a start: sees to it that ``current`` names what should run.

    Returns:
        what was done about it, for stderr; mostly nothing.

    Raises:
        OSError: nothing could be done, which a user without rights may well meet.
    """
    with locked(root):
        said = ""
        try:
            record = read_record(root)
        except ValueError as error:
            (root / PROBATION).replace(root / f"{PROBATION}.corrupt")
            record, said = None, f"{PROBATION} was damaged ({error}) and is set aside"
        if record is not None and record["state"] == TRYING and not alive(record):
            done = take_back(
                root, record, "launcher",
                f"version {record['new']} was started anew before it had proven itself: it died, or the host "
                "was started anew",
            )
            said = f"back to version {current(root)}: {done['reason']}"
        if not runnable(root, current(root)):
            other = newest_whole(root)
            if other:
                flip(root, other)
                said += f"{'; ' if said else ''}{CURRENT} named no version, now it names {other}"
        return said


def main() -> None:
    """Becomes the current version's program."""
    root = Path(__file__).resolve().parent.parent
    try:
        said = prepare(root)
    except OSError as error:
        said = f"{error}; starting {CURRENT} as it is" if not isinstance(error, PermissionError) else ""
    if said:
        print(f"hostdaemon: {said}", file=sys.stderr)
    program = root / CURRENT / PROGRAM
    if not program.is_file():
        sys.exit(f"hostdaemon: there is no {program}; install a version with scripts/bundle install")
    argv = [*interpreter(), str(program), *sys.argv[1:]]
    os.execv(argv[0], argv)


if __name__ == "__main__":
    main()
