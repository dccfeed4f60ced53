"""The written form of the configuration: what a file may say, beside what it comes to.

The sections are those of :mod:`daemon.config.schema`; this adds ``agent_defaults`` and the legacy
``agent``. The Structs here only describe keys to the reader and the JSON schema; nobody makes one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from daemon.config.keys import Key, Kind
from daemon.config.schema import (
    AgentConfig,
    CollectorsConfig,
    DaemonConfig,
    HealthCheckConfig,
    LogsConfig,
    ManagerConfig,
    ResourcesConfig,
    RestartConfig,
    Section,
    UpdateConfig,
)


class AgentDefaults(Section, frozen=True, kw_only=True):
    """What an agent does not say itself; beats the type's profile."""

    health_check: Annotated[HealthCheckConfig, Key(live=True, about="of every agent")] = HealthCheckConfig()
    restart: Annotated[RestartConfig, Key(live=True, about="of every agent")] = RestartConfig()
    logs: Annotated[LogsConfig, Key(live=True, about="of every agent")] = LogsConfig()


class LegacyAgent(Section, frozen=True, kw_only=True):
    """The single agent of older files: id ``agent``, type ``custom``."""

    binary_path: Annotated[str, Key(kind=Kind.BINARY, about="a bare name is looked up on PATH")]
    args: Annotated[tuple[str, ...], Key(kind=Kind.WORD, about="the arguments")] = ()
    env: Annotated[Mapping[str, str], Key(about="added to the small explicit environment")] = {}
    work_dir: Annotated[str, Key(kind=Kind.PATH, about="default {daemon.work_dir}/agents/agent")] = ""
    config_file: Annotated[str, Key(kind=Kind.PATH, about="the agent's own configuration")] = ""
    socket_path: Annotated[str, Key(kind=Kind.PATH, about="heartbeat socket; default the daemon's")] = ""
    health_check: Annotated[HealthCheckConfig, Key(live=True, about="how health is judged")] = (
        HealthCheckConfig()
    )
    restart: Annotated[RestartConfig, Key(live=True, about="when it is restarted")] = RestartConfig()


class Document(Section, frozen=True, kw_only=True):
    """A configuration file."""

    daemon: Annotated[DaemonConfig, Key(about="the daemon itself")] = DaemonConfig()
    manager: Annotated[ManagerConfig, Key(about="the link to the Manager")] = ManagerConfig()
    agents: Annotated[tuple[AgentConfig, ...], Key(about="the agents")] = ()
    agent_defaults: Annotated[AgentDefaults, Key(about="what an agent does not say itself")] = AgentDefaults()
    agent: Annotated[LegacyAgent | None, Key(about="one agent, in the form of older files")] = None
    collectors: Annotated[CollectorsConfig, Key(about="what is measured of the host")] = CollectorsConfig()
    resources: Annotated[ResourcesConfig, Key(about="the history of what agents use")] = ResourcesConfig()
    update: Annotated[UpdateConfig, Key(about="signed updates")] = UpdateConfig()
