"""What follows an unexpected exit without delaying the successor: the report and the left-overs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from daemon.agents.belongings import Belonging, belongs
from daemon.agents.logfile import log_path, log_size, tail
from daemon.agents.process import AgentProcess
from daemon.agents.spawning import log_owner_test
from daemon.agents.world import AgentWorld
from daemon.aio.threads import LaneBusy, LaneTimeout
from daemon.model.agent import ExitStatus
from daemon.model.event import Severity
from daemon.procfs.table import Process, ProcessTable

log = Logger()

TAIL_DEADLINE_S = 10.0
TAIL_LANE = "log-tail"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitReport:
    """An unexpected exit, as the event tells it.

    Attributes:
        lived_s: seconds from spawn to exit.
        announced: the agent said that it was stopping, or it was not wanted: no crash.
        then: what follows, in words.
    """

    process: AgentProcess
    status: ExitStatus
    reason: str
    lived_s: float
    announced: bool
    then: str


Find = Callable[[ProcessTable], list[Process]]


def leftovers(
    world: AgentWorld, agent_id: str, token: str, old: AgentProcess | None,
    current: Callable[[], AgentProcess | None],
) -> Find:
    """Finds what belongs to the agent, its present process and that one's offspring left out.

    Args:
        old: the leader that ended or is being ended; its session counts while its pid is pinned.
        current: the successor at the time of each look, None for none.
    """
    writes_to_log = log_owner_test(world, agent_id)

    def find(table: ProcessTable) -> list[Process]:
        keep = current()
        identity = keep.identity if keep is not None else None
        pinned = old is not None and old.handle is not None and old.handle.pinned
        what = Belonging(
            token=token,
            session=old.pid if old is not None and pinned else 0,
            keep_session=keep.pid if keep is not None else 0,
            keep_run=keep.run if keep is not None else "",
            keep_since_ticks=identity.start_ticks if identity is not None else 0,
            writes_to_log=writes_to_log,
        )
        return [process for process in table.candidates(token, what.session) if belongs(process, what)]

    return find


async def bury(
    world: AgentWorld, agent_id: str, find: Find, report: ExitReport | None
) -> None:
    """Publishes the exit with the log's last lines, ends what was left over, then reaps the leader."""
    ending = Deferred.fromCoroutine(world.terminator.end_all(find))
    try:
        if report is not None:
            await _publish_exit(world, agent_id, report)
        ended = await ending
    finally:
        if report is not None:
            report.process.reap()
    if ended.count:
        world.events.publish(
            "agent.leftovers_ended",
            f"agent {agent_id}: {ended.count} left-over process(es) of an earlier run ended",
            agent_id=agent_id, data={"count": ended.count},
        )
    if ended.left:
        pids = ", ".join(map(str, ended.left))
        world.events.publish(
            "agent.leftovers_stuck",
            f"agent {agent_id}: processes {pids} of an earlier run survive SIGKILL; "
            "they hang in the kernel (ps -o stat,wchan shows where)",
            severity=Severity.WARN, agent_id=agent_id, data={"code": "D3002", "pids": list(ended.left)},
        )


async def _publish_exit(world: AgentWorld, agent_id: str, report: ExitReport) -> None:
    path = log_path(world.logs_dir, agent_id)
    try:
        lines = await world.threads.run(TAIL_LANE, TAIL_DEADLINE_S, tail, path, log_size(path))
    except (LaneBusy, LaneTimeout) as error:
        lines = (f"(the log cannot be read: {error})",)
    word = "ended as announced" if report.announced else "ended"
    world.events.publish(
        "agent.exited",
        f"agent {agent_id} {word} after {report.lived_s:.1f} s: {report.reason}; {report.then}",
        severity=Severity.INFO if report.announced else Severity.WARN,
        agent_id=agent_id,
        data={
            "pid": report.process.pid,
            "code": report.status.code,
            "signal": report.status.signal,
            "reason": report.reason,
            "lived_s": round(report.lived_s, 3),
            "announced": report.announced,
            "last_lines": list(lines),
        },
    )
