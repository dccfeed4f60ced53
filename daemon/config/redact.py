"""The effective configuration and the reload plan as anybody may see them: without secrets; pure.

Redacted: values in ``env``, ``labels`` and plug-in options whose name smells of a secret; such values
among arguments (``--token=x``, ``--token x``); user and password in URLs, and query values that
smell; and the path of ``resources.webhook``, which chat services treat as the password. Paths of key
files are shown: the file's rights protect it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Any

import msgspec

from daemon.config.diff import Change
from daemon.config.schema import Config
from daemon.config.secrets import (
    REDACTED,
    named_shown,
    names_file,
    smells,
    url_shown,
    webhook_shown,
    words_shown,
)

_COMMANDS = frozenset({"args", "command", "version_command"})
_NAMED = frozenset({"env", "labels"})


def effective(config: Config) -> dict[str, Any]:
    """The effective configuration, JSON-ready and redacted, in the form of a file.

    Durations are seconds, sizes bytes, ``umask`` octal text, so that a file made of it says the same.
    """
    whole: dict[str, Any] = _clean("", msgspec.to_builtins(config))
    for agent, plain in zip(config.agents, whole["agents"], strict=True):
        plain["umask"] = umask_text(agent.umask)
        del plain["heartbeat_from_start"]  # follows from health_check and type; no key of a file
    return whole


def plan(changes: Iterable[Change]) -> list[dict[str, Any]]:
    """The changes of a reload as the API shows them: ``agent key from to effect``, redacted."""
    return [
        {
            "agent": change.agent,
            "key": change.key,
            "from": _shown(change.key, change.old),
            "to": _shown(change.key, change.new),
            "effect": change.effect.value,
        }
        for change in changes
    ]


def umask_text(umask: int) -> str:
    """A umask as the file writes it: ``022``."""
    return f"{umask:03o}"


def _shown(key: str, value: object) -> Any:
    if key == "umask" and isinstance(value, int):
        return umask_text(value)
    plain = msgspec.to_builtins(value.value if isinstance(value, Enum) else value)
    return _clean(key.rpartition(".")[2], plain)


def _clean(name: str, value: Any) -> Any:
    """``value`` of the key ``name``, plain data, without its secrets."""
    if name in _NAMED and isinstance(value, Mapping):
        return named_shown(value)
    if name == "plugins" and isinstance(value, Mapping):
        return {plugin: _options(options) for plugin, options in value.items()}
    if name in _COMMANDS and isinstance(value, Sequence) and not isinstance(value, str):
        return words_shown(value)
    if name == "webhook" and isinstance(value, str):
        return webhook_shown(value)
    if isinstance(value, Mapping):
        return {key: _clean(key, item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean("", item) for item in value]
    return url_shown(value) if isinstance(value, str) else value


def _options(value: Any) -> Any:
    """Free-form options: a key that smells hides whatever stands below it, but for the path of a file."""
    if isinstance(value, Mapping):
        return {
            key: REDACTED if item and smells(key) and not names_file(key) else _options(item)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_options(item) for item in value]
    return url_shown(value) if isinstance(value, str) else value
