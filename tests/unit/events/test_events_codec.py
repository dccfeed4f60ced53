"""Events as lines: whatever a publisher says becomes a bounded line that reads back."""

from __future__ import annotations

import os
from collections import UserDict
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from daemon.errors import RequestError, RequestFault
from daemon.events.codec import (
    MAX_EVENT_BYTES,
    decode_event,
    decode_order,
    encode_event,
    format_order,
    parse_event_id,
)
from daemon.model.event import Event


class Colour(Enum):
    RED = "red"


class Foreign:
    def __str__(self) -> str:
        raise AssertionError("foreign code must not be called")

    __repr__ = __str__


def event(**fields: Any) -> Event:
    return Event(**({"id": "7-1", "at": 1.5, "type": "t"} | fields))


def test_an_ordinary_event_is_unchanged_and_shares_nothing_with_the_publisher() -> None:
    data = {"code": 1, "lines": ["x"]}
    kept, line = encode_event(event(message="m", data=data))
    data["lines"].append("later")  # type: ignore[attr-defined]  # it is a list
    assert kept == event(message="m", data={"code": 1, "lines": ["x"]})
    assert decode_event(line) == kept
    assert decode_order(line) == (7, 1)
    assert b"\n" not in line


CYCLE: dict[str, Any] = {}
CYCLE["self"] = CYCLE
DEEP: list[Any] = []
for _level in range(100_000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (float("nan"), None),
        (float("inf"), None),
        (2**63 - 1, 2**63 - 1),
        (-(2**70), -(2**70)),
        ([10**5000], [hex(10**5000)]),
        ([object(), 2**70], ["<object>", 2**70]),
        ("a\nb\0\x7f", "a\nb\0\x7f"),
        ("\udcff", "\\udcff"),
        (Path("/x"), "/x"),
        (Path(os.fsdecode(b"/\xff")), "/\\udcff"),
        (Foreign(), "<Foreign>"),
        (object, "<type>"),
        (Colour.RED, "red"),
        ((1, 2), [1, 2]),
        (frozenset({1}), [1]),
        (MappingProxyType({"a": 1}), {"a": 1}),
        (UserDict({"a": {1: 2}}), {"a": {"1": 2}}),
    ],
)
def test_what_json_cannot_say_is_replaced(value: Any, kept: Any) -> None:
    got, line = encode_event(event(data={"value": value}))
    assert got.data == {"value": kept}
    assert decode_event(line) == got


@pytest.mark.parametrize(
    "data",
    [CYCLE, {"deep": DEEP}, {Foreign(): Foreign()}, {b"k": b"\xff"}, {10**5000: 1}, {"n": [[10**5000]]}],
)
def test_hostile_data_still_gives_an_event(data: Any) -> None:
    got, line = encode_event(event(data=data))
    assert (got.id, got.type) == ("7-1", "t")
    assert decode_event(line) == got


def test_data_that_is_no_mapping_is_dropped_and_bytes_are_readable() -> None:
    inner = {b"a": bytearray(b"ok\xff"), None: 1, 2.5: 1, (1,): 1}
    got, _line = encode_event(event(data=MappingProxyType({"k": inner})))
    assert got.data == {"k": {"a": "ok\\xff", "None": 1, "2.5": 1, "<tuple>": 1}}
    assert encode_event(event(data=Foreign()))[0].data == {}


def test_undecodable_log_text_in_the_message_is_escaped() -> None:
    assert encode_event(event(message="bad \udc80", agent_id="\udc81"))[0] == event(
        message="bad \\udc80", agent_id="\\udc81"
    )


def test_long_texts_are_cut_rather_than_lost() -> None:
    lines = ["x" * 5000 for _ in range(20)]
    got, line = encode_event(event(message="m" * 100_000, data={"code": 9, "lines": lines}))
    assert len(line) <= MAX_EVENT_BYTES
    assert got.message == "m" * 1024
    assert got.data["code"] == 9
    assert got.data["lines"] == ["x" * 512] * 20
    assert got.data["truncated"] is True


@pytest.mark.parametrize(
    "fields",
    [
        {"data": {"lines": ["\x01" * 600] * 20}},
        {"data": {"many": list(range(100_000))}},
        {"data": {"k" * 100_000: 1}},
        {"message": "\x01" * 1_000_000, "type": "t" * 100_000, "agent_id": "\x01" * 100_000},
    ],
)
def test_every_event_fits(fields: dict[str, Any]) -> None:
    got, line = encode_event(event(**fields))
    assert len(line) <= MAX_EVENT_BYTES
    assert got.data["truncated"] is True
    assert decode_event(line) == got


@pytest.mark.parametrize(
    "line",
    [b"", b"null", b"[]", b"{}", b"\xff\xfe", b'{"id":"x","at":1,"type":"t"}', b'{"id":1,"at":1,"type":"t"}',
     b'{"id":"1-1","at":"x","type":"t"}', b'{"id":"1-1","at":1,"type":"t","severity":"dire"}', b"[" * 100_000,
     b'{"id":"\xff-1","at":1,"type":"t"}'],
)
def test_a_line_that_is_no_event_is_told_apart(line: bytes) -> None:
    assert decode_event(line) is None


@pytest.mark.parametrize("line", [b"", b"{}", b'{"id":"x"}', b'{"id":5}', b"\xff", b"[" * 100_000])
def test_a_line_without_an_id_has_no_order(line: bytes) -> None:
    assert decode_order(line) is None


@pytest.mark.parametrize(
    "text", ["", "x", "1", "1-", "-1", "1-2-3", "1-²", "\udcff-1", "x" * 100_000, "9" * 9000 + "-1"]
)
def test_a_bad_id_is_the_requests_fault_and_is_not_echoed_at_length(text: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_event_id(text)
    assert caught.value.fault is RequestFault.INVALID
    assert len(caught.value.message) < 150


def test_an_order_and_its_id_convert_both_ways() -> None:
    assert parse_event_id("12-34") == (12, 34)
    assert format_order((12, 34)) == "12-34"
