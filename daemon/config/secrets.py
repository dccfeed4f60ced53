"""What is secret in a piece of text, told by its name or its form; pure. Whoever shows text asks here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

REDACTED = "<redacted>"

_SECRET = r"secret|token|passw|pwd|passphrase|credential|auth|cookie|private|key|dsn"
_SECRET_NAME = re.compile(_SECRET, re.IGNORECASE)
_SECRET_FLAG = re.compile(rf"-{{1,2}}[\w.-]*(?:{_SECRET})[\w.-]*", re.IGNORECASE)
_SECRET_ASSIGNMENT = re.compile(rf"([\w.-]*(?:{_SECRET})[\w.-]*[=:]).+", re.IGNORECASE | re.DOTALL)
_FILE_NAME = re.compile(r"(?:file|path|dir)$", re.IGNORECASE)
_USERINFO = re.compile(r"(?<=://)[^/?#\s]+@")  # to the last @: a password may hold one
_QUERY = re.compile(rf"([?&][\w.-]*(?:{_SECRET}|sig)[\w.-]*=)[^&#\s]+", re.IGNORECASE)


def smells(name: str) -> bool:
    """Whether a name says that its value is secret."""
    return _SECRET_NAME.search(name) is not None


def names_file(name: str) -> bool:
    """Whether a name says that its value is the path of a file, which the file's rights protect."""
    return _FILE_NAME.search(name) is not None


def named_shown(values: Mapping[str, Any]) -> dict[str, Any]:
    """Variables or labels: what stands under a name that smells of a secret is not shown."""
    return {
        name: REDACTED if value and smells(name) else url_shown(value) if isinstance(value, str) else value
        for name, value in values.items()
    }


def words_shown(words: Sequence[str]) -> list[str]:
    """Arguments: ``--token=x`` loses its value, ``--token x`` the word after it."""
    shown: list[str] = []
    hide = False
    for word in words:
        if hide and not word.startswith("-"):
            shown.append(REDACTED)
            hide = False
            continue
        hide = _SECRET_FLAG.fullmatch(word) is not None and not names_file(word)
        shown.append(word_shown(word))
    return shown


def word_shown(word: str) -> str:
    """One word: an assignment to a secret name loses its value, a URL what :func:`url_shown` says."""
    assignment = _SECRET_ASSIGNMENT.fullmatch(word)
    if assignment is not None and not names_file(assignment[1][:-1]) and "://" not in word:
        return assignment[1] + REDACTED
    return url_shown(word)


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
