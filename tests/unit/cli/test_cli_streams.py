"""Server-sent events cut anywhere, and times of log lines."""

from __future__ import annotations

from datetime import datetime

import click
import pytest

from daemon.cli.since import moment, newer, time_of
from daemon.cli.sse import Message, SseParser

STREAM = (
    'retry: 2000\n\nid: 1-2\nevent: agent.started\ndata: {"message":"Grüße"}\n\n: alive\n\n'
    'event: gap\ndata: {"after":"1-2",\ndata: "lost":null}\n\n'
).encode()
MESSAGES = [
    Message(event="agent.started", id="1-2", data={"message": "Grüße"}),
    Message(event="gap", id="", data={"after": "1-2", "lost": None}),
]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_messages_are_the_same_wherever_the_stream_is_cut(size: int) -> None:
    parser = SseParser()
    found = [m for i in range(0, len(STREAM), size) for m in parser.feed(STREAM[i : i + size])]
    assert found == MESSAGES


def test_carriage_returns_are_line_ends_too_and_half_a_message_is_none() -> None:
    assert list(SseParser().feed(STREAM.replace(b"\n", b"\r\n"))) == MESSAGES
    assert list(SseParser().feed(STREAM[:-1])) == MESSAGES[:1]


def test_garbage_in_a_stream_is_refused() -> None:
    with pytest.raises(ValueError, match="Expecting"):
        list(SseParser().feed(b"data: <html>\n\n"))


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize(
    ("line", "time"),
    [
        (b"2026-11-20T10:00:00Z I! Loaded inputs", at("2026-11-20T10:00:00Z")),
        (b"ts=2026-11-20T10:00:00.123Z caller=main.go", at("2026-11-20T10:00:00.123Z")),
        (b'{"level":"info","@timestamp":"2026-11-20T10:00:00.5+02:00"}', at("2026-11-20T10:00:00.5+02:00")),
        (b"2026/11/20 10:00:00 started", at("2026-11-20T10:00:00")),
        (b"2026-11-20 10:00:00,250 INFO x", at("2026-11-20T10:00:00.25")),
        (b'{"ts":1795168800.25,"msg":"x"}', 1795168800.0),
        (b"no time here 12:00", None),
        (b"2026-02-31T10:00:00Z", None),
        (b"\xff\xfe\x00", None),
    ],
)
def test_times_of_lines(line: bytes, time: float | None) -> None:
    assert time_of(line) == time


def test_lines_without_a_time_belong_to_the_one_before() -> None:
    lines = [b"lost\n", b"2026-11-20T10:00:00Z a\n", b"  trace\n", b"2026-11-20T10:00:10Z b\n", b"  trace b\n"]
    assert newer(lines, at("2026-11-20T10:00:05Z")) == lines[3:]
    assert newer(lines, at("2026-11-20T10:00:00Z")) == lines[1:]
    assert newer(lines, at("2026-11-20T10:01:00Z")) == []
    assert newer([b"x\n"], 0) is None
    assert newer([], 0) == []


def test_since_is_a_duration_or_a_time() -> None:
    assert moment("1m30s", 1000.0) == 910.0
    assert moment("2026-11-20T10:00:00Z", 0) == at("2026-11-20T10:00:00Z")
    with pytest.raises(click.UsageError, match="15m"):
        moment("tomorrow", 0)
