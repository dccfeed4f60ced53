"""The words operators read about exits and what follows."""

from __future__ import annotations

import pytest

from daemon.agents import messages
from daemon.agents.restart import RestartPolicy, Then, Verdict
from daemon.config.schema import AgentConfig, AgentType, Policy, RestartConfig
from daemon.model.agent import ExitStatus


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (ExitStatus(code=0), "exit code 0"),
        (ExitStatus(code=1), "exit code 1"),
        (ExitStatus(signal=9), "killed by SIGKILL"),
        (ExitStatus(signal=15), "killed by SIGTERM"),
        (ExitStatus(signal=63), "killed by signal 63"),
        (ExitStatus(), "ended, its exit status is unknown"),
    ],
)
def test_an_exit_is_told_by_code_signal_or_as_unknown(status: ExitStatus, text: str) -> None:
    assert messages.exit_reason(status) == text


@pytest.mark.parametrize(
    ("verdict", "text"),
    [
        (Verdict(then=Then.LEAVE, delay_s=None, why="restart policy never"), "left as it is: restart policy never"),
        (Verdict(then=Then.GIVE_UP, delay_s=None, why="x"), "given up; `start` tries again"),
        (
            Verdict(then=Then.GIVE_UP, delay_s=900.0, why="x"),
            "given up for now; next try in 900 s, or at once by `start`",
        ),
        (Verdict(then=Then.RETRY, delay_s=0.0, why="exit 1 in a row"), "restarting at once"),
        (
            Verdict(then=Then.RETRY, delay_s=12.5, why="exit 2 in a row"),
            "restarting in 12.5 s (exit 2 in a row)",
        ),
    ],
)
def test_what_follows_is_told_with_its_time(verdict: Verdict, text: str) -> None:
    assert messages.next_step(verdict) == text


def test_a_stop_tells_how_many_leftovers_ended_with_it() -> None:
    assert messages.stopped("asked", 0) == "stopped: asked"
    assert messages.stopped("asked", 2) == "stopped: asked; 2 left-over process(es) ended with it"


def test_the_policy_is_the_configurations_and_never_without_one() -> None:
    restart = RestartConfig(
        policy=Policy.ON_FAILURE, max_retries=3, backoff_base=1.0, backoff_max=2.0, jitter=0.5,
        slow_retry=4.0, max_restarts_per_hour=5,
    )
    spec = AgentConfig(id="a", type=AgentType.CUSTOM, binary_path="/bin/true", restart=restart)
    assert messages.restart_policy(spec) == RestartPolicy(
        policy=Policy.ON_FAILURE, max_retries=3, backoff_base_s=1.0, backoff_max_s=2.0, jitter=0.5,
        slow_retry_s=4.0, max_restarts_per_hour=5,
    )
    assert messages.restart_policy(None).policy is Policy.NEVER
