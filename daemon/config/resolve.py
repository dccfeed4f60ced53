"""What was written, and the defaults, to the final :class:`~daemon.config.schema.Config`; pure but for
the look-up of bare binary names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from daemon.config.legacy import written_agents
from daemon.config.places import CONTROL_SOCKET
from daemon.config.profiles import PROFILES, fill, find_binary, profile_args
from daemon.config.schema import DEFAULT_GRPC_PORT, AgentType, Config, DaemonConfig

_REQUIRED = ("id", "type", "binary_path")


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """The configuration and where its agents stand in the file.

    An agent with a missing or faulty required key is left out; the reader has told of it.

    Attributes:
        paths: such as ``agents[2]``, one for each agent of ``config``, in the same order.
    """

    config: Config
    paths: tuple[str, ...]


def resolve(data: Mapping[str, Any], *, interpreter: str, search_path: str) -> Resolved:
    """Fills everything in.

    Args:
        data: what :class:`daemon.config.read.Reader` found.
        interpreter: where console scripts are looked for first.
        search_path: the PATH bare binary names are looked up on.
    """
    daemon = _daemon(data)
    defaults = data.get("agent_defaults", {})
    written = written_agents(dict(data))
    usable = [(path, agent) for path, agent in written if all(agent.get(key) for key in _REQUIRED)]
    agents = []
    for _, agent in usable:
        binary = find_binary(agent["binary_path"], interpreter=interpreter, search_path=search_path)
        agents.append(_agent(agent, binary, defaults, daemon))
    plain = {
        "daemon": daemon,
        "manager": data.get("manager", {}),
        "agents": agents,
        "collectors": {
            **data.get("collectors", {}),
            "exec": [c for c in data.get("collectors", {}).get("exec", ()) if "name" in c and "command" in c],
        },
        "resources": data.get("resources", {}),
        "update": _update(data.get("update", {}), daemon["work_dir"]),
    }
    config = msgspec.convert(plain, Config)
    return Resolved(config=config, paths=tuple(path for path, _ in usable))


def _daemon(data: Mapping[str, Any]) -> dict[str, Any]:
    written = data.get("daemon", {})
    daemon = {**written, "work_dir": written.get("work_dir") or DaemonConfig().work_dir}
    work_dir = Path(daemon["work_dir"])
    daemon["socket_path"] = daemon.get("socket_path") or str(work_dir / "run/heartbeat.sock")
    daemon["control_socket"] = daemon.get("control_socket") or str(work_dir / CONTROL_SOCKET)
    if "grpc_port" not in daemon:
        wanted = data.get("manager", {}).get("address") or "grpc" in written
        daemon["grpc_port"] = DEFAULT_GRPC_PORT if wanted else 0
    return daemon


def _agent(
    written: Mapping[str, Any], binary: str, defaults: Mapping[str, Any], daemon: Mapping[str, Any]
) -> dict[str, Any]:
    kind = AgentType(written["type"])
    profile = PROFILES[kind]
    work_dir = written.get("work_dir") or str(Path(daemon["work_dir"]) / "agents" / written["id"])
    values = {"binary_path": binary, "config_file": written.get("config_file", ""), "work_dir": work_dir}
    own_health = written.get("health_check", {})
    health = {**profile.health_check, **defaults.get("health_check", {}), **own_health}
    health["command"] = fill(health.get("command", ()), values)
    version_command = written.get("version_command") or profile.version_command
    return {
        **written,
        "binary_path": binary,
        "work_dir": work_dir,
        "socket_path": written.get("socket_path") or daemon["socket_path"],
        "args": fill(written["args"], values) if "args" in written else profile_args(profile, values),
        "version_command": fill(version_command, values),
        "health_check": health,
        "restart": {**defaults.get("restart", {}), **written.get("restart", {})},
        "logs": {**defaults.get("logs", {}), **written.get("logs", {})},
        "heartbeat_from_start": kind is AgentType.CUSTOM and own_health.get("heartbeat_timeout", 0) > 0,
    }


def _update(written: Mapping[str, Any], work_dir: str) -> dict[str, Any]:
    update = dict(written)
    update["download_dir"] = update.get("download_dir") or str(Path(work_dir) / "downloads")
    update["backup_dir"] = update.get("backup_dir") or str(Path(work_dir) / "backups")
    update["allowed_urls"] = [_url_prefix(url) for url in update.get("allowed_urls", ())]
    return update


def _url_prefix(url: str) -> str:
    """The prefix with its host closed by a slash: ``https://host`` must not permit ``https://host.evil``."""
    parts = urlsplit(url)
    return url if parts.path or parts.query or parts.fragment else url + "/"
