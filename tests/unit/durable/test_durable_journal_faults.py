"""The journal under kills, full disks, torn and junk files."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from daemon import faults
from daemon.durable.journal import Journal
from daemon.durable.segment import encode_line
from daemon.errors import StorageError

APPENDER = (
    "import os, sys\n"
    "from pathlib import Path\n"
    "from daemon import faults\n"
    "from daemon.durable.journal import Journal\n"
    "faults.arm(os.environ)\n"
    "journal = Journal(Path(sys.argv[1]), segment_bytes=int(sys.argv[2]), segments=8)\n"
    "for number in range(int(sys.argv[3])):\n"
    "    journal.append(b'%d %s' % (number, b'x' * (number % 97)))\n"
    "    os.write(1, b'%d\\n' % number)\n"
)


@pytest.fixture(autouse=True)
def _disarm() -> Iterator[None]:
    yield
    faults.arm({})


def lines(journal: Journal) -> list[bytes]:
    return [entry.line for entry in journal.read_from()]


def segments(directory: Path) -> list[Path]:
    return sorted(directory.iterdir())


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that every user can reach."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Root may write anywhere; what is tested needs somebody who may not."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_kill_in_the_middle_of_appends_loses_no_acknowledged_line(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", APPENDER, str(tmp_path / "j"), str(1 << 20), "100000000"],
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    acknowledged = b""
    until = time.monotonic() + 20
    while acknowledged.count(b"\n") < 3000 and time.monotonic() < until:
        acknowledged += os.read(child.stdout.fileno(), 4096)
    child.kill()
    rest, _ = child.communicate()
    assert child.returncode == -signal.SIGKILL
    told = (acknowledged + rest).count(b"\n")
    assert told >= 3000
    journal = Journal(tmp_path / "j")
    kept = [int(line.split()[0]) for line in lines(journal)]
    assert kept == list(range(len(kept)))
    assert told <= len(kept) <= told + 1
    journal.append(b"next")
    assert lines(journal)[-1] == b"next"
    journal.close()


@pytest.mark.parametrize(("point", "kept"), [("journal.append:5", 4), ("journal.rotate:2", None)])
def test_a_kill_at_a_fault_point_keeps_exactly_what_was_acknowledged(
    tmp_path: Path, point: str, kept: int | None
) -> None:
    child = subprocess.run(
        [sys.executable, "-c", APPENDER, str(tmp_path / "j"), "512", "1000"], stdout=subprocess.PIPE,
        env={**os.environ, "HOSTDAEMON_FAULT": point}, timeout=30,
    )
    assert child.returncode == -signal.SIGKILL
    told = child.stdout.count(b"\n")
    assert told > 0
    journal = Journal(tmp_path / "j", segment_bytes=512)
    assert len(lines(journal)) == told
    assert kept is None or told == kept
    assert journal.corrupt_total == 0
    journal.close()


def test_a_short_write_at_a_limit_is_cut_and_the_next_line_is_clean(tmp_path: Path) -> None:
    program = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from daemon.durable.journal import Journal\n"
        "from daemon.errors import StorageError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "journal.append(b'a' * 40)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (80, 1 << 30))\n"
        "for n in range(3):\n"
        "    try:\n"
        "        journal.append(b'b' * 40)\n"
        "    except StorageError as error:\n"
        "        print(error.details['errno'], error.message)\n"
        "print(sum(p.stat().st_size for p in Path(sys.argv[1]).iterdir()))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))\n"
        "journal.append(b'c' * 40)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "j")], capture_output=True, text=True, timeout=30,
        check=True,
    )
    told = done.stdout.splitlines()
    assert [line.split()[0] for line in told[:3]] == [str(errno.EFBIG)] * 3
    assert "raise the file size limit" in told[0]
    assert told[3] == "50"  # nothing of the three stayed
    journal = Journal(tmp_path / "j")
    assert lines(journal) == [b"a" * 40, b"c" * 40]
    assert journal.corrupt_total == 0
    journal.close()


@pytest.mark.parametrize(("kind", "number"), [("enospc", errno.ENOSPC), ("eio", errno.EIO)])
@pytest.mark.parametrize("point", ["journal.append", "journal.rotate"])
def test_a_disk_that_refuses_costs_that_line_only(tmp_path: Path, point: str, kind: str, number: int) -> None:
    journal = Journal(tmp_path, segment_bytes=30)
    journal.append(b"first line")
    faults.arm({"HOSTDAEMON_FAULT": f"{point}:1:{kind}"})
    for _attempt in range(3):
        with pytest.raises(StorageError) as caught:
            journal.append(b"refused line")
        assert caught.value.details["errno"] == number
        assert str(tmp_path) in caught.value.message
    faults.arm({})
    journal.append(b"later line")
    assert lines(journal) == [b"first line", b"later line"]
    assert journal.dropped_total == 0
    journal.close()


def test_a_torn_part_that_cannot_be_cut_spoils_no_other_line(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(b"before")
    # A full pipe in place of the file: it takes a part of the line, and ftruncate(2) refuses it.
    source, full = os.pipe2(os.O_NONBLOCK)
    real, journal._fd = journal._fd, full
    with pytest.raises(StorageError, match="temporarily unavailable"):
        journal.append(b"x" * 200_000)
    torn = os.read(source, 1 << 20)
    os.close(source)
    os.close(full)
    assert 0 < len(torn) < 200_000
    with segments(tmp_path)[-1].open("ab") as file:
        file.write(torn)
    journal._fd = real
    journal.append(b"after")
    journal.append(b"again")
    assert lines(journal) == [b"before", b"after", b"again"]
    journal.close()
    again = Journal(tmp_path)
    assert again.corrupt_total == 1
    assert lines(again) == [b"before", b"after", b"again"]
    again.close()


@pytest.mark.parametrize("kept_bytes", range(17))
def test_a_torn_last_line_is_cut_at_opening(tmp_path: Path, kept_bytes: int) -> None:
    journal = Journal(tmp_path)
    journal.append(b"whole")
    journal.close()
    path = segments(tmp_path)[0]
    whole = path.stat().st_size
    with path.open("ab") as file:
        file.write(encode_line(b"torn li")[:kept_bytes])
    again = Journal(tmp_path)
    assert again.corrupt_total == (1 if kept_bytes else 0)
    assert path.stat().st_size == whole
    again.append(b"next")
    assert lines(again) == [b"whole", b"next"]
    again.close()


@pytest.mark.parametrize(
    "junk",
    [
        os.urandom(3000).replace(b"\n", b"") + b"\n",
        b"\0" * 4096 + b"\n",
        b"\n\n\n",
        b"00000000 wrong checksum\n",
        b"x" * 700_000 + b"\n",
        b'{"plain": "json"}\n',
    ],
)
def test_junk_lines_are_skipped_and_counted(tmp_path: Path, junk: bytes) -> None:
    journal = Journal(tmp_path)
    journal.append(b"before")
    journal.close()
    with segments(tmp_path)[0].open("ab") as file:
        file.write(junk)
        file.write(encode_line(b"after"))
    again = Journal(tmp_path, segment_bytes=1 << 21)
    assert again.corrupt_total == junk.count(b"\n")
    assert lines(again) == [b"before", b"after"]
    assert list(again.tail(5)) == [b"before", b"after"]
    again.append(b"next")
    assert lines(again)[-1] == b"next"
    again.close()


def test_zeros_at_the_end_after_a_power_failure_are_cut(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(b"before")
    journal.close()
    with segments(tmp_path)[0].open("ab") as file:
        file.write(b"\0" * 1_000_000)
    again = Journal(tmp_path)
    again.append(b"next")
    assert lines(again) == [b"before", b"next"]
    assert again.corrupt_total == 1
    again.close()


def test_an_unfinished_older_segment_does_not_spoil_the_newer(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes=40)
    for line in (b"one one one one one", b"two two two two two", b"three"):
        journal.append(line)
    journal.close()
    with segments(tmp_path)[0].open("ab") as file:
        file.write(b"unfinished")
    again = Journal(tmp_path, segment_bytes=40)
    assert again.corrupt_total == 1
    assert lines(again) == [b"one one one one one", b"two two two two two", b"three"]
    again.close()


def test_a_full_disk_at_opening_is_no_fault_and_appends_try_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: object, **_kwargs: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "mkdir", full)
    journal = Journal(tmp_path / "j")
    with pytest.raises(StorageError, match="No space left on device; free space"):
        journal.append(b"lost")
    assert lines(journal) == []
    journal.sync()
    monkeypatch.undo()
    journal.append(b"kept")
    assert lines(journal) == [b"kept"]
    journal.close()


def test_a_failed_sync_leaves_it_dirty(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(b"x")
    faults.arm({"HOSTDAEMON_FAULT": "journal.sync:1:eio"})
    with pytest.raises(StorageError, match="Input/output error; check that disk"):
        journal.sync()
    assert journal.dirty
    faults.arm({})
    journal.sync()
    assert not journal.dirty
    journal.close()


def test_a_file_in_place_of_the_directory_is_told(tmp_path: Path) -> None:
    (tmp_path / "j").write_text("in the way")
    with pytest.raises(StorageError, match="not a directory"):
        Journal(tmp_path / "j")


def test_a_directory_that_may_not_be_written_is_told(public: Path) -> None:
    (public / "j").mkdir(mode=0o555)
    for directory in (public / "j", public / "j" / "deeper"):
        with ordinary_user(), pytest.raises(StorageError, match=r"Permission denied; let the daemon's user"):
            Journal(directory)


def test_a_newest_segment_that_may_not_be_written_is_told(public: Path) -> None:
    journal = Journal(public / "j")
    journal.append(b"x")
    journal.close()
    (public / "j").chmod(0o755)
    segments(public / "j")[0].chmod(0o444)
    with ordinary_user(), pytest.raises(StorageError, match=r"Permission denied; let the daemon's user"):
        Journal(public / "j")


def test_a_segment_that_cannot_be_read_is_told_and_not_skipped(public: Path) -> None:
    journal = Journal(public / "j", segment_bytes=30)
    for line in (b"one one one", b"two two two"):
        journal.append(line)
    (public / "j").chmod(0o755)
    segments(public / "j")[0].chmod(0)
    with ordinary_user():
        with pytest.raises(StorageError, match="Permission denied"):
            list(journal.read_from())
        with pytest.raises(StorageError, match="Permission denied"):
            journal.tail(5)
    (public / "j").chmod(0o700)
    with ordinary_user(), pytest.raises(StorageError, match="Permission denied"):
        journal.starts()
    journal.close()
