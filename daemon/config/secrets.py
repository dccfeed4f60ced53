"""What is secret in a piece of text, told by its name or its form; pure. Whoever shows text asks here.

A secret that neither its name nor its form gives away cannot be known. In doubt a value is hidden; names,
flags, paths, references (``$TOKEN``) and the rest stay, so that what is shown can still be worked with.
Two readings differ in what counts as a name: what an operator wrote (:func:`script_shown`) is full of
``auth=`` and ``key=`` that are secret, while programs print (:func:`text_shown`) ``key=`` of every kind.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import urlsplit

REDACTED = "<redacted>"

_PASS = r"(?<!by)(?<!com)(?<!tres)pass(?![a-z])|pass(?:in|out)\b|passw|passphrase"
_WRITTEN = (
    rf"secret|token|{_PASS}|pwd|credential|auth(?!or(?!iz))|cookie|private|(?<!mon)key(?!space|board|word)|dsn|"
    "webhook"
)
_PRINTED = (
    r"passw(?:or)?d|passphrase|secret|token|credential|cookie|(?<=[_.-])pass(?![a-z])|\bpwd(?==)|"
    r"(?:api|access|account|encryption|private|shared|signing)[_-]?key"
)
# Of a password's file, length or lifetime there is nothing to hide.
_ABOUT = re.compile(
    r"(?:file|path|dir|ttl|timeout|interval|expiry|length|size|count|limit|type|enabled|required)s?$",
    re.IGNORECASE,
)
_NAME_OF_SECRET = re.compile(_WRITTEN, re.IGNORECASE)
_NAME_IN_PRINT = re.compile(_PRINTED, re.IGNORECASE)
_DIRECTORIES = frozenset({"PWD", "OLDPWD"})
_TAIL = r"[\w.-]{0,64}+"  # bounded, and never given back: a hostile line must not cost its length squared
_QUOTE = r"\\{0,8}[\"']"  # JSON in JSON escapes its quotes
_ROOM = r"(?:[ \t]|\\\n)"  # a shell goes on in the next line behind a backslash
_COMMAND = r"\$\([^()\n]*\)|`[^`\n]*`"
# Quoted, even where the end was cut off; else up to what ends a word. A comma ends it before a space or the
# next name, not in the middle of a password. Quotes in the middle are those around the whole, unless they
# hold but one word.
_BARE = r"\\\S|[^\s,;&|\"'`\\)}\]]|,(?=[^\s\"'])(?![\w.-]*=)"
_VALUE = (
    rf"(?P<value>\\+\"(?:(?!\\+\")[^\n])*(?:\\+\")?|(?:\"(?:[^\"\\\n]|\\.)*\"?|'[^'\n]*'?|{_COMMAND}|{_BARE})"
    rf"(?:{_COMMAND}|{_BARE}|\"[^\"\s;]+\"|'[^'\s;]+')*)"
)
_REFERENCE = re.compile(r"\$\{?\w+\}?|\$\((?:cat|<)\s*[\w./-]+\)|`cat\s+[\w./-]+`")
_HARMLESS = re.compile(  # a bracket: of a list or mapping that begins; its items are looked at themselves
    r"<redacted>|null|none|true|false|yes|no|on|off|[\[{(]{1,3}[\]})]{0,3}|\{(?:config_file|work_dir)\}|",
    re.IGNORECASE,
)
_SMALL = re.compile(r"[0-9]{1,3}")
_SWITCH = r"(?!no-|skip-|disable-|enable-|require-|allow-)"


def _assigned(words: str) -> re.Pattern[str]:
    return re.compile(
        rf"(?P<name>(?P<word>(?:{words}){_TAIL})(?:{_QUOTE})?{_ROOM}{{0,64}}+(?:=|:(?!//)){_ROOM}{{0,64}}+){_VALUE}",
        re.IGNORECASE,
    )


def _flagged(words: str) -> re.Pattern[str]:
    return re.compile(
        rf"(?P<name>(?<![\w-])--?{_SWITCH}(?P<word>[\w.-]{{0,64}}?(?:{words}){_TAIL}){_ROOM}{{1,64}}+)(?!-){_VALUE}",
        re.IGNORECASE,
    )


_READINGS = {words: (_assigned(words), _flagged(words)) for words in (_WRITTEN, _PRINTED)}
_PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL
)
_AUTHORIZATION = re.compile(
    rf"(authorization(?:{_QUOTE})?\s{{0,8}}[=:]\s{{0,8}}(?:{_QUOTE})?)(?:[a-z]{{1,16}}\s+)?[^\s\"',;\\$]+",
    re.IGNORECASE,
)
_BEARER = re.compile(r"(\bbearer\s+)[\w.~+/=-]{8,}", re.IGNORECASE)
_COOKIE = re.compile(r"((?:set-)?cookie\s{0,8}:\s{0,8})[^\n\"'\\$]+", re.IGNORECASE)
_ISSUED = re.compile(  # what GitHub, GitLab, Slack and JWT (RFC 7519) give out says itself what it is
    r"\b(?:gh[pousr]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|xox[abeprs]-[\w-]{10,}|"
    r"eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]*)"
)
_USERINFO = re.compile(  # to the last @: a password may hold one; and, past what can be a port, a slash
    r"(?<=://)(?:[^/?#\s\"'<>]{1,256}@|[^\s/?#@:\"'<>]{0,64}:(?![0-9]{1,5}(?:[/?#\s]|$))[^\s@\"'<>]{1,256}@)"
)
_QUERY = re.compile(rf"([?&#][\w.-]{{0,64}}?(?:{_WRITTEN}|sig){_TAIL}=)[^&#\s\"']+", re.IGNORECASE)
_GO_DSN = re.compile(r"(?<![\w.-])([\w.-]{1,64}:)[^\s@:/]{1,256}(?=@(?:tcp|unix)\()")
_USER = re.compile(r"((?:^|(?<=[\s\"']))(?:-u|--(?:proxy-)?user)[\s=]+[\"']?[^\s:\"'$]{1,64}:)[^\s\"'$]+")
_PROGRAMS = re.compile(  # whose short flags take the password
    r"((?:\b(?:mysql|mariadb)[\w-]*\b[^|;&\n]{0,128}?\s-p|\bsshpass\s+-p\s*|\bredis-cli\b[^|;&\n]{0,128}?\s-a\s+|"
    rf"\bmongo\w*\b[^|;&\n]{{0,128}}?\s-p\s+|\bldap\w+\b[^|;&\n]{{0,128}}?\s-w\s+)){_VALUE}"
)


def smells(name: str) -> bool:
    """Whether a name says that its value is secret, and not the file, the length or the like of a secret."""
    return _is_secret(name, _NAME_OF_SECRET)


def smells_in_print(name: str) -> bool:
    """As :func:`smells`, of names in what programs print."""
    return _is_secret(name, _NAME_IN_PRINT)


def _is_secret(name: str, names: re.Pattern[str]) -> bool:
    return names.search(name) is not None and _ABOUT.search(name) is None and name not in _DIRECTORIES


def harmless(value: str) -> bool:
    """Whether a value gives nothing away whatever its name: a switch, or where the secret comes from."""
    bare = value.strip("\\\"'")
    return _HARMLESS.fullmatch(bare) is not None or _REFERENCE.fullmatch(bare) is not None


def named_shown(values: Mapping[str, Any]) -> dict[str, Any]:
    """Variables or labels: what stands under a name that smells of a secret is not shown."""
    return {
        name: REDACTED if value and smells(name) else script_shown(value) if isinstance(value, str) else value
        for name, value in values.items()
    }


def data_shown(value: Any) -> Any:
    """Plain data: a key that smells hides whatever stands below it."""
    if isinstance(value, Mapping):
        return {
            key: REDACTED if item and smells(str(key)) else data_shown(item) for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [data_shown(item) for item in value]
    return script_shown(value) if isinstance(value, str) else value


def script_shown(text: str) -> str:
    """What an operator wrote for a program, such as a script, a header or a connection string."""
    text = _USER.sub(rf"\1{REDACTED}", _PROGRAMS.sub(rf"\1{REDACTED}", text))
    return _shown(text, _WRITTEN)


def text_shown(text: str) -> str:
    """What a program printed, such as a line of its log."""
    return _shown(text, _PRINTED)


def _shown(text: str, words: str) -> str:
    text = _USERINFO.sub(f"{REDACTED}@", _PRIVATE_KEY.sub(REDACTED, text))
    for pattern in (_QUERY, _AUTHORIZATION, _BEARER, _COOKIE, _GO_DSN):
        text = pattern.sub(rf"\1{REDACTED}", text)
    text = _ISSUED.sub(REDACTED, text)
    assigned, flagged = _READINGS[words]
    return flagged.sub(partial(_without, words), assigned.sub(partial(_without, words), text))


def _without(words: str, found: re.Match[str]) -> str:
    value = found["value"]
    place = found.start("word")
    before = found.string[max(0, place - 64) : place]
    if words == _PRINTED and _SMALL.fullmatch(value):
        return found[0]
    if harmless(value) or not smells(_last_part(before) + found["word"]):
        return found[0]
    if "://" in value and "webhook" not in found["word"].lower():
        # What of the URL is secret is gone; what else stands in the quotes is looked at.
        return found["name"] + _shown(value, words) if value[0] in "\"'" else found[0]
    escapes = value[: len(value) - len(value.lstrip("\\"))]
    quote = value[len(escapes) : len(escapes) + 1]
    around = escapes + quote if quote in ('"', "'") and quote else ""
    return f"{found['name']}{around}{REDACTED}{around}"


def _last_part(text: str) -> str:
    """The end of a text that belongs to the name which goes on behind it."""
    return text[len(text.rstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-")) :]


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
