"""The journal of updates as files: what is written can be read by the next daemon, whatever the package holds."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from daemon.errors import StorageError
from daemon.updater.agent.installed import Installed, load_installed, save_installed
from daemon.updater.journal import FILE_MAX, UpdateJournal
from daemon.updater.package import manifest as manifests
from daemon.updater.record import UpdateRecord

STAGING = "/var/lib/daemon/downloads/20261126100000-5f3a09c1/files"
HASH = "ab" * 32


def record_of(names: list[str], folder: str = STAGING) -> UpdateRecord:
    return UpdateRecord(
        id="20261126100000-5f3a09c1", target="daemon", component="daemon", version="1.1.0",
        files={name: f"{folder}/{name}" for name in names}, sha256=dict.fromkeys(names, HASH),
        modes=dict.fromkeys(names, 0o644), main=names[0],
    )


def largest_manifest(length: int) -> list[str]:
    """Names of that length, as many as the largest manifest has room for."""
    entry = len(f',"":{{"sha256":"{HASH}"}}') + length
    return [f"{number:0{length}}" for number in range((manifests.SIZE_MAX - 1000) // entry)]


@pytest.mark.parametrize("length", [6, 60, 250])
def test_an_update_to_the_largest_package_is_read_again(tmp_path: Path, length: int) -> None:
    names = largest_manifest(length)
    manifest = {
        "component": "web", "version": "1.1.0", "os": "linux", "arch": "amd64", "main": names[0],
        "files": {name: {"sha256": HASH} for name in names},
    }
    manifests.parse(msgspec.json.encode(manifest))  # such a package is taken
    record = record_of(names, folder="/" + "d" * 250)
    journal = UpdateJournal(tmp_path / "updates")
    journal.load()
    journal.save(record)
    assert journal.load() == (record,)


def test_what_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    journal = UpdateJournal(tmp_path)
    before = record_of(["bin/twistd"])
    journal.save(before)
    with pytest.raises(StorageError, match="fewer files"):
        journal.save(record_of([f"{number:0200}" for number in range(FILE_MAX // 200 // 3)]))
    assert journal.load() == (before,)


def test_an_update_that_is_over_keeps_no_list_of_files() -> None:
    kept = record_of(["bin/twistd", "lib/a.py"]).without_files()
    assert (kept.files, kept.sha256, kept.modes) == ({}, {}, {})
    assert (kept.id, kept.version, kept.main) == ("20261126100000-5f3a09c1", "1.1.0", "bin/twistd")


def test_what_an_agents_largest_package_put_in_place_is_known_afterwards(tmp_path: Path) -> None:
    installed = Installed(version="1", files={f"/opt/{'d' * 250}/{name}": HASH for name in largest_manifest(6)})
    save_installed(tmp_path, "web", installed)
    assert load_installed(tmp_path, "web") == installed
