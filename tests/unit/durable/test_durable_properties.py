"""Properties of the journal under arbitrary truncation and arbitrary sizes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from daemon.durable.journal import Journal

pytest.importorskip("hypothesis")
from hypothesis import given, settings
from hypothesis import strategies as st

LINES = st.lists(st.binary(max_size=60).map(lambda data: data.replace(b"\n", b"")), max_size=40)
SETTINGS = settings(derandomize=True, deadline=None, max_examples=60)


def read(journal: Journal) -> list[bytes]:
    return [entry.line for entry in journal.read_from()]


@SETTINGS
@given(lines=LINES, more=LINES, segment_bytes=st.integers(70, 400), cut=st.floats(0, 1))
def test_truncating_the_last_segment_anywhere_leaves_a_prefix_that_grows_again(
    lines: list[bytes], more: list[bytes], segment_bytes: int, cut: float
) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        journal = Journal(directory, segment_bytes=segment_bytes, segments=1000)
        for line in lines:
            journal.append(line)
        journal.close()
        last = max(directory.iterdir())
        size = last.stat().st_size
        kept_bytes = round(size * cut)
        with last.open("r+b") as file:
            file.truncate(kept_bytes)
        again = Journal(directory, segment_bytes=segment_bytes, segments=1000)
        kept = read(again)
        assert kept == lines[: len(kept)]
        if kept_bytes == size:
            assert kept == lines
        for line in more:
            again.append(line)
        assert read(again) == kept + more
        assert list(again.tail(7)) == (kept + more)[-7:]
        again.close()


@SETTINGS
@given(lines=LINES, segment_bytes=st.integers(70, 200), segments=st.integers(2, 4), reopen=st.integers(1, 9))
def test_what_is_kept_is_always_the_newest_and_the_rest_is_counted(
    lines: list[bytes], segment_bytes: int, segments: int, reopen: int
) -> None:
    with tempfile.TemporaryDirectory() as name:
        dropped = 0
        journal = Journal(Path(name), segment_bytes=segment_bytes, segments=segments)
        for number, line in enumerate(lines, 1):
            journal.append(line)
            if number % reopen == 0:
                dropped += journal.dropped_total
                journal.close()
                journal = Journal(Path(name), segment_bytes=segment_bytes, segments=segments)
        dropped += journal.dropped_total
        assert read(journal) == lines[dropped:]
        assert len(list(Path(name).iterdir())) <= segments
        journal.close()


@SETTINGS
@given(lines=LINES, junk=st.binary(max_size=300), at=st.floats(0, 1))
def test_junk_written_over_the_file_invents_no_line(lines: list[bytes], junk: bytes, at: float) -> None:
    with tempfile.TemporaryDirectory() as name:
        journal = Journal(Path(name))
        for line in lines:
            journal.append(line)
        journal.close()
        only = next(Path(name).iterdir())
        content = only.read_bytes()
        offset = round(len(content) * at)
        only.write_bytes(content[:offset] + junk + content[offset + len(junk):])
        again = Journal(Path(name))
        left = iter(lines)
        assert all(line in left for line in read(again)), "lines must be a subsequence of those appended"
        again.append(b"next")
        assert read(again)[-1] == b"next"
        again.close()
