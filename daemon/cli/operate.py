"""``hostctl start``, ``stop`` and ``restart``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import click

from daemon.cli.agents import explained_404
from daemon.cli.client import OPERATION_S, Client, segment
from daemon.cli.faults import CliFault, Exit
from daemon.cli.options import agent_ids, command
from daemon.cli.session import Session
from daemon.cli.words import printable

AT_ONCE = 8  # each waits for its outcome, which may take as long as an agent's stop_timeout
_DOING = {"start": "starting", "stop": "stopping", "restart": "restarting"}
Result = dict[str, Any]


def _with_targets(function: Callable[..., Any]) -> Callable[..., Any]:
    function = click.option("--all", "everything", is_flag=True, help="Every enabled agent.")(function)
    return click.argument("ids", nargs=-1, metavar="ID...", shell_complete=agent_ids)(function)


_force = click.option("--force", is_flag=True, help="SIGKILL at once, instead of stop_signal and patience.")


@command("start")
@_with_targets
def start_command(session: Session, ids: tuple[str, ...], everything: bool) -> int:
    """Starts agents, and waits until they run.

    Until each has lived its start_seconds. They stay wanted, over restarts of the daemon too.
    """
    return _operate(session, "start", ids, everything, force=False)


@command("stop")
@_with_targets
@_force
def stop_command(session: Session, ids: tuple[str, ...], everything: bool, force: bool) -> int:
    """Stops agents, and waits until nothing is left of them.

    They stay stopped, over restarts of the daemon too.
    """
    return _operate(session, "stop", ids, everything, force=force)


@command("restart")
@_with_targets
@_force
def restart_command(session: Session, ids: tuple[str, ...], everything: bool, force: bool) -> int:
    """Restarts agents, at once and uncounted."""
    return _operate(session, "restart", ids, everything, force=force)


def _operate(session: Session, verb: str, ids: Sequence[str], everything: bool, *, force: bool) -> int:
    if bool(ids) == everything:
        raise click.UsageError(f"name agents, or all of them: hostctl {verb} ID..., or hostctl {verb} --all")
    wanted = tuple(dict.fromkeys(ids))
    query: dict[str, object] = {"graceful": False} if force else {}
    doing = f"{_DOING[verb]} {', '.join(wanted) or 'every agent'}; Ctrl-C leaves it to the daemon"
    try:
        with session.busy(doing):
            results = _all(session, verb, query) if everything else _each(session, verb, wanted, query)
    except KeyboardInterrupt:
        session.say(f"the daemon carries on with the {verb}; hostctl status shows what became of it")
        raise
    session.emit({"results": results}, lambda: "".join(outcome(*item) for item in results.items()))
    sys.stdout.flush()
    if not results and session.human:
        session.say("no agent is enabled; hostctl status shows those that are configured")
    told: dict[tuple[str, str], list[str]] = {}  # a daemon that is away is one fault, not one for each agent
    for name, result in results.items():
        for warning in result.get("warnings", ()):
            session.say(f"{name}: {warning}")
        if not result["success"]:
            hint = result.get("hint") or f"hostctl status {name}; hostctl logs {name}"
            told.setdefault((result["error"], hint), []).append(name)
    for (error, hint), names in told.items():
        session.fail(f"{', '.join(names)}: {error}", hint)
    return worst(results)


def worst(results: dict[str, Result]) -> int:
    """The exit status: a failure says more than an unknown name."""
    failed = [result.get("status", Exit.FAILED) for result in results.values() if not result["success"]]
    return int(min(failed)) if failed else Exit.OK


def outcome(name: str, result: Result) -> str:
    """One line for stdout; nothing for what failed, which is told on stderr."""
    if not result["success"]:
        return ""
    agent = result.get("agent") or {}
    state = agent.get("status", "done")
    pid = f", pid {agent['pid']}" if agent.get("pid") else ""
    message = f" ({result['message']})" if result.get("message") else ""
    return f"{printable(name)}: {printable(state)}{pid}{printable(message)}\n"


def _all(session: Session, verb: str, query: dict[str, object]) -> dict[str, Result]:
    # No bound of our own: the daemon waits for the slowest agent.
    answer = session.client.ask("POST", f"/v1/agents/{verb}", query, None, timeout_s=3600.0)[1]
    views = {view["id"]: view for view in session.client.get("/v1/agents")["agents"]}
    return {
        name: {"success": result["success"], "error": result["error"] or None, "agent": views.get(name)}
        for name, result in answer["results"].items()
    }


def _each(session: Session, verb: str, ids: Sequence[str], query: dict[str, object]) -> dict[str, Result]:
    if len(ids) == 1:
        return {ids[0]: _one(session.client, verb, ids[0], query)}
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        found = list(pool.map(partial(_one, session.client, verb, query=query), ids))
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()
    return dict(zip(ids, found, strict=True))


def _one(client: Client, verb: str, agent_id: str, query: dict[str, object]) -> Result:
    """One agent's outcome; what failed is part of it, so that the others are told too."""
    try:
        with explained_404(client, agent_id):
            path = f"/v1/agents/{segment(agent_id)}/{verb}"
            view = client.ask("POST", path, query, None, OPERATION_S)[1]
    except CliFault as fault:
        return {
            "success": False, "error": fault.message, "hint": fault.hint, "status": int(fault.status),
            "agent": None,
        }
    warnings, message = view.pop("warnings", []), view.pop("message", None)
    return {"success": True, "error": None, "message": message, "warnings": warnings, "agent": view}
