"""Events, and the other values whose spelling is the wire's."""

from __future__ import annotations

import msgspec
import pytest

from daemon.model.agent import AgentState, ExitStatus, HealthStatus
from daemon.model.event import Event, Severity, event_order


@pytest.mark.parametrize(
    ("event_id", "order"),
    [("1-2", (1, 2)), ("1764000000-42", (1764000000, 42)), ("0-0", (0, 0)), ("01-2", (1, 2))],
)
def test_an_id_sorts_by_epoch_then_number(event_id: str, order: tuple[int, int]) -> None:
    assert event_order(event_id) == order


def test_order_is_numeric_not_textual() -> None:
    assert event_order("9-100") < event_order("10-9") < event_order("10-10")


@pytest.mark.parametrize(
    "junk", ["", "-", "1", "1-", "-1", "1-2-3", "1--2", "a-b", "1-²", "١-٢", " 1-2", "1-2\n", "+1-2", "1_0-2",
             "9" * 5000 + "-1"],
)
def test_junk_is_no_id(junk: str) -> None:
    with pytest.raises(ValueError, match=r"event id|digits"):
        event_order(junk)


def test_an_event_round_trips_and_leaves_defaults_out() -> None:
    full = Event(id="1-2", at=3.5, type="agent.exited", severity=Severity.WARN, agent_id="a", message="m",
                 data={"code": 1, "lines": ["x"]})
    bare = Event(id="1-2", at=3.5, type="agent.exited")
    assert msgspec.json.decode(msgspec.json.encode(full), type=Event) == full
    assert msgspec.json.encode(bare) == b'{"id":"1-2","at":3.5,"type":"agent.exited"}'
    assert msgspec.json.decode(msgspec.json.encode(bare), type=Event) == bare


def test_an_event_of_a_later_version_is_still_read() -> None:
    line = b'{"id":"1-2","at":3.5,"type":"t","colour":"red"}'
    assert msgspec.json.decode(line, type=Event) == Event(id="1-2", at=3.5, type="t")


def test_events_do_not_share_their_default_data() -> None:
    one, two = Event(id="1-1", at=0, type="t"), Event(id="1-2", at=0, type="t")
    assert one.data is not two.data


@pytest.mark.parametrize(
    ("kind", "spelling"),
    [
        (AgentState, "stopped starting running stopping restarting failed"),
        (HealthStatus, "healthy starting dead no_heartbeat over_threshold endpoint_failed"),
        (Severity, "info warn error"),
    ],
)
def test_states_are_spelled_as_on_the_wire(kind: type, spelling: str) -> None:
    assert [member.value for member in kind] == spelling.split()


@pytest.mark.parametrize(
    ("status", "known", "clean"),
    [
        (ExitStatus(code=0), True, True),
        (ExitStatus(code=1), True, False),
        (ExitStatus(signal=9), True, False),
        (ExitStatus(), False, False),
    ],
)
def test_an_unknown_exit_counts_as_a_failure(status: ExitStatus, known: bool, clean: bool) -> None:
    assert (status.known, status.clean) == (known, clean)
