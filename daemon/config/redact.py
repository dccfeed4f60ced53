"""The effective configuration and the reload plan as anybody may see them: without secrets; pure.

Redacted: values in ``env``, ``labels`` and plug-in options whose name smells of a secret; such values
among arguments (``--token=x``, ``--token x``); user and password in URLs, and query values that
smell; and the path of ``resources.webhook``, which chat services treat as the password. Paths of key
files are shown: the file's rights protect it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Any
from urllib.parse import urlsplit

import msgspec

from daemon.config.diff import Change
from daemon.config.schema import Config

REDACTED = "<redacted>"

_SECRET = r"secret|token|passw|pwd|passphrase|credential|auth|cookie|private|key|dsn"
_SECRET_NAME = re.compile(_SECRET, re.IGNORECASE)
_SECRET_FLAG = re.compile(rf"-{{1,2}}[\w.-]*(?:{_SECRET})[\w.-]*", re.IGNORECASE)
_SECRET_ASSIGNMENT = re.compile(rf"([\w.-]*(?:{_SECRET})[\w.-]*[=:]).+", re.IGNORECASE | re.DOTALL)
_FILE_NAME = re.compile(r"(?:file|path|dir)$", re.IGNORECASE)
_USERINFO = re.compile(r"(?<=://)[^/@\s]+@")
_QUERY = re.compile(rf"([?&][\w.-]*(?:{_SECRET}|sig)[\w.-]*=)[^&#\s]+", re.IGNORECASE)
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
        return {key: _named(key, text) for key, text in value.items()}
    if name == "plugins" and isinstance(value, Mapping):
        return {plugin: _options(options) for plugin, options in value.items()}
    if name in _COMMANDS and isinstance(value, Sequence) and not isinstance(value, str):
        return _words(value)
    if name == "webhook" and isinstance(value, str):
        return webhook_shown(value)
    if isinstance(value, Mapping):
        return {key: _clean(key, item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean("", item) for item in value]
    return url_shown(value) if isinstance(value, str) else value


def _smells(name: str) -> bool:
    return _SECRET_NAME.search(name) is not None


def _named(name: str, value: Any) -> Any:
    if value and _smells(name):
        return REDACTED
    return url_shown(value) if isinstance(value, str) else value


def _options(value: Any) -> Any:
    """Free-form options: a key that smells hides whatever stands below it, but for the path of a file."""
    if isinstance(value, Mapping):
        return {
            key: REDACTED if item and _smells(key) and not _FILE_NAME.search(key) else _options(item)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_options(item) for item in value]
    return url_shown(value) if isinstance(value, str) else value


def _words(words: Sequence[str]) -> list[str]:
    """Arguments: ``--token=x`` loses its value, ``--token x`` the word after it."""
    shown: list[str] = []
    hide = False
    for word in words:
        if hide and not word.startswith("-"):
            shown.append(REDACTED)
            hide = False
            continue
        hide = _SECRET_FLAG.fullmatch(word) is not None and not _FILE_NAME.search(word)
        assignment = _SECRET_ASSIGNMENT.fullmatch(word)
        if assignment is not None and not _FILE_NAME.search(assignment[1][:-1]) and "://" not in word:
            shown.append(assignment[1] + REDACTED)
        else:
            shown.append(url_shown(word))
    return shown


def url_shown(text: str) -> str:
    """A URL without user, password and query values that smell of a secret; other text as it is."""
    if "://" not in text:
        return text
    return _QUERY.sub(rf"\1{REDACTED}", _USERINFO.sub(f"{REDACTED}@", text))


def webhook_shown(url: str) -> str:
    """A webhook's address for logs: its path is the password of many chat services."""
    parts = urlsplit(url)
    if not parts.path.strip("/") and not parts.query:
        return url_shown(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}/{REDACTED}"
