"""``hostctl pid``, as supervisorctl has it: the number alone, for ``kill "$(hostctl pid web)"``."""

from __future__ import annotations

import click

from daemon.cli.agents import reason, unknown_agent
from daemon.cli.faults import CliFault, Exit
from daemon.cli.options import agent_ids, command
from daemon.cli.session import Session


@command("pid")
@click.argument("agent_id", metavar="[ID]", required=False, shell_complete=agent_ids)
def pid_command(session: Session, agent_id: str | None) -> int:
    """Prints the pid of the daemon, or of an agent.

    Ends with 3 where the agent has no process.
    """
    if agent_id is None:
        pid = session.client.get("/v1/node")["pid"]
    else:
        views = {view["id"]: view for view in session.client.get("/v1/agents")["agents"]}
        if agent_id not in views:
            raise unknown_agent(agent_id, list(views))
        pid = views[agent_id]["pid"]
        if not pid:
            raise CliFault(
                f"{agent_id} has no process: {reason(views[agent_id])}",
                hint=f"hostctl status {agent_id}; hostctl start {agent_id}", status=Exit.UNWELL,
            )
    session.emit({"pid": pid}, lambda: f"{pid}\n")
    return Exit.OK
