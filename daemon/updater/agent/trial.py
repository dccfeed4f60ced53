"""What the trial of a new binary, before it is in place, comes to. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from daemon.errors import UpdateApplyError
from daemon.model.agent import BinaryTrial


def judge_trial(trial: BinaryTrial | None, *, agent_id: str, version: str) -> Mapping[str, Any]:
    """Evidence of a trial that speaks for the binary, or at least not against it.

    Args:
        trial: what running its version command came to; None when the agent has none that runs its binary.
        agent_id: whose binary.
        version: what the package says it is. A program that prints another one is told of, not refused:
            many print that of a library, or none.

    Raises:
        UpdateApplyError: D4003, it does not execute, does not end or is killed by a signal.
    """
    if trial is None:
        return {"preflight": "skipped: the agent has no version_command that runs its binary"}
    if trial.error:
        raise UpdateApplyError(
            f"version {version} of {agent_id} does not execute here: {trial.error}; "
            "build it for this host's architecture and libraries",
            evidence=msgspec.to_builtins(trial),
        )
    if trial.timed_out or trial.status.signal is not None:
        how = "does not end" if trial.timed_out else f"is killed by signal {trial.status.signal}"
        raise UpdateApplyError(
            f"version {version} of {agent_id} {how} when it is asked for its version; "
            "run its version command by hand to see why",
            evidence=msgspec.to_builtins(trial),
        )
    return {
        "preflight": "executed", "exit_code": trial.status.code, "printed_version": trial.version,
        "version_differs": bool(trial.version) and trial.version != version,
    }
