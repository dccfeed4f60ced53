"""The layout of ``work_dir``: which folders there are, with which rights, and what is kept at its top."""

from __future__ import annotations

import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from daemon.durable.atomic import read_bounded, write_atomic
from daemon.errors import StorageError

KEPT_MAX = 4096


@dataclass(frozen=True, slots=True)
class WorkDir:
    """Paths below ``work_dir``."""

    root: Path

    @property
    def state(self) -> Path:
        """What the daemon remembers; its own eyes only."""
        return self.root / "state"

    @property
    def metadata(self) -> Path:
        """One file per agent."""
        return self.state / "agents"

    @property
    def events(self) -> Path:
        """The event journal."""
        return self.state / "events"

    @property
    def logs(self) -> Path:
        """One folder per agent."""
        return self.root / "logs"

    @property
    def agents(self) -> Path:
        """The agents' own folders."""
        return self.root / "agents"

    @property
    def run(self) -> Path:
        """Sockets."""
        return self.root / "run"

    def make(self) -> None:
        """Makes the folders. work_dir and run are 0711, whatever the umask: agents with a user of their own
        pass through them to the heartbeat socket.

        Raises:
            StorageError: D1004, one cannot be made or written to.
        """
        for path, mode in (
            (self.root, 0o711), (self.run, 0o711), (self.state, 0o700), (self.metadata, 0o700),
            (self.events, 0o700), (self.logs, 0o750), (self.agents, 0o755),
        ):
            try:
                path.mkdir(parents=True, exist_ok=True)
                self._check_owner(path)
                path.chmod(mode)
            except OSError as error:
                raise StorageError(
                    f"{path} cannot be made or set to mode {mode:o}: {error.strerror}; "
                    "let the daemon's user own daemon.work_dir, or choose another"
                ) from error


    def _check_owner(self, path: Path) -> None:
        """All of it is ours, links to another disk included: an owner could make us write elsewhere."""
        found = path.stat()
        owners = {found.st_uid} if path == self.root else {found.st_uid, path.lstat().st_uid}
        if not stat.S_ISDIR(found.st_mode):
            raise StorageError(f"{path} is not a folder; move it away")
        we = os.geteuid()
        if owners != {we}:
            raise StorageError(
                f"{path} belongs to user {max(owners - {we})} and the daemon runs as {we}; "
                "chown it, or choose another daemon.work_dir"
            )


def kept_secret(path: Path, digits: int = 64) -> str:
    """A random hex text made once and kept 0600: the API token, the secret of the marks.

    Raises:
        StorageError: it can be neither read nor made.
    """
    try:
        text = read_bounded(path, KEPT_MAX).decode("ascii").strip()
        if len(text) >= 32:
            return text
    except FileNotFoundError:
        pass  # the first start
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"{path} cannot be read: {error}; remove it to have a new one made") from error
    made = secrets.token_hex(digits // 2)
    write_atomic(path, f"{made}\n".encode())
    return made
