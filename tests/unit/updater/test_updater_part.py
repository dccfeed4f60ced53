"""What a download leaves on disk, and when the next one goes on with it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon import faults
from daemon.errors import StorageError
from daemon.updater.download.part import ETAG, PACKAGE, PART, SYNC_BYTES, PartFile

URL, BOOT = "https://good.example/a", "boot-1"


@pytest.fixture(autouse=True)
def _no_faults() -> Iterator[None]:
    yield
    faults.arm({})


def opened(folder: Path, url: str = URL, boot: str = BOOT) -> PartFile:
    part = PartFile(folder, url, boot)
    part.open()
    return part


def begun(folder: Path, data: bytes = b"abc", validator: str = '"v1"', total: int | None = 10) -> None:
    """An attempt that broke off after ``data``."""
    part = opened(folder)
    part.restart(validator, total)
    part.append(data)
    part.close()


def test_from_nothing_to_a_package(tmp_path: Path) -> None:
    part = opened(tmp_path)
    assert (part.size, part.validator, part.total, part.complete) == (0, "", None, False)
    part.restart('"v1"', 6)
    part.append(b"abc")
    part.append(b"def")
    part.finish()
    part.close()
    assert (tmp_path / PACKAGE).read_bytes() == b"abcdef"
    assert [path.name for path in tmp_path.iterdir()] == [PACKAGE]
    assert stat.S_IMODE((tmp_path / PACKAGE).stat().st_mode) == 0o600


def test_what_broke_off_goes_on(tmp_path: Path) -> None:
    begun(tmp_path)
    part = opened(tmp_path)
    assert (part.size, part.validator, part.total, part.complete) == (3, '"v1"', 10, False)
    part.append(b"defghij")
    part.finish()
    part.close()
    assert (tmp_path / PACKAGE).read_bytes() == b"abcdefghij"


def test_a_finished_package_is_found(tmp_path: Path) -> None:
    begun(tmp_path, b"0123456789")
    part = opened(tmp_path)
    part.finish()
    part.close()
    part = opened(tmp_path)
    assert (part.complete, part.size) == (True, 10)
    part.close()


@pytest.mark.parametrize(
    ("url", "boot"), [("https://good.example/b", BOOT), (URL, "boot-2")], ids=["another url", "after another boot"]
)
def test_a_part_of_something_else_is_not_gone_on_with(tmp_path: Path, url: str, boot: str) -> None:
    begun(tmp_path)
    part = opened(tmp_path, url, boot)
    assert (part.size, part.validator, part.total) == (0, "", None)
    part.close()
    assert (tmp_path / PART).stat().st_size == 0
    assert not (tmp_path / ETAG).exists()


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"url_sha256":1}', b"\xff", b"null"])
def test_a_record_that_cannot_be_read_is_none(tmp_path: Path, text: bytes) -> None:
    begun(tmp_path)
    (tmp_path / ETAG).write_bytes(text)
    part = opened(tmp_path)
    assert (part.size, part.validator) == (0, "")
    part.close()


def test_more_bytes_than_there_are_of_it_begin_anew(tmp_path: Path) -> None:
    begun(tmp_path, b"abc", total=2)
    part = opened(tmp_path)
    assert (part.size, part.validator) == (0, "")
    part.close()


def test_without_a_validator_nothing_is_gone_on_with(tmp_path: Path) -> None:
    begun(tmp_path)
    begun(tmp_path, b"xyz", validator="")
    assert not (tmp_path / ETAG).exists()
    part = opened(tmp_path)
    assert part.size == 0
    part.close()


@pytest.mark.parametrize("point", ["atomic.write", "atomic.rename"])
def test_bytes_never_stand_beside_the_validator_of_another_package(tmp_path: Path, point: str) -> None:
    begun(tmp_path, b"old")
    part = opened(tmp_path)
    faults.arm({"HOSTDAEMON_FAULT": f"{point}:1:eio"})
    with pytest.raises(StorageError):
        part.restart('"v2"', 10)
    faults.arm({})
    part.close()
    part = opened(tmp_path)
    assert part.size == 0
    part.close()


def test_a_disk_that_fills_keeps_what_is_there_and_says_so(tmp_path: Path) -> None:
    part = opened(tmp_path)
    part.restart('"v1"', 10)
    part.append(b"abc")
    faults.arm({"HOSTDAEMON_FAULT": "download.write:1:enospc"})
    with pytest.raises(StorageError, match="No space left on device; free space"):
        part.append(b"def")
    faults.arm({})
    part.close()
    part = opened(tmp_path)
    assert (part.size, part.validator) == (3, '"v1"')
    part.close()


@pytest.mark.parametrize("point", ["download.fsync", "download.rename"])
def test_a_disk_that_breaks_at_the_end_leaves_no_package(tmp_path: Path, point: str) -> None:
    begun(tmp_path, b"0123456789")
    part = opened(tmp_path)
    faults.arm({"HOSTDAEMON_FAULT": f"{point}:1:eio"})
    with pytest.raises(StorageError, match="Input/output error"):
        part.finish()
    part.close()
    assert not (tmp_path / PACKAGE).exists()
    part = opened(tmp_path)
    assert (part.size, part.complete) == (10, False)
    part.close()


@pytest.mark.parametrize("name", [PART, ETAG])
def test_a_link_is_not_followed(tmp_path: Path, name: str) -> None:
    folder, victim = tmp_path / "staging", tmp_path / "victim"
    folder.mkdir()
    victim.write_bytes(b"precious")
    (folder / name).symlink_to(victim)
    with pytest.raises(StorageError):
        begun(folder, b"evil")
    assert victim.read_bytes() == b"precious"


def test_what_is_no_file_is_refused_and_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / PART)
    part = PartFile(tmp_path, URL, BOOT)
    with pytest.raises(StorageError, match="not a regular file"):
        part.open()
    part.close()


def test_a_large_one_is_synced_on_its_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: (synced.append(part.size), real(fd)))
    part = opened(tmp_path)
    part.restart('"v1"', None)
    for _ in range(2 * SYNC_BYTES // 2**20):
        part.append(b"x" * 2**20)
    part.close()
    assert synced == [SYNC_BYTES, 2 * SYNC_BYTES]


@pytest.mark.parametrize("point", ["download.write:1", "download.write:3", "atomic.rename:1", "download.fsync:1", "download.rename:1"])
def test_a_kill_at_every_step_costs_nothing_that_was_written(tmp_path: Path, point: str) -> None:
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from daemon import faults\n"
        "from daemon.updater.download.part import PartFile\n"
        "faults.arm(os.environ)\n"
        f"part = PartFile(Path(sys.argv[1]), {URL!r}, {BOOT!r})\n"
        "part.open()\n"
        "if not part.size: part.restart('\"v1\"', 10)\n"
        "while part.size < 10: part.append(b'0123456789'[part.size:part.size + 2])\n"
        "part.finish()\n"
    )

    def run(**environ: str) -> int:
        return subprocess.run([sys.executable, "-c", program, str(tmp_path)], env={**os.environ, **environ}, timeout=30).returncode

    assert run(HOSTDAEMON_FAULT=point) == -9
    assert not (tmp_path / PACKAGE).exists()
    kept = (tmp_path / PART).stat().st_size
    assert kept == {"download.write:3": 4, "download.fsync:1": 10, "download.rename:1": 10}.get(point, 0)
    part = opened(tmp_path)
    assert part.size == kept
    part.close()
    assert run() == 0
    assert (tmp_path / PACKAGE).read_bytes() == b"0123456789"
