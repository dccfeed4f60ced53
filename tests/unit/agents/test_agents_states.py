"""The state table: complete, and without a way into or out of nowhere."""

from __future__ import annotations

import itertools

import pytest

from daemon.agents.states import TRANSITIONS, may_follow
from daemon.model.agent import AgentState

S = AgentState
FORBIDDEN = {
    (S.STARTING, S.STARTING),
    (S.RUNNING, S.STARTING),  # a successor starts from restarting, stopped or failed
    (S.STOPPING, S.STARTING), (S.STOPPING, S.RUNNING), (S.STOPPING, S.RESTARTING),
    (S.RESTARTING, S.RUNNING),
    (S.FAILED, S.RUNNING),
}


def test_every_state_has_a_row_and_the_names_are_the_wires() -> None:
    assert set(TRANSITIONS) == set(S)
    assert [s.value for s in S] == ["stopped", "starting", "running", "stopping", "restarting", "failed"]


@pytest.mark.parametrize(("old", "new"), list(itertools.product(S, S)))
def test_every_pair_is_allowed_or_forbidden_on_purpose(old: AgentState, new: AgentState) -> None:
    assert may_follow(old, new) == (old is not new and (old, new) not in FORBIDDEN)


def test_no_state_is_a_dead_end_and_all_can_be_reached_from_stopped() -> None:
    reached, todo = {S.STOPPED}, [S.STOPPED]
    while todo:
        for new in TRANSITIONS[todo.pop()] - reached:
            reached.add(new)
            todo.append(new)
    assert reached == set(S)
    assert all(TRANSITIONS[state] for state in S)
    assert all(S.STOPPED in TRANSITIONS[state] for state in S if state is not S.STOPPED)
