"""What is a heartbeat and what is not."""

from __future__ import annotations

import json

import pytest

from daemon.heartbeat.message import BadMessageError, BeatReader
from daemon.heartbeat.stats import Reason
from daemon.model.heartbeat import Heartbeat

NOW = 1_800_000_000.0
GO = "2026-11-20T10:00:00.123456789+08:00"
FULL = (
    b'{"agent_id":"a","pid":7,"timestamp":"2026-11-20T10:00:00.123456789+08:00","version":"1.0.0",'
    b'"status":"running","cpu":1.5,"memory":1048576}'
)


def reader() -> BeatReader:
    return BeatReader(lambda: NOW, 4)


def read(text: bytes) -> Heartbeat:
    return reader().heartbeat(reader().read(text))


def posted(**changes: object) -> bytes:
    body = {"agent_id": "a", "pid": 7, "status": "running", "cpu": 1.5, "memory": 1, "timestamp": GO}
    return json.dumps({key: value for key, value in (body | changes).items() if value != "absent"}).encode()


def test_a_heartbeat_of_a_go_agent_is_read_whole() -> None:
    beat = read(FULL)
    assert beat == Heartbeat(
        pid=7, timestamp=pytest.approx(1795140000.123457), version="1.0.0", status="running", cpu=1.5,
        memory=1048576,
    )


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2026-11-20T02:00:00Z", 1795140000.0),
        ("2026-11-20T02:00:00.5Z", 1795140000.5),
        ("2026-11-19T22:00:00-04:00", 1795140000.0),
        ("1970-01-01T00:00:00Z", 0.0),
    ],
)
def test_timestamps_keep_their_zone(text: str, at: float) -> None:
    assert read(b'{"pid":7,"timestamp":"%s"}' % text.encode()).timestamp == at
    beat = reader().heartbeat(reader().read_posted(posted(timestamp=text)))
    assert beat.timestamp == at


@pytest.mark.parametrize(
    "timestamp",
    [
        "absent", None, "", "yesterday", "2026-11-20T10:00:00", "2026-13-45T99:00:00Z", 1795140000, True, {},
        [1, {"a": 2}], "0001-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59", "1969-12-31T23:59:59Z",
    ],
)
def test_a_missing_or_unreadable_timestamp_is_replaced_by_our_clock(timestamp: object) -> None:
    text = posted(timestamp=timestamp)
    assert read(text).timestamp == NOW
    assert reader().heartbeat(reader().read_posted(text)).timestamp == NOW


def test_the_socket_asks_for_the_pid_alone() -> None:
    beat = read(b'{"pid":7,"cpu":null,"memory":null,"agent_id":null,"unheard":[1,{"of":2}]}')
    assert beat == Heartbeat(pid=7, timestamp=NOW)


@pytest.mark.parametrize("cpu", [400.1, 1e9, 1e300, 99999999999999999999])
def test_absurd_cpu_is_cut_down_to_all_cores(cpu: float) -> None:
    assert read(posted(cpu=cpu)).cpu == 400.0
    assert read(posted(cpu=399.5)).cpu == 399.5


@pytest.mark.parametrize(
    "text",
    [
        b"", b"hello", b"{", b'{"pid":7', b'{"pid":7}x', b'{"pid":7,}', b"\x00\xff\xfe", b"\xef\xbb\xbf{}",
        b'{"pid":NaN}', b'{"pid":7,"cpu":Infinity}', b'{"pid":7,"cpu":-}', b'{"pid":7,"version":"\xff"}',
        b'{"pid":7,"version":"\\ud800"}', b'{"pid":7,"x":' + b"[" * 16000 + b"]" * 16000 + b"}",
        b'{"pid":7,"x":' + b'{"a":' * 3000 + b"1" + b"}" * 3001, b'{"pid":7,"x":' + b"[" * 16000,
        b'{"pid":7,"timestamp":' + b"[" * 5000 + b"]" * 5000 + b"}",
    ],
    ids=range(17),
)
def test_what_is_no_json_is_malformed(text: bytes) -> None:
    with pytest.raises(BadMessageError) as caught:
        reader().read(text)
    assert caught.value.reason is Reason.MALFORMED
    assert caught.value.message


WRONG = [
    {"pid": "absent"}, {"pid": None}, {"pid": 0}, {"pid": -1}, {"pid": True}, {"pid": "7"}, {"pid": 7.5},
    {"pid": 2**31}, {"pid": 10**30}, {"pid": [7]}, {"cpu": -0.1}, {"cpu": "1"}, {"cpu": True}, {"cpu": {}},
    {"memory": -1}, {"memory": 1.5}, {"memory": "1"}, {"memory": False}, {"memory": 2**63},
    {"memory": 10**4000}, {"version": 1}, {"version": "x" * 257}, {"status": 1}, {"status": "x" * 257},
    {"agent_id": 7}, {"agent_id": "x" * 257},
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_wrong_types_and_values_out_of_range_are_invalid(wrong: dict[str, object]) -> None:
    for read_one in (reader().read, reader().read_posted):
        with pytest.raises(BadMessageError) as caught:
            read_one(posted(**wrong))
        assert caught.value.reason is Reason.INVALID
        assert next(iter(wrong)) in caught.value.message


@pytest.mark.parametrize("text", [b"[]", b"7", b"null", b'"pid"', b"[" * 15000, b'{"pid":7,"cpu":1e400}'])
def test_json_that_is_no_heartbeat_is_invalid(text: bytes) -> None:
    with pytest.raises(BadMessageError) as caught:
        reader().read(text)
    assert caught.value.reason is Reason.INVALID


@pytest.mark.parametrize("field", ["agent_id", "pid", "status", "cpu", "memory"])
@pytest.mark.parametrize("value", ["absent", None])
def test_a_posted_heartbeat_names_everything(field: str, value: object) -> None:
    with pytest.raises(BadMessageError, match=field):
        reader().read_posted(posted(**{field: value}))


@pytest.mark.parametrize("field", ["agent_id", "status"])
def test_a_posted_heartbeat_leaves_no_name_empty(field: str) -> None:
    with pytest.raises(BadMessageError, match=field):
        reader().read_posted(posted(**{field: ""}))


def test_lines_are_read_at_once() -> None:
    lines = FULL + b"\n" + b'{"pid":8}\n'
    beats = reader().read_lines(lines)
    assert beats is not None
    assert [beat.pid for beat in beats] == [7, 8]


@pytest.mark.parametrize(
    "lines",
    [
        FULL + b"\nrubbish\n",
        b'{"pid":\n7}\n',
        b'{"pid":7}{"pid":\n8}\n',
        b'{"pid":7,"x":\n{}}{"pid":8}\n',
        FULL + b"\n\n",
        b" " + FULL + b"\n",
        FULL + b'\n{"pid":0}\n',
        b'{"pid":7,"version":"\xff"}\n',
        b'{"pid":7,"x":' + b"[" * 5000 + b"]" * 5000 + b"}\n",
        b'{"jsonrpc":"2.0","method":"ping","pid":7}\n',
        b"\n",
        b"",
    ],
    ids=range(12),
)
def test_lines_that_are_not_all_plain_heartbeats_are_looked_at_one_by_one(lines: bytes) -> None:
    assert reader().read_lines(lines) is None


def test_lines_may_hold_several_objects_each() -> None:
    beats = reader().read_lines(b'{"pid":7}{"pid":8}\n{"pid":9}\n')
    assert beats is not None
    assert [beat.pid for beat in beats] == [7, 8, 9]
