"""Taking agents back when the daemon starts: who among the running processes leads an agent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from daemon.agents.belongings import leader_among
from daemon.agents.metadata import AgentMetadata
from daemon.agents.process import AgentProcess, ProcessOwner
from daemon.agents.spawning import log_owner_test, may_lead, started_with
from daemon.agents.world import AgentWorld
from daemon.errors import AgentStartError
from daemon.model.agent import Identity
from daemon.procfs.identity import identity_of
from daemon.procfs.table import Process, ProcessTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What is left of an agent.

    Attributes:
        process: its leader, under watch from now on; None when none lives.
        others: whether processes live that belong to it but not to that leader.
    """

    process: AgentProcess | None
    others: bool


def find_leader(
    world: AgentWorld, owner: ProcessOwner, metadata: AgentMetadata, spec_hash: str, table: ProcessTable
) -> Found:
    """Adopts the agent's leader: the remembered one by identity, else one that was never saved."""
    writes_to_log = log_owner_test(world, metadata.id)
    if metadata.identity is not None and not is_stranger(metadata, table, writes_to_log):
        process = _adopt(world, owner, metadata, spec_hash, metadata.identity, metadata.run)
        if process is not None:
            return Found(process=process, others=has_strays(metadata, table, process.pid, metadata.run))
    unsaved = unsaved_leader(metadata, table, writes_to_log)
    if unsaved is not None:
        run = run_of(unsaved)
        process = _adopt(world, owner, metadata, spec_hash, identity_of(unsaved.stat), run)
        if process is not None:
            return Found(process=process, others=has_strays(metadata, table, process.pid, run))
    return Found(process=None, others=bool(table.marked(metadata.mark)))


def is_stranger(
    metadata: AgentMetadata, table: ProcessTable, writes_to_log: Callable[[int], bool]
) -> bool:
    """Whether the process the metadata names is visibly none of the agent's: somebody edited the file.

    A leader leads its session for life, and it carries the agent's mark, unless it painted over its
    environment (or we may not read it) or was executed anew with another one, on the agent's log still.
    """
    pid = metadata.identity.pid if metadata.identity is not None else 0
    process = next((p for p in table if p.pid == pid), None)
    if process is None:
        return False  # gone, which adopting finds out
    if process.stat.session != process.pid:
        return True
    if process.mark is not None:
        return process.mark.token != metadata.mark
    return not (process.wiped or process.hidden or writes_to_log(process.pid))


def unsaved_leader(
    metadata: AgentMetadata, table: ProcessTable, writes_to_log: Callable[[int], bool]
) -> Process | None:
    """A leader that a daemon spawned and did not live to save.

    Marked processes of the *remembered* run are survivors of the leader that is gone; those of another
    run come from a spawn that was not saved, and its leader began when the run's token says. A program
    that painted over its environment is told by being a session leader with both streams on the agent's log.
    """
    newer = [p for p in table.marked(metadata.mark) if not metadata.run or run_of(p) != metadata.run]
    leader = leader_among(p for p in newer if may_lead(run_of(p), p.stat.start_ticks))
    if leader is not None:
        return leader
    painted = [p for p in table if p.wiped and p.mark is None and p.stat.session == p.pid]
    return leader_among(p for p in painted if writes_to_log(p.pid))


def run_of(process: Process) -> str:
    """The run a process shows, empty when it shows none."""
    return process.mark.run if process.mark is not None else ""


def has_strays(metadata: AgentMetadata, table: ProcessTable, leader_pid: int, run: str) -> bool:
    """Whether processes of another run live beside the leader; unknown runs are left alone."""
    if not run:
        return False
    marked = table.marked(metadata.mark)
    return any(p.stat.session != leader_pid and run_of(p) != run for p in marked)


def _adopt(
    world: AgentWorld, owner: ProcessOwner, metadata: AgentMetadata, spec_hash: str, identity: Identity,
    run: str,
) -> AgentProcess | None:
    if run == metadata.run and metadata.spec_hash:
        started = metadata.spec_hash
    elif not run or started_with(run, spec_hash):
        started = spec_hash
    else:
        started = f"another than {spec_hash}"
    process = AgentProcess(
        owner, run=run, spec_hash=started, adopted=True,
        started_mono=world.clock.seconds() - world.process_age_s(identity.start_ticks),
    )
    try:
        handle = world.launcher.adopt(process, identity)
    except OSError as error:
        raise AgentStartError(
            f"process {identity.pid} of agent {metadata.id} cannot be watched: {error.strerror}; "
            "raise the limit of open files (ulimit -n, LimitNOFILE=) and start the daemon again"
        ) from error
    if handle is None:
        return None
    process.attach(handle)
    return process
