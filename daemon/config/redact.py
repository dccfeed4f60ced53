"""The effective configuration and the reload plan as anybody may see them: without secrets; pure.

Redacted: values in ``env``, ``labels`` and plug-in options whose name smells of a secret; such values
among arguments (``--token=x``, ``--token x``), in scripts, headers, JSON and connection strings there; user
and password in URLs, and query values that smell; and the path of ``resources.webhook``, which chat services
treat as the password. Paths of key files are shown: the file's rights protect it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Any

import msgspec

from daemon.config.arguments import words_shown
from daemon.config.diff import Change
from daemon.config.schema import Config
from daemon.config.secrets import data_shown, named_shown, script_shown, webhook_shown

_COMMANDS = frozenset({"command", "version_command"})
_NAMED = frozenset({"env", "labels"})


def effective(config: Config) -> dict[str, Any]:
    """The effective configuration, JSON-ready and redacted, in the form of a file.

    Durations are seconds, sizes bytes, ``umask`` octal text, so that a file made of it says the same.
    """
    whole: dict[str, Any] = _clean("", msgspec.to_builtins(config))
    for agent, plain in zip(config.agents, whole["agents"], strict=True):
        plain["args"] = words_shown(agent.args, agent.binary_path)
        plain["umask"] = umask_text(agent.umask)
        del plain["heartbeat_from_start"]  # follows from health_check and type; no key of a file
    return whole


def plan(changes: Iterable[Change]) -> list[dict[str, Any]]:
    """The changes of a reload as the API shows them: ``agent key from to effect``, redacted."""
    return [
        {
            "agent": change.agent,
            "key": change.key,
            "from": _shown(change.key, change.old, change.programs[0]),
            "to": _shown(change.key, change.new, change.programs[1]),
            "effect": change.effect.value,
        }
        for change in changes
    ]


def umask_text(umask: int) -> str:
    """A umask as the file writes it: ``022``."""
    return f"{umask:03o}"


def _shown(key: str, value: object, program: str) -> Any:
    if key == "umask" and isinstance(value, int):
        return umask_text(value)
    if key == "args" and isinstance(value, tuple):
        return words_shown(value, program)
    plain = msgspec.to_builtins(value.value if isinstance(value, Enum) else value)
    return _clean(key.rpartition(".")[2], plain)


def _clean(name: str, value: Any) -> Any:
    """``value`` of the key ``name``, plain data, without its secrets."""
    if name in _NAMED and isinstance(value, Mapping):
        return named_shown(value)
    if name == "plugins" and isinstance(value, Mapping):
        return {plugin: data_shown(options) for plugin, options in value.items()}
    if name in _COMMANDS and isinstance(value, Sequence) and not isinstance(value, str):
        return words_shown(value)
    if name == "webhook" and isinstance(value, str):
        return webhook_shown(value)
    if isinstance(value, Mapping):
        return {key: _clean(key, item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean("", item) for item in value]
    return script_shown(value) if isinstance(value, str) else value
