"""What this process uses, and the heartbeat's own form."""

from __future__ import annotations

import json
import os

import msgspec
import pytest
from twisted.internet.task import Clock

from daemon.agentkit.message import HeartbeatMessage, encode
from daemon.agentkit.usage import OwnUsage, Usage, cpu_percent, parse_statm, read_statm
from daemon.model.moment import rfc3339


@pytest.mark.parametrize(
    ("cpu_s", "elapsed_s", "want"), [(1, 2, 50), (3, 1, 300), (0, 5, 0), (1, 0, 0), (1, -1, 0), (-1, 1, 0)]
)
def test_cpu_is_percent_of_one_core(cpu_s: float, elapsed_s: float, want: float) -> None:
    assert cpu_percent(cpu_s, elapsed_s) == want


def test_statm_counts_pages() -> None:
    assert parse_statm("9000 25 3 1 0 7 0\n", 4096) == 102400


@pytest.mark.parametrize("text", ["", "1", "1 x", "1 -2", "1 ²"])
def test_what_is_no_statm_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="statm"):
        parse_statm(text, 4096)


def test_our_own_statm_is_believable() -> None:
    rss = parse_statm(read_statm(), os.sysconf("SC_PAGE_SIZE"))
    assert 5_000_000 < rss < 5_000_000_000


def test_percent_covers_the_window_since_the_sample_before() -> None:
    clock = Clock()
    cpu = [10.0]
    usage = OwnUsage(clock, cpu_seconds=lambda: cpu[0], statm=lambda: "1 2", page_bytes=10)
    assert usage.sample() == Usage(cpu_percent=0.0, rss_bytes=20, cpu_seconds_total=10.0)
    clock.advance(10)
    cpu[0] = 15.0
    assert usage.sample().cpu_percent == 50.0
    clock.advance(10)
    assert usage.sample().cpu_percent == 0.0
    assert usage.last.cpu_seconds_total == 15.0


def test_a_window_under_a_second_keeps_the_value_and_goes_on() -> None:
    clock = Clock()
    cpu = [0.0]
    usage = OwnUsage(clock, cpu_seconds=lambda: cpu[0], statm=lambda: "1 2", page_bytes=1)
    clock.advance(2)
    cpu[0] = 1.0
    assert usage.sample().cpu_percent == 50.0
    clock.advance(0.5)
    cpu[0] = 1.5
    assert usage.sample().cpu_percent == 50.0
    clock.advance(0.5)
    assert usage.sample().cpu_percent == pytest.approx(50.0)


def test_memory_that_cannot_be_read_keeps_its_last_value() -> None:
    texts = ["1 7", None, "rubbish"]

    def statm() -> str:
        text = texts.pop(0)
        if text is None:
            raise PermissionError
        return text

    usage = OwnUsage(Clock(), cpu_seconds=lambda: 0.0, statm=statm, page_bytes=1)
    assert [usage.sample().rss_bytes for _ in range(3)] == [7, 7, 7]


def test_a_message_is_one_line_of_json_in_the_protocols_order() -> None:
    message = HeartbeatMessage(
        pid=1, timestamp=rfc3339(0.5), version="a\nb", status="running", cpu=1.5, memory=1048576
    )
    raw = encode(message)
    assert raw.endswith(b"}\n")
    assert raw.count(b"\n") == 1
    assert list(json.loads(raw)) == ["pid", "timestamp", "version", "status", "cpu", "memory"]
    assert json.loads(encode(msgspec.structs.replace(message, agent_id="a")))["agent_id"] == "a"


def test_times_are_rfc_3339_in_utc() -> None:
    assert rfc3339(1795214099.25) == "2026-11-20T22:34:59.250Z"
