"""The journal: order, bound, rotation, reading while appends go on."""

from __future__ import annotations

import os
import threading
from itertools import pairwise
from pathlib import Path

import pytest

from daemon.durable.journal import Journal, Position
from daemon.durable.segment import MAX_LINE_BYTES, decode_line, encode_line
from daemon.errors import StorageError


def lines(journal: Journal, position: Position | None = None) -> list[bytes]:
    return [entry.line for entry in journal.read_from(position)]


def numbered(first: int, last: int) -> list[bytes]:
    return [b"line %d" % number for number in range(first, last + 1)]


def small(directory: Path) -> Journal:
    """Four lines (``line N`` and the overhead: 16 or 17 bytes) to a segment, three segments."""
    return Journal(directory, segment_bytes=68, segments=3)


@pytest.mark.parametrize("payload", [b"", b"x", b'{"a":1}', bytes(set(range(256)) - {10})])
def test_a_line_on_disk_reads_back(payload: bytes) -> None:
    raw = encode_line(payload)
    assert raw.endswith(b"\n")
    assert decode_line(raw[:-1]) == payload


@pytest.mark.parametrize(
    "raw", [b"", b"short", b"00000000", b"00000000x", b"\0" * 40, encode_line(b"payload")[:-2],
            encode_line(b"payload")[1:-1], encode_line(b"abc")[:-1].upper() + b"!"],
)
def test_junk_is_no_line(raw: bytes) -> None:
    assert decode_line(raw) is None


def test_lines_are_read_in_the_order_they_were_appended_also_after_reopening(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "deep" / "events")
    for line in numbered(1, 3):
        journal.append(line)
    assert lines(journal) == numbered(1, 3)
    journal.close()
    again = Journal(tmp_path / "deep" / "events")
    again.append(b"line 4")
    assert lines(again) == numbered(1, 4)
    assert (again.corrupt_total, again.dropped_total) == (0, 0)
    assert len(list((tmp_path / "deep" / "events").iterdir())) == 1
    again.close()


def test_files_and_directory_are_private(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "events")
    journal.append(b"x")
    assert (tmp_path / "events").stat().st_mode & 0o777 == 0o700
    assert [entry.stat().st_mode & 0o777 for entry in (tmp_path / "events").iterdir()] == [0o600]
    journal.close()


def test_the_oldest_segment_goes_at_the_bound_and_its_lines_are_counted(tmp_path: Path) -> None:
    journal = small(tmp_path)
    for line in numbered(1, 9):
        journal.append(line)
        sizes = [entry.stat().st_size for entry in tmp_path.iterdir()]
        assert len(sizes) <= 3
        assert max(sizes) <= 68
    assert lines(journal) == numbered(1, 9)
    for line in numbered(10, 13):
        journal.append(line)
    assert lines(journal) == numbered(5, 13)
    assert journal.dropped_total == 4
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [f"{n:020d}.log" for n in (5, 9, 13)]
    journal.close()


def test_a_smaller_bound_holds_from_opening_on(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes=68, segments=5)
    for line in numbered(1, 17):
        journal.append(line)
    journal.close()
    again = Journal(tmp_path, segment_bytes=68, segments=2)
    assert len(list(tmp_path.iterdir())) == 2
    assert again.dropped_total == 12
    assert lines(again) == numbered(13, 17)
    again.close()


@pytest.mark.parametrize("bad", [b"a\nb", b"\n", b"x" * 59])
def test_what_is_not_one_bounded_line_is_refused_and_changes_nothing(tmp_path: Path, bad: bytes) -> None:
    journal = small(tmp_path)
    journal.append(b"x" * journal.max_line_bytes)
    with pytest.raises(ValueError, match="not a line of at most 58 bytes"):
        journal.append(bad)
    assert lines(journal) == [b"x" * 58]
    journal.close()


def test_a_line_is_bounded_even_in_large_segments(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes=4 * MAX_LINE_BYTES)
    journal.append(b"x" * MAX_LINE_BYTES)
    with pytest.raises(ValueError, match="not a line"):
        journal.append(b"x" * (MAX_LINE_BYTES + 1))
    journal.append(b"y")
    assert [len(line) for line in lines(journal)] == [MAX_LINE_BYTES, 1]
    journal.close()


@pytest.mark.parametrize(("segment_bytes", "segments"), [(1024, 1), (10, 8)])
def test_a_bound_that_cannot_work_is_refused(tmp_path: Path, segment_bytes: int, segments: int) -> None:
    with pytest.raises(ValueError, match="at least 2 segments"):
        Journal(tmp_path, segment_bytes=segment_bytes, segments=segments)


def test_reading_goes_on_where_it_ended(tmp_path: Path) -> None:
    journal = small(tmp_path)
    for line in numbered(1, 6):
        journal.append(line)
    entries = list(journal.read_from())
    assert lines(journal, entries[2].end) == numbered(4, 6)
    assert lines(journal, entries[3].end) == numbered(5, 6)  # the end of a segment
    assert lines(journal, entries[-1].end) == []
    journal.append(b"line 7")
    assert lines(journal, entries[-1].end) == [b"line 7"]
    assert lines(journal, Position(segment=99)) == []
    journal.close()


