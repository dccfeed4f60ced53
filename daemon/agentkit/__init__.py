"""The agent's side: the ``hostagent`` program and a small library for heartbeats.

The library serves an agent written with Twisted that wants to tell its hostdaemon that it is alive::

    from daemon.agentkit import HeartbeatSender, SenderSettings

    settings = SenderSettings(socket_path=os.environ["HOSTDAEMON_SOCKET"], version="2.1.0")
    sender = HeartbeatSender(reactor, time.time, settings, on_failure=lambda reason: ...)
    sender.start()                                       # the first heartbeat goes out at once
    reactor.addSystemEventTrigger("before", "shutdown", lambda: ensureDeferred(sender.stop()))

``start`` connects or keeps trying; ``stop`` announces the end (``"status":"stopping"``) and takes a second
at most. :class:`~daemon.agentkit.sender.HeartbeatSender` says more.

Public names, each loaded from its module when it is first asked for, so that reading a configuration
does not load Twisted:

- ``HeartbeatSender``, ``SenderSettings``, ``SenderStats`` (``daemon.agentkit.sender``)
- ``OwnUsage``, ``Usage`` (``daemon.agentkit.usage``)
- ``AgentConfig``, ``load_config`` (``daemon.agentkit.config``)
- ``Agent`` (``daemon.agentkit.agent``): the whole of hostagent, given a reactor
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from daemon.agentkit.agent import Agent
    from daemon.agentkit.config import AgentConfig, load_config
    from daemon.agentkit.sender import HeartbeatSender, SenderSettings, SenderStats
    from daemon.agentkit.usage import OwnUsage, Usage

__all__ = [
    "Agent",
    "AgentConfig",
    "HeartbeatSender",
    "OwnUsage",
    "SenderSettings",
    "SenderStats",
    "Usage",
    "load_config",
]

_HOMES = {
    "Agent": "agent",
    "AgentConfig": "config",
    "HeartbeatSender": "sender",
    "OwnUsage": "usage",
    "SenderSettings": "sender",
    "SenderStats": "sender",
    "Usage": "usage",
    "load_config": "config",
}


def __getattr__(name: str) -> Any:
    """Loads a public name from its module (PEP 562)."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)
