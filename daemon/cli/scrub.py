"""Text without its secrets, for ``hostctl diagnostics``; pure.

Two nets: the very secrets of the configuration, known because :mod:`daemon.config.redact` hides them, are
taken out wherever they appear; and so is what looks like a secret to :mod:`daemon.config.secrets`. What an
agent prints without any such sign cannot be known.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from daemon.config.redact import effective
from daemon.config.schema import Config
from daemon.config.secrets import REDACTED, harmless, smells_in_print, text_shown

LEAST = 4  # characters: a shorter secret would tear holes into everything
SEGMENT = 12  # characters of a part of a webhook's path that is taken for the secret itself


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
            if raw[:1] in ("{", "[") and _compare_json(raw, shown, hidden):
                return
            pattern = "(.*)".join(re.escape(part) for part in shown.split(REDACTED))
            found = re.fullmatch(pattern, raw, re.DOTALL)
            if found:
                for group in filter(None, found.groups()):
                    hidden.update((group, group.partition(":")[2]))  # a URL's password without its user
                    hidden.update(part for part in group.split("/") if len(part) >= SEGMENT)


def _compare_json(raw: str, shown: str, hidden: set[str]) -> bool:
    """As :func:`_compare` where both are JSON; whether they are."""
    try:
        _compare(json.loads(raw), json.loads(shown), hidden)
    except (ValueError, RecursionError):
        return False
    return True


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
        return text_shown(text)

    def data(self, content: Any) -> Any:
        """Plain data without them; what stands under a name that smells is hidden whatever it is."""
        if isinstance(content, Mapping):
            return {key: self._named(str(key), value) for key, value in content.items()}
        if isinstance(content, list | tuple):
            return [self.data(item) for item in content]
        return self(content) if isinstance(content, str) else content

    def _named(self, name: str, value: Any) -> Any:
        if isinstance(value, str) and smells_in_print(name) and not harmless(value):
            return REDACTED
        return self.data(value)