def test_a_reader_whose_segment_is_gone_goes_on_with_the_oldest(tmp_path: Path) -> None:
    journal = small(tmp_path)
    for line in numbered(1, 3):
        journal.append(line)
    behind = next(journal.read_from()).end
    for line in numbered(4, 13):
        journal.append(line)
    assert lines(journal, behind) == numbered(5, 13)
    journal.close()


def test_a_reader_overtaken_by_rotations_in_the_middle_misses_no_line_that_is_kept(tmp_path: Path) -> None:
    journal = small(tmp_path)
    for line in numbered(1, 3):
        journal.append(line)
    reader = journal.read_from()
    seen = [next(reader).line, next(reader).line]
    for line in numbered(4, 13):  # the last segment the reader listed gets line 4, then is dropped
        journal.append(line)
    seen += [entry.line for entry in reader]
    # Its open file still gives line 3 (read ahead); what it had not read of the dropped one is gone.
    assert seen[:3] == numbered(1, 3)
    assert seen[-9:] == numbered(5, 13)
    journal.close()


def test_lines_appended_while_the_last_segment_is_read_are_not_skipped_by_a_rotation(tmp_path: Path) -> None:
    journal = small(tmp_path)
    for line in numbered(1, 3):
        journal.append(line)
    seen = []
    for entry in journal.read_from():
        seen.append(entry.line)
        if len(seen) == 3:  # the reader has this segment's bytes; now it grows, and another begins
            for line in numbered(4, 6):
                journal.append(line)
    assert seen == numbered(1, 6)
    journal.close()


def test_readers_and_sync_on_other_threads_never_see_a_broken_line(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes=4096, segments=4)
    done = threading.Event()
    faults: list[object] = []

    def read() -> None:
        while not done.is_set():
            seen = [int(entry.line) for entry in journal.read_from()]
            if any(later <= earlier for earlier, later in pairwise(seen)):
                faults.append(seen)

    def sync() -> None:
        while not done.is_set():
            try:
                journal.sync()
            except StorageError as error:
                faults.append(error)

    threads = [threading.Thread(target=read), threading.Thread(target=read), threading.Thread(target=sync)]
    for thread in threads:
        thread.start()
    for number in range(5000):
        journal.append(b"%d" % number)
    done.set()
    for thread in threads:
        thread.join()
    assert faults == []
    assert lines(journal)[-1] == b"4999"
    journal.close()


def test_tail_gives_the_newest_across_segments(tmp_path: Path) -> None:
    journal = small(tmp_path)
    assert journal.tail(5) == ()
    for line in numbered(1, 11):
        journal.append(line)
    assert journal.tail(0) == ()
    assert list(journal.tail(2)) == numbered(10, 11)
    assert list(journal.tail(7)) == numbered(5, 11)
    assert list(journal.tail(99)) == numbered(1, 11)
    journal.close()


def test_starts_are_where_segments_begin(tmp_path: Path) -> None:
    journal = small(tmp_path)
    for line in numbered(1, 6):
        journal.append(line)
    assert journal.starts() == (Position(segment=1), Position(segment=5))
    assert lines(journal, journal.starts()[1]) == numbered(5, 6)
    journal.close()


def test_it_is_dirty_until_synced(tmp_path: Path) -> None:
    journal = small(tmp_path)
    assert not journal.dirty
    for line in numbered(1, 6):  # two segments
        journal.append(line)
    assert journal.dirty
    journal.sync()
    assert not journal.dirty
    journal.sync()
    journal.close()


def test_syncing_a_segment_that_the_bound_took_is_no_fault(tmp_path: Path) -> None:
    journal = small(tmp_path)
    for line in numbered(1, 40):
        journal.append(line)
    journal.sync()
    journal.append(b"line 41")
    assert lines(journal)[-1] == b"line 41"
    journal.close()


def test_a_segment_deleted_by_hand_is_noticed_by_sync_and_replaced(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "events")
    journal.append(b"lost")
    for entry in (tmp_path / "events").iterdir():
        entry.unlink()
    journal.append(b"lost too")
    journal.sync()
    journal.append(b"kept")
    assert lines(journal) == [b"kept"]
    journal.close()


def test_a_directory_deleted_by_hand_is_made_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "events")
    journal.append(b"lost")
    journal.sync()
    for entry in (tmp_path / "events").iterdir():
        entry.unlink()
    (tmp_path / "events").rmdir()
    journal.append(b"lost too")
    journal.sync()
    journal.append(b"kept")
    assert lines(journal) == [b"kept"]
    journal.sync()
    journal.close()


def test_after_close_nothing_is_appended_and_reading_works(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(b"x")
    journal.close()
    journal.close()
    with pytest.raises(StorageError, match="is closed"):
        journal.append(b"y")
    assert lines(journal) == [b"x"]


def test_files_that_are_not_segments_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "README").write_text("mine")
    (tmp_path / "00000000000000000007.log").mkdir()
    (tmp_path / "00000000000000000003.log").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "00000000000000000001.log")
    journal = small(tmp_path)
    for line in numbered(1, 13):
        journal.append(line)
    assert lines(journal) == numbered(5, 13)
    assert (tmp_path / "README").read_text() == "mine"
    assert (tmp_path / "00000000000000000007.log").is_dir()
    assert (tmp_path / "00000000000000000003.log").is_symlink()
    journal.close()
