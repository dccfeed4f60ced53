"""Frames of the event stream."""

from __future__ import annotations

import json

import msgspec
import pytest

from daemon.events.stream import Gap
from daemon.model.event import Event, Severity
from daemon.web.bodies import event_body
from daemon.web.sse import frame

EVENT = Event(
    id="5-7", at=1_700_000_000.25, type="agent.exited", severity=Severity.WARN, agent_id="web",
    message="it\nended", data={"code": 1},
)


def test_an_event_is_one_frame_with_id_type_and_one_data_line() -> None:
    lines = frame(EVENT).decode().split("\n")
    assert lines[0] == "id: 5-7"
    assert lines[1] == "event: agent.exited"
    assert lines[2].startswith("data: ")
    assert lines[3:] == ["", ""]
    assert json.loads(lines[2].removeprefix("data: ")) == msgspec.to_builtins(event_body(EVENT))


def test_a_body_has_all_keys_even_where_the_event_says_nothing() -> None:
    assert msgspec.to_builtins(event_body(Event(id="1-1", at=0.0, type="x"))) == {
        "id": "1-1", "at": "1970-01-01T00:00:00.000Z", "type": "x", "severity": "info", "agent_id": None,
        "message": "", "data": {},
    }


@pytest.mark.parametrize("lost", [3, None])
def test_a_gap_has_no_id_so_that_resuming_stays_right(lost: int | None) -> None:
    text = frame(Gap(after="5-7", lost=lost)).decode()
    assert text.startswith("event: gap\ndata: ")
    assert "\nid:" not in text
    assert text.endswith("\n\n")
    assert json.loads(text.split("data: ")[1]) == {"after": "5-7", "lost": lost}


def test_no_text_breaks_out_of_its_frame() -> None:
    hostile = Event(
        id="1-1", at=0.0, type="x", message="a\r\nb\n\nid: 9\u2028\u2029", data={"k\n": "\r\n\r\ndata: y"},
    )
    data = frame(hostile)
    assert data.count(b"\n\n") == 1 and b"\r" not in data
