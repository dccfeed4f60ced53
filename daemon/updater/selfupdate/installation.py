"""Where the daemon is installed from a bundle: ``ROOT/versions/V``, and ``ROOT/current`` that names one of
them.

Everything but :meth:`Installation.find` blocks on the disk: on a thread.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import daemon
from daemon import faults
from daemon.errors import UpdateApplyError
from daemon.updater.selfupdate import launcher

STAGING = ".staging-"
COMPONENT = "daemon"


@dataclass(frozen=True, slots=True)
class Installation:
    """One installation.

    Attributes:
        root: of it.
        running: the version this process was started from, whatever ``current`` names by now.
    """

    root: Path
    running: str

    @classmethod
    def find(cls, package: Path | None = None) -> Installation | None:
        """Where this process runs from; None when it is no bundle (a checkout, a virtual environment).

        Args:
            package: ``__init__.py`` of the package ``daemon``; this process's own when left out.
        """
        here = package or Path(daemon.__file__)
        # ROOT/versions/V/lib/daemon/__init__.py. Not by way of current: what is imported late would come from
        # another version once that is switched; bin/twistd resolves its own path for that.
        if len(here.parts) < 6 or here.parents[1].name != "lib" or here.parents[3].name != launcher.VERSIONS:
            return None
        found = cls(here.parents[4], here.parents[2].name)
        return found if launcher.runnable(found.root, found.running) else None

    @property
    def versions(self) -> Path:
        """The folder of all versions."""
        return self.root / launcher.VERSIONS

    def folder(self, version: str) -> Path:
        """Where a version is, or would be.

        Raises:
            UpdateApplyError: D4003, it can be no folder's name.
        """
        if not launcher.VERSION.fullmatch(version):
            raise UpdateApplyError(f"the version {version!r} can be no folder's name; build it under another")
        return self.versions / version

    def current(self) -> str:
        """The version that ``current`` names; empty for none."""
        return launcher.current(self.root)

    def refusal(self) -> str:
        """Why it cannot be changed by this user; empty when it can."""
        for path in (self.root, self.versions):
            if not os.access(path, os.W_OK | os.X_OK):
                return (
                    f"{path} cannot be written by user {os.geteuid()}; let the daemon's user own it, or "
                    "update the daemon as it was installed"
                )
        return ""

    def damage(self, version: str) -> str:
        """What of a version is not as its manifest says; empty for a whole one."""
        return launcher.damage(self.folder(version))

    def place(
        self, update_id: str, version: str, files: Mapping[str, Path], sha256: Mapping[str, str],
        modes: Mapping[str, int], main: str,
    ) -> bool:
        """Puts the unpacked files under ``versions`` and fsyncs them; a whole folder of that version is used
        again.

        Args:
            update_id: of the update; names the folder while it is not whole.
            version: the new one.
            files, sha256, modes, main: as in :class:`daemon.updater.target.Job`.

        Returns:
            whether the folder was made just now.

        Raises:
            UpdateApplyError: D4003; nothing else was changed.
        """
        folder = self.folder(version)
        if launcher.PROGRAM not in files:
            raise UpdateApplyError(f"the package has no {launcher.PROGRAM}; build it with scripts/bundle")
        named = {name: {"sha256": sha256[name], "mode": f"{modes.get(name, 0o644):04o}"} for name in files}
        try:
            if folder.exists() and not launcher.damage(folder):
                if {name: (each["sha256"], int(each["mode"], 8)) for name, each in named.items()} != \
                        launcher.files_of(folder):
                    self._clear(folder, version)
                else:
                    return False
            elif folder.exists():
                self._clear(folder, version)
            staging = self.versions / f"{STAGING}{update_id}"
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir(mode=0o755)
            for name, source in files.items():
                _move(source, staging / name, sha256[name], modes.get(name, 0o644))
            manifest = {"component": COMPONENT, "version": version, "main": main, "files": named}
            _write(staging / launcher.MANIFEST, json.dumps(manifest, indent=1).encode())
            for path, _folders, _names in os.walk(staging):
                Path(path).chmod(0o755)
                launcher.sync(Path(path))
            faults.hit("update.daemon.staged")
            staging.rename(folder)
            launcher.sync(self.versions)
            faults.hit("update.daemon.placed")
        except UpdateApplyError:
            shutil.rmtree(self.versions / f"{STAGING}{update_id}", ignore_errors=True)
            raise
        except OSError as error:
            shutil.rmtree(self.versions / f"{STAGING}{update_id}", ignore_errors=True)
            raise UpdateApplyError(
                f"version {version} cannot be put below {self.versions}: {error.strerror}; see to that disk"
            ) from error
        return True

    def _clear(self, folder: Path, version: str) -> None:
        """Removes what is there under the new version's name, and is not the same."""
        if version in (self.running, self.current()):
            raise UpdateApplyError(
                f"version {version} runs, with other files than the package's; build it under another version"
            )
        shutil.rmtree(folder)

    def remove(self, version: str) -> None:
        """Removes a version that is of no use; never the running nor the current one."""
        if launcher.VERSION.fullmatch(version) and version not in (self.running, self.current()):
            shutil.rmtree(self.versions / version, ignore_errors=True)

    def prune(self, pinned: Collection[str], keep: int) -> tuple[str, ...]:
        """Removes the oldest versions beyond ``keep``, and what interrupted updates left.

        Args:
            pinned: never removed, like the running and the current one; they do not count.
            keep: how many others stay.

        Returns:
            the versions removed.
        """
        never = {*pinned, self.running, self.current()}
        others: list[tuple[float, str]] = []
        for path in self.versions.iterdir():
            if path.name.startswith(STAGING):
                shutil.rmtree(path, ignore_errors=True)
            elif path.is_dir() and not path.is_symlink() and path.name not in never:
                others.append((path.stat().st_mtime, path.name))
        for path in self.root.glob(f".{launcher.CURRENT}.*"):
            if path.is_symlink():
                path.unlink()
        removed = [name for _at, name in sorted(others, reverse=True)[max(0, keep):]]
        for name in removed:
            shutil.rmtree(self.versions / name, ignore_errors=True)
        return tuple(removed)

    def refresh_launcher(self) -> bool:
        """``ROOT/bin/twistd`` becomes this version's launcher; its first line, which names the interpreter of
        this host, stays. One that is not there is not made.

        Returns:
            whether it was another one.

        Raises:
            OSError: the old one stands.
        """
        path = self.root / launcher.PROGRAM
        new = Path(launcher.__file__).read_bytes()
        try:
            old = path.read_bytes()
        except FileNotFoundError:
            return False
        first, _newline, _rest = old.partition(b"\n")
        wanted = first + b"\n" + new.partition(b"\n")[2] if first.startswith(b"#!") else new
        if old == wanted:
            return False
        temporary = path.with_name(f".{path.name}.{os.urandom(6).hex()}")
        try:
            _write(temporary, wanted)
            temporary.chmod(0o755)
            temporary.rename(path)
        except OSError:
            with suppress(OSError):
                temporary.unlink()
            raise
        launcher.sync(path.parent)
        return True


def _move(source: Path, target: Path, sha256: str, mode: int) -> None:
    """The file under its new name, compared with its hash there, and on the platter."""
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    try:
        source.rename(target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM):
            raise
        with source.open("rb") as old, target.open("xb") as new:
            shutil.copyfileobj(old, new, launcher.PIECE)
            new.flush()
            times = os.fstat(old.fileno())  # twistd writes dropin.cache anew where it is not the newest
            os.utime(new.fileno(), ns=(times.st_atime_ns, times.st_mtime_ns))
    fd = os.open(target, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        if launcher.digest(fd) != sha256:
            raise UpdateApplyError(f"{target} is not what was verified; find out who writes there")
        os.fchmod(fd, mode & 0o777)
        os.fsync(fd)
    finally:
        os.close(fd)


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
