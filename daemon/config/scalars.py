"""One scalar of the file to one value, as its key wants it; pure.

YAML 1.1 reads the bare words ``no`` and ``on`` as booleans, ``022`` as an octal number, ``1:30`` as
ninety and ``1.10`` as 1.1. Where such a word stands for something else the value is refused with an
explanation and the spelling that works; nothing is guessed.
"""

from __future__ import annotations

import ipaddress
import json
import math
import re
import signal
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from daemon.config.arguments import word_shown
from daemon.config.keys import Field, Key, Kind
from daemon.config.tree import Scalar
from daemon.config.units import MAX_TEXT, parse_duration, parse_size

MAX_INT = 2**63 - 1
"""Numbers of ours travel in 64 bits."""

_TRUE = frozenset({"yes", "true", "on"})
_FALSE = frozenset({"no", "false", "off"})
_DECIMAL = re.compile(r"[-+]?(?:0|[1-9][0-9_]*)")
_HEX = re.compile(r"[-+]?0x[0-9a-fA-F_]*[0-9a-fA-F]")
_BINARY = re.compile(r"[-+]?0b[01_]*[01]")
_OCTAL = re.compile(r"[-+]?0[0-7_]*[0-7]")
_FLOAT = re.compile(r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?")
_UMASK = re.compile(r"0?[0-7]{3}")
_LABEL = r"[A-Za-z0-9_][A-Za-z0-9_-]{0,62}"
_HOST_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*\.?")
_ADDRESS = re.compile(r"(\[[^\[\]]+\]|[^:\[\]]+):([0-9]{1,5})")
_SPACE = re.compile(r"[\s\x00-\x1f\x7f]")


def read_scalar(node: Scalar, field: Field, kind: Kind) -> Any:
    """The value of a scalar.

    Args:
        node: as written.
        field: the key it belongs to, for its range and pattern.
        kind: the field's own, or that of its items.

    Raises:
        ValueError: the message says what is wrong and what to write.
    """
    if node.tag == "null":
        raise ValueError("has no value; write one, or leave the key out")
    _storable(node)
    key = field.key
    match kind:
        case Kind.BOOL:
            return _bool(node)
        case Kind.INT:
            return _ranged(_int(node), node, key)
        case Kind.NUMBER:
            return _ranged(float(_number(node, "a number")), node, key)
        case Kind.DURATION:
            return _ranged(_measured(node, parse_duration, "a duration"), node, key)
        case Kind.SIZE:
            return _ranged(_measured(node, parse_size, "a size"), node, key)
        case Kind.WORD:
            return _word(node)
        case Kind.OCTAL:
            return _octal(node)
        case Kind.SIGNAL:
            return _signal(node)
        case Kind.CHOICE:
            return _choice(node, field.choices)
    text = _text(node)
    if kind in _TEXT_CHECKS and (text or kind is Kind.BINARY):
        _TEXT_CHECKS[kind](text)
    if key.pattern and re.fullmatch(key.pattern, text) is None:
        raise ValueError(f"{shown(text)} will not do; write {key.expects}")
    return text


def read_any(node: Scalar) -> Any:
    """The value of a scalar in free-form options: YAML's own type, except where that is a trap.

    Raises:
        ValueError: as :func:`read_scalar`.
    """
    _storable(node)
    match node.tag:
        case "null":
            return None
        case "bool":
            return _bool(node)
        case "int":
            return _int(node)
        case "float":
            return _number(node, "a number")
    return _text(node)


def has_bad_characters(text: str) -> bool:
    """Whether it holds what no file name, environment or UTF-8 text can: NUL or half a surrogate pair."""
    return "\0" in text or any("\ud800" <= c <= "\udfff" for c in text)


def shown(text: str) -> str:
    """Text for a message, quoted and never long, without the secrets that its form gives away."""
    quoted = json.dumps(word_shown(text), ensure_ascii=False)
    return quoted if len(quoted) <= MAX_TEXT else quoted[: MAX_TEXT - 4] + '..."'


def trap(node: Scalar) -> str:
    """What YAML makes of a bare word, in words; empty where it is simply text."""
    text = shown(node.text)[1:-1]
    match node.tag:
        case "bool":
            return f"YAML reads the bare word {text} as {str(node.text.lower() in _TRUE).lower()}"
        case "int" | "float" if ":" in node.text:
            return f"YAML reads {text} as a number to base 60"
        case "int" if _OCTAL.fullmatch(node.text):
            short = len(node.text) <= MAX_TEXT  # digits are slow to make of huge numbers, and Python refuses
            number = int(node.text.replace("_", ""), 8) if short else "it stands for"
            return f"YAML reads {text} as the octal number {number}"
        case "int":
            return f"YAML reads {text} as a number"
        case "float":
            shape = _FLOAT.fullmatch(node.text)
            return f"YAML reads {text} as the number {float(node.text.replace('_', '')) if shape else text}"
        case "timestamp":
            return f"YAML reads {text} as a date"
        case "null":
            return "YAML reads this as no value"
    return ""


def _storable(node: Scalar) -> None:
    if has_bad_characters(node.text):
        raise ValueError("contains a character that nothing can be given (NUL or half a surrogate pair)")


def _text(node: Scalar) -> str:
    if node.tag not in ("str", "value"):
        raise ValueError(f"{trap(node)}; put it in quotes: {shown(node.text)}")
    return node.text


def _word(node: Scalar) -> str:
    """Text, or a whole number in its one plain spelling: no other reading of ``8081`` exists."""
    if node.tag == "int" and _DECIMAL.fullmatch(node.text) and node.text[0] != "+" and "_" not in node.text:
        return node.text
    return _text(node)


def _bool(node: Scalar) -> bool:
    if node.tag == "bool":
        return node.text.lower() in _TRUE
    if node.text.lower() in _TRUE | _FALSE:
        raise ValueError(f"must be true or false, not the text {shown(node.text)}; take the quotes away")
    raise ValueError(f"must be true or false, not {shown(node.text)[1:-1]}")


def _int(node: Scalar) -> int:
    text = node.text
    if node.tag == "int" and len(text) <= MAX_TEXT:
        digits = text.replace("_", "")
        number: int | None = None
        if _DECIMAL.fullmatch(text):
            number = int(digits)
        elif _HEX.fullmatch(text) or _BINARY.fullmatch(text):
            number = int(digits, 0)
        if number is None:
            raise ValueError(f"{trap(node)}; write it in plain decimal digits")
        if abs(number) <= MAX_INT:
            return number
    if node.tag == "int":
        raise ValueError("is beyond 64 bits")
    if node.tag == "str" and _DECIMAL.fullmatch(text):
        raise ValueError(f"must be a whole number, not the text {shown(text)}; take the quotes away")
    raise ValueError(_wanted("a whole number", node))


def _number(node: Scalar, what: str) -> float:
    if node.tag == "int":
        return _int(node)
    if node.tag == "float" and _FLOAT.fullmatch(node.text) and len(node.text) <= MAX_TEXT:
        number = float(node.text.replace("_", ""))
        if math.isfinite(number):
            return number
    if node.tag == "float":
        raise ValueError(f"must be a finite number in decimal digits, not {shown(node.text)[1:-1]}")
    if node.tag == "str" and (_DECIMAL.fullmatch(node.text) or _FLOAT.fullmatch(node.text)):
        raise ValueError(f"must be {what}, not the text {shown(node.text)}; take the quotes away")
    raise ValueError(_wanted(what, node))


def _measured(node: Scalar, parse: Callable[[object], Any], what: str) -> Any:
    if node.tag in ("int", "float"):
        if ":" in node.text:
            raise ValueError(f"{trap(node)}; write units, such as 1m30s")
        return parse(_number(node, what))
    if node.tag in ("str", "value"):
        return parse(node.text)
    raise ValueError(_wanted(what, node))


def _wanted(what: str, node: Scalar) -> str:
    explained = trap(node)
    return f"must be {what}; {explained}" if explained else f"must be {what}, not {shown(node.text)}"


def _ranged(number: Any, node: Scalar, key: Key) -> Any:
    low = key.ge if key.gt is None else key.gt
    if (key.gt is not None and number <= key.gt) or (key.ge is not None and number < key.ge) or (
        key.le is not None and number > key.le
    ):
        if key.le is not None and low is not None:
            raise ValueError(f"must be {low:g} to {key.le:.15g}, not {shown(node.text)[1:-1]}")
        sign = ">" if key.gt is not None else ">="
        raise ValueError(f"must be {sign} {low:g}, not {shown(node.text)[1:-1]}")
    return number


def _octal(node: Scalar) -> int:
    if node.tag == "int":
        raise ValueError(f'{trap(node)}; put the octal digits in quotes: "{node.text.strip("+-")[:8]}"')
    text = _text(node)
    if _UMASK.fullmatch(text) is None:
        raise ValueError(f'must be three octal digits in quotes such as "022", not {shown(text)}')
    return int(text, 8)


def _signal(node: Scalar) -> str:
    if node.tag == "int":
        raise ValueError(f"must be a name such as TERM, not the number {shown(node.text)[1:-1]}")
    name = _text(node).upper().removeprefix("SIG")
    try:
        return signal.Signals["SIG" + name].name.removeprefix("SIG")
    except KeyError:
        message = f"{shown(node.text)} is no signal of this system; write TERM, INT, QUIT, HUP ..."
        raise ValueError(message) from None


def _choice(node: Scalar, choices: tuple[str, ...]) -> str:
    listed = ", ".join(choices[:-1]) + " or " + choices[-1]
    if node.tag not in ("str", "value"):
        raise ValueError(f"{trap(node)}; write {listed}")
    if node.text not in choices:
        raise ValueError(f"{shown(node.text)} will not do; write {listed}")
    return node.text


def _path(text: str) -> None:
    if text.startswith("~"):
        raise ValueError("~ is not expanded here; write the whole path")
    if "\n" in text:
        raise ValueError("a path of ours holds no line break")


def _mount(text: str) -> None:
    if not text.startswith("/"):
        raise ValueError(f"must be an absolute path, not {shown(text)}")


def _url(text: str) -> None:
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or _SPACE.search(text):
        raise ValueError(f"must be a URL such as http://127.0.0.1:9100/metrics, not {shown(text)}")


def _host(text: str) -> None:
    if not is_host(text):
        raise ValueError(f"{shown(text)} is neither an IP address nor a host name")


def is_host(text: str) -> bool:
    """Whether it is an IP address or could be a host name."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        # Digits and dots alone are a mistyped address, and an IPv6 address holds a colon.
        return _HOST_NAME.fullmatch(text) is not None and not text.replace(".", "").isdigit()
    return True


def _address(text: str) -> None:
    match = _ADDRESS.fullmatch(text)
    if match is None or not is_host(match[1].strip("[]")) or not 1 <= int(match[2]) <= 65535:
        raise ValueError(f"must be host:port, such as example.com:9090 or [::1]:9090, not {shown(text)}")


def _binary(text: str) -> None:
    if not text:
        raise ValueError("must not be empty; write the executable's path or its bare name")
    _path(text)
    if text.endswith("/") or PurePosixPath(text).name in ("", ".."):
        raise ValueError(f"{shown(text)} names a directory; write the executable's path or its bare name")


_TEXT_CHECKS: dict[Kind, Callable[[str], None]] = {
    Kind.PATH: _path,
    Kind.BINARY: _binary,
    Kind.MOUNT: _mount,
    Kind.URL: _url,
    Kind.HOST: _host,
    Kind.ADDRESS: _address,
}
