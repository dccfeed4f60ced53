"""What the last update of a component that succeeded put where: ``backup_dir/{component}.installed.json``.

Further files of a package replace only what an update put there; this remembers what that is, and which
backup holds the version before. Blocks: on a lane only.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from daemon.durable.atomic import read_bounded, write_atomic
from daemon.errors import StorageError

SCHEMA = 1
FILE_MAX = 16 * 2**20  # bytes; a package may have thousands of files, and their whole paths are in it


class Installed(msgspec.Struct, frozen=True, kw_only=True):
    """The record.

    Attributes:
        version, sha256: of the program in place.
        files: further files that updates put there, path to SHA-256.
        previous: path of the backup that holds what the last update replaced; empty for none.
    """

    schema: int = SCHEMA
    version: str = ""
    sha256: str = ""
    files: Mapping[str, str] = {}
    previous: str = ""


def _path(directory: Path, component: str) -> Path:
    return directory / f"{component}.installed.json"


def load_installed(directory: Path, component: str) -> Installed:
    """The record; an empty one where there is none or it is unreadable: then nothing is known to be ours, and
    further files are left alone."""
    try:
        data = read_bounded(_path(directory, component), FILE_MAX)
        record = msgspec.json.decode(data, type=Installed)
    except (OSError, StorageError, ValueError, RecursionError, msgspec.MsgspecError):
        return Installed()
    return record if record.schema <= SCHEMA else Installed()


def save_installed(directory: Path, component: str, record: Installed) -> None:
    """Stores it.

    Raises:
        StorageError: D1004.
    """
    write_atomic(_path(directory, component), msgspec.json.encode(record))
