"""How exits, waits and stops are put into words."""

from __future__ import annotations

import signal

from daemon.agents.restart import RestartPolicy, Then, Verdict
from daemon.config.schema import AgentConfig, Policy
from daemon.model.agent import ExitStatus


def exit_reason(status: ExitStatus) -> str:
    """``exit code 1``, ``killed by SIGKILL``, or that nobody can tell."""
    if status.signal is not None:
        try:
            name = signal.Signals(status.signal).name
        except ValueError:
            name = f"signal {status.signal}"
        return f"killed by {name}"
    if status.code is not None:
        return f"exit code {status.code}"
    return "ended, its exit status is unknown"


def next_step(verdict: Verdict) -> str:
    """What follows an exit, for the event and the log."""
    if verdict.then is Then.LEAVE:
        return f"left as it is: {verdict.why}"
    if verdict.then is Then.GIVE_UP:
        if verdict.delay_s is None:
            return "given up; `start` tries again"
        return f"given up for now; next try in {verdict.delay_s:g} s, or at once by `start`"
    if not verdict.delay_s:
        return "restarting at once"
    return f"restarting in {verdict.delay_s:g} s ({verdict.why})"


def stopped(reason: str, leftovers: int) -> str:
    """The message of a stop that has ended."""
    if not leftovers:
        return f"stopped: {reason}"
    return f"stopped: {reason}; {leftovers} left-over process(es) ended with it"


def restart_policy(spec: AgentConfig | None) -> RestartPolicy:
    """The restart policy an agent's configuration asks for."""
    if spec is None:
        return RestartPolicy(policy=Policy.NEVER)
    restart = spec.restart
    return RestartPolicy(
        policy=restart.policy,
        max_retries=restart.max_retries,
        backoff_base_s=restart.backoff_base,
        backoff_max_s=restart.backoff_max,
        jitter=restart.jitter,
        slow_retry_s=restart.slow_retry,
        max_restarts_per_hour=restart.max_restarts_per_hour,
    )
