"""Argument vectors as anybody may see them, without their secrets; pure."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import PurePath

from daemon.config.secrets import REDACTED, data_shown, harmless, script_shown, smells

_FLAG = re.compile(r"-{1,2}(?!no-|skip-|disable-|enable-|require-|allow-)[A-Za-z][\w.-]*")
_ASSIGNMENT = re.compile(r"(-{0,2}[\w.-]+[=:])(.+)", re.DOTALL)
_OPTION = re.compile(r"-{1,2}[A-Za-z][\w.-]*(?:=.*)?", re.DOTALL)
_SCRIPT = re.compile(r"-[a-z]{0,4}[ce]")  # sh -c, bash -lc, python -c, perl -e
_USER = re.compile(r"-u|--(?:proxy-)?user")
_USER_AND_PASSWORD = re.compile(r"([^\s:@/]{1,64}:)(.+)", re.DOTALL)
_SHORT = {  # program: its flag for a password, and whether the password may stand in the word after it
    "mysql": ("-p", False), "mariadb": ("-p", False), "sshpass": ("-p", True), "redis-cli": ("-a", True),
    "mongo": ("-p", True), "ldap": ("-w", True),
}


def words_shown(words: Sequence[str], program: str = "") -> list[str]:
    """An argument vector: ``--token=x`` loses its value, ``--token x`` the word after it.

    Args:
        words: the arguments, the program before them where ``program`` is empty.
        program: what is run, a name or a path: of a few their short flags are known.
    """
    short, follows = _short_flag(program or (words[0] if words else ""))
    shown: list[str] = []
    before = ""
    for word in words:
        if _hides_next(before) and not _OPTION.fullmatch(word) and not harmless(word):
            shown.append(REDACTED)
        elif short and word.startswith(short) and word != short and not word.startswith("--"):
            shown.append(short + REDACTED)
        elif short and follows and before == short:
            shown.append(REDACTED)
        elif _USER.fullmatch(before) and _USER_AND_PASSWORD.fullmatch(word):
            shown.append(_USER_AND_PASSWORD.sub(rf"\1{REDACTED}", word))
        elif _SCRIPT.fullmatch(before) and any(char.isspace() for char in word):
            shown.append(script_shown(word))
        else:
            shown.append(word_shown(word))
        before = word
    return shown


def word_shown(word: str) -> str:
    """One word: an assignment to a secret name loses its value, other text what its form gives away."""
    assignment = _ASSIGNMENT.fullmatch(word)
    if assignment is not None and smells(assignment[1][:-1]) and not harmless(assignment[2]):
        url = "://" in word and "webhook" not in assignment[1].lower()  # its secrets are in their places
        if not url:
            return assignment[1] + REDACTED
    if word[:1] in ("{", "["):
        return _json_shown(word)
    return script_shown(word)


def _hides_next(flag: str) -> bool:
    return _FLAG.fullmatch(flag) is not None and smells(flag)


def _short_flag(program: str) -> tuple[str, bool]:
    name = PurePath(program).name
    return next((flag for known, flag in _SHORT.items() if name.startswith(known)), ("", False))


def _json_shown(word: str) -> str:
    try:
        data = json.loads(word)
    except (ValueError, RecursionError):
        return script_shown(word)
    shown = data_shown(data)
    return word if shown == data else json.dumps(shown, ensure_ascii=False)
