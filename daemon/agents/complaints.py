"""The alerts about one agent that is wanted running and does not run as it should.

Each type says another thing, and several may stand together: that no process comes to be, and that for this
reason no quick tries are left. What stood when the daemon ended is raised again by the next one, as it finds
the agent.
"""

from __future__ import annotations

from daemon.interfaces import AlertSink
from daemon.model.agent import LastExit
from daemon.model.event import Severity

GIVEN_UP = "restarts_given_up"  # max_retries are used up
START_FAILED = "start_failed"  # no process comes to be
LEFT_FAILED = "agent_failed"  # it failed, and its restart policy leaves it so
STOP_FAILED = "stop_failed"  # something of it does not end
LIMITED = "restarts_limited"  # max_restarts_per_hour holds its next start back

_DOWN = (START_FAILED, LEFT_FAILED, STOP_FAILED, LIMITED)  # over when it runs, or is not wanted


class Complaints:
    """Raises and ends them.

    Args:
        agent_id: the agent.
        alerts: the one list.
    """

    def __init__(self, agent_id: str, alerts: AlertSink) -> None:
        self._agent_id = agent_id
        self._alerts = alerts
        self._unspawned = False  # the last try made no process

    def gave_up(self, message: str, failures: int) -> None:
        """No quick tries are left."""
        self._raise(GIVEN_UP, message, current_value=float(failures))

    def forgiven(self, why: str) -> None:
        """The failures so far no longer count."""
        self._clear(why, GIVEN_UP)

    def not_spawned(self, message: str) -> None:
        """A try to start it made no process."""
        self._unspawned = True
        self._raise(START_FAILED, message)

    def spawned(self, pid: int) -> None:
        """A process came to be; whether it lives long is another matter."""
        self._unspawned = False
        self._clear(f"pid {pid} was started", START_FAILED)

    def held_back(self, message: str) -> None:
        """Its next start waits for the hour to pass."""
        self._raise(LIMITED, message, severity=Severity.WARN)

    def left_failed(self, last: LastExit | None) -> None:
        """It failed and is left so; where not even a process came to be, that alert stands and says more."""
        if not self._unspawned:
            reason = f"{last.reason}; " if last is not None else ""
            self._raise(LEFT_FAILED, f"{reason}its restart policy leaves it so; `start` runs it again")

    def not_ended(self, message: str) -> None:
        """Something of it survives its stop."""
        self._raise(STOP_FAILED, message)

    def ended(self) -> None:
        """Nothing of its process is left."""
        self._clear("nothing of its process is left", STOP_FAILED)

    def content(self, why: str) -> None:
        """It runs, it ended well, or nobody wants it to run."""
        self._unspawned = False
        self._clear(why, *_DOWN)

    def _raise(
        self, type: str, message: str, *, severity: Severity = Severity.ERROR,
        current_value: float | None = None,
    ) -> None:
        self._alerts.raise_alert(
            type, f"agent {self._agent_id}: {message}", agent_id=self._agent_id, severity=severity,
            current_value=current_value,
        )

    def _clear(self, why: str, *types: str) -> None:
        for type in types:
            self._alerts.clear(type, agent_id=self._agent_id, message=why)
