"""Text without its secrets, for ``hostctl diagnostics``; pure.

Two nets: the very secrets of the configuration, known because :mod:`daemon.config.redact` hides them, are
taken out wherever they appear; and so is what looks like a secret (``password=...``, ``Authorization: ...``,
user and password in URLs, private keys). What an agent prints without any such sign cannot be known.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from daemon.config.redact import effective
from daemon.config.schema import Config
from daemon.config.secrets import REDACTED, url_shown

LEAST = 4  # characters: a shorter secret would tear holes into everything
SEGMENT = 12  # characters of a part of a webhook's path that is taken for the secret itself
_WORDS = r"passw(?:or)?d|passphrase|secret|token|api[_-]?key|access[_-]?key|credential|cookie"
_NAME = rf"[\w.-]*(?:{_WORDS})[\w.-]*"
_VALUE = r"""(?P<value>\\+"[^"\n]*"?|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|[^\s,;&"'}\]]+)"""
_ASSIGNED = re.compile(rf"""(?P<name>["']?\b{_NAME}["']?\s*[=:]\s*){_VALUE}""", re.IGNORECASE)
_NAMED = re.compile(_NAME, re.IGNORECASE)
_FLAG = re.compile(rf"(?P<name>(?<![\w-])--?{_NAME}\s+)(?P<value>[^\s\-\"'][^\s\"']*)", re.IGNORECASE)
_AUTHORIZATION = re.compile(
    r"(authorization[\"']?\s*[=:]\s*[\"']?)(?:(?:bearer|basic|digest)\s+)?[^\s\"',;]+", re.IGNORECASE
)
_BEARER = re.compile(r"(\bbearer\s+)[\w.~+/=-]{8,}", re.IGNORECASE)
_PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL
)
_URL = re.compile(r"[a-z][a-z0-9+.-]*://[^\s\"'<>]+", re.IGNORECASE)
_HARMLESS = re.compile(r"(?:<redacted>|null|none|true|false|\[|\{|\d{1,3}$|\"\"|'')", re.IGNORECASE)


def secrets_of(config: Config) -> frozenset[str]:
    """The texts that the API's view of this configuration hides."""
    hidden: set[str] = set()
    _compare(msgspec.to_builtins(config), effective(config), hidden)
    return frozenset(text for text in hidden if len(text) >= LEAST)


def _compare(raw: Any, shown: Any, hidden: set[str]) -> None:
    if isinstance(raw, Mapping) and isinstance(shown, Mapping):
        for key, value in raw.items():
            if key in shown:
                _compare(value, shown[key], hidden)
    elif isinstance(raw, list | tuple) and isinstance(shown, list | tuple) and len(raw) == len(shown):
        for one, other in zip(raw, shown, strict=True):
            _compare(one, other, hidden)
    elif raw != shown and isinstance(shown, str) and REDACTED in shown:
        if shown == REDACTED:
            hidden.update(_texts(raw))
        elif isinstance(raw, str):
            pattern = "(.*)".join(re.escape(part) for part in shown.split(REDACTED))
            found = re.fullmatch(pattern, raw, re.DOTALL)
            if found:
                for group in filter(None, found.groups()):
                    hidden.update((group, group.partition(":")[2]))  # a URL's password without its user
                    hidden.update(part for part in group.split("/") if len(part) >= SEGMENT)


def _texts(value: Any) -> Iterable[str]:
    """Every text in a value that is hidden as a whole."""
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)
    elif value is not None and not isinstance(value, bool):
        yield str(value)


class Scrubber:
    """Takes secrets out of texts.

    Args:
        secrets: known ones; in JSON text they are found in their escaped form too.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        forms = {form for secret in secrets for form in (secret, json.dumps(secret)[1:-1])}
        longest_first = sorted(forms, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def __call__(self, text: str) -> str:
        """The text without them."""
        if self._known is not None:
            text = self._known.sub(REDACTED, text)
        text = _PRIVATE_KEY.sub(REDACTED, text)
        text = _URL.sub(lambda found: url_shown(found[0]), text)
        text = _AUTHORIZATION.sub(rf"\1{REDACTED}", text)
        text = _BEARER.sub(rf"\1{REDACTED}", text)
        return _FLAG.sub(_without_value, _ASSIGNED.sub(_without_value, text))

    def data(self, content: Any) -> Any:
        """Plain data without them; what stands under a name that smells is hidden whatever it is."""
        if isinstance(content, Mapping):
            return {key: self._named(str(key), value) for key, value in content.items()}
        if isinstance(content, list | tuple):
            return [self.data(item) for item in content]
        return self(content) if isinstance(content, str) else content

    def _named(self, name: str, value: Any) -> Any:
        if isinstance(value, str) and value and _NAMED.fullmatch(name) and not _HARMLESS.match(value):
            return REDACTED
        return self.data(value)


def _without_value(found: re.Match[str]) -> str:
    value = found["value"]
    if _HARMLESS.match(value):
        return found[0]
    quote = value[0] if value[0] in "\"'" else ""
    return f"{found['name']}{quote}{REDACTED}{quote}"
