"""The log of our programs."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from twisted.logger import LogLevel
from twisted.python.failure import Failure

from daemon.aio.logsink import LogSink, journal_line, json_line, level_of, open_log_stream, text_line
from daemon.errors import StorageError


def event(level: LogLevel = LogLevel.info, text: str = "agent {agent_id}", **fields: Any) -> dict[str, Any]:
    return {"log_level": level, "log_format": text, "log_time": 0.0, "log_namespace": "x", **fields}


def test_a_json_line_has_time_level_message_and_plain_fields() -> None:
    line = json_line(event(agent_id="a", count=3, thing=object(), big=2**70))
    assert line.endswith(b"\n")
    assert json.loads(line) == {
        "timestamp": "1970-01-01T00:00:00.000Z", "level": "info", "message": "agent a", "agent_id": "a",
        "count": 3,
    }


def test_hostile_text_stays_one_line_of_good_json() -> None:
    line = json_line(event(agent_id="a\n\udcff\x00" + "x" * 100_000))
    assert line.count(b"\n") == 1
    assert len(line) < 20_000
    json.loads(line)


def test_a_failure_carries_its_traceback_in_one_field() -> None:
    try:
        raise ValueError("inside")
    except ValueError:
        broken = event(LogLevel.critical, "it broke", log_failure=Failure())
    read = json.loads(json_line(broken))
    assert (read["level"], read["message"]) == ("error", "it broke")
    assert "ValueError: inside" in read["traceback"]
    assert b"\n    " in text_line(broken)


def test_a_text_line() -> None:
    assert text_line(event(agent_id="a")) == b"1970-01-01T00:00:00.000Z info  agent a\n"


@pytest.mark.parametrize(
    ("level", "priority"),
    [(LogLevel.debug, b"<7>"), (LogLevel.info, b"<6>"), (LogLevel.warn, b"<4>"), (LogLevel.error, b"<3>"),
     (LogLevel.critical, b"<3>")],
)
def test_a_line_for_the_journal_has_a_priority_and_no_time(level: LogLevel, priority: bytes) -> None:
    assert journal_line(event(level, agent_id="a")) == priority + b"agent a\n"


def test_each_line_for_the_journal_is_an_entry_and_has_the_priority() -> None:
    try:
        raise ValueError("inside")
    except ValueError:
        lines = journal_line(event(LogLevel.critical, "it broke\nbadly", log_failure=Failure())).splitlines()
    assert lines[:2] == [b"<3>it broke", b"<3>badly"] and lines[-1] == b"<3>builtins.ValueError: inside"
    assert all(line.startswith(b"<3>") for line in lines)


@pytest.mark.parametrize(
    ("named", "json_lines", "expected"),
    [("itself", False, b"<6>agent a\n"), ("another", False, b"1970-"), ("", False, b"1970-"), ("x", False, b"1970-"),
     ("itself", True, b'{"timestamp"')],
)
def test_the_journal_is_known_by_device_and_inode(
    tmp_path: Path, named: str, json_lines: bool, expected: bytes
) -> None:
    with open(tmp_path / "stderr", "wb", buffering=0) as stream:
        found = os.fstat(stream.fileno())
        names = {"itself": f"{found.st_dev}:{found.st_ino}", "another": f"{found.st_dev}:{found.st_ino + 1}"}
        LogSink("info", json_lines, stream, journal=names.get(named, named))(event(agent_id="a"))
    assert (tmp_path / "stderr").read_bytes().startswith(expected)


def test_levels() -> None:
    assert level_of(event(LogLevel.critical)) == "error"
    assert level_of({"log_level": LogLevel.info, "log_namespace": "log_legacy"}) == "debug"
    assert level_of({"log_level": LogLevel.info, "log_namespace": "twisted.internet.base"}) == "debug"
    assert level_of({"log_level": LogLevel.error, "log_namespace": "twisted.internet.base"}) == "error"
    assert level_of({"log_level": LogLevel.warn, "log_namespace": "log_legacy"}) == "warn"
    assert level_of({}) == "info"


def test_the_level_filters_and_can_change() -> None:
    first, second = io.BytesIO(), io.BytesIO()
    sink = LogSink("warn", True, first)
    sink(event(agent_id="quiet"))
    sink(event(LogLevel.warn, agent_id="loud"))
    assert first.getvalue().count(b"\n") == 1
    sink.apply("debug", False, second)
    assert first.closed
    sink(event(LogLevel.debug, agent_id="now"))
    assert second.getvalue().endswith(b"debug agent now\n")


class Full(io.BytesIO):
    def write(self, data: Any) -> int:
        raise OSError(28, "No space left on device")


def test_a_line_that_cannot_be_written_is_counted() -> None:
    sink = LogSink("info", True, Full())
    sink(event(agent_id="a"))
    assert sink.lost_total == 1
    sink.close()
    sink(event(agent_id="a"))
    assert sink.lost_total == 2


class Filling(io.BytesIO):
    """A disk with so much room; a raw file takes what fits and raises only when nothing does."""

    room = 10**6

    def write(self, data: Any) -> int:
        if not self.room:
            raise OSError(28, "No space left on device")
        taken = super().write(bytes(data)[: self.room])
        self.room -= taken
        return taken


def test_after_a_full_disk_the_log_goes_on_with_a_whole_line_that_tells_what_is_missing() -> None:
    disk = Filling()
    sink = LogSink("info", True, disk)
    sink(event(agent_id="before"))
    disk.room = 9
    for _ in range(5):
        sink(event(agent_id="lost"))
    disk.room = 10**6
    sink(event(agent_id="after"))
    sink(event(agent_id="last"))
    before, torn, gap, after, last = disk.getvalue().splitlines()
    assert [json.loads(line)["agent_id"] for line in (before, after, last)] == ["before", "after", "last"]
    assert len(torn) == 9 and sink.lost_total == 5
    assert (json.loads(gap)["count"], json.loads(gap)["level"]) == (5, "warn")
    assert "5 lines of this log could not be written" in json.loads(gap)["message"]


def test_a_full_disk_between_lines_leaves_no_empty_line() -> None:
    disk = Filling()
    sink = LogSink("info", False, disk)
    disk.room = 0
    sink(event(agent_id="lost"))
    disk.room = 10**6
    sink(event(agent_id="after"))
    gap, after = disk.getvalue().splitlines()
    assert b"1 lines of this log" in gap and after.endswith(b"agent after")


def test_a_file_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"before\n")
    stream = open_log_stream(str(path), "log.file")
    LogSink("info", True, stream)(event(agent_id="a"))
    stream.close()
    assert path.read_bytes().startswith(b"before\n{")
    assert path.read_bytes().count(b"\n") == 2


def test_a_file_that_cannot_be_opened_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"):
        open_log_stream(str(tmp_path / "no" / "a.log"), "log.file")


def test_closing_the_stream_leaves_stderr_open() -> None:
    open_log_stream("", "log.file").close()
    os.fstat(2)
