"""The Prometheus text format, version 0.0.4, as the textfile collector needs it.

Written here rather than taken from prometheus_client, whose parser renames counters, stops for good at
the first bad line, and takes quadratic time over lines made for that. This one is linear.
"""

from __future__ import annotations

import math
import re

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r'[ \t]*([a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*"([^"\\]*(?:\\.[^"\\]*)*)"[ \t]*')
_VALUE = re.compile(
    r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:e[+-]?[0-9]+)?|[+-]?inf(?:inity)?|[+-]?nan", re.ASCII | re.I
)
_MAX_NUMBER = 64  # characters; longer ones are no measurement
_TIMESTAMP = re.compile(r"-?[0-9]{1,20}", re.ASCII)


class PromTextError(ValueError):
    """The text is not in the format; the message names the line, never its content."""


def _labels(text: str) -> str:
    """The labels as written, in one spelling: sorted, without blanks. Values keep their escapes.

    Raises:
        PromTextError: they are not labels, or one occurs twice.
    """
    found: dict[str, str] = {}
    at = 0
    while at < len(text):
        match = _LABEL.match(text, at)
        if match is None:
            if not text[at:].strip(" \t"):
                break
            raise PromTextError("bad labels")
        if match[1] in found:
            raise PromTextError("a label occurs twice")
        found[match[1]] = match[2]
        at = match.end()
        if at < len(text):
            if text[at] != ",":
                raise PromTextError("bad labels")
            at += 1
    return ",".join(f'{name}="{value}"' for name, value in sorted(found.items()))


def _sample(line: str) -> tuple[str, float]:
    """One sample line: ``name{labels} value [timestamp]``; the timestamp is not used.

    Raises:
        PromTextError: it is none.
    """
    match = _NAME.match(line)
    if match is None:
        raise PromTextError("no metric name")
    key = match[0]
    rest = line[match.end() :]
    blanks_gone = rest.lstrip(" \t")
    if blanks_gone.startswith("{"):
        close = blanks_gone.rfind("}")
        if close < 0:
            raise PromTextError("labels without an end")
        labels = _labels(blanks_gone[1:close])
        if labels:
            key = f"{key}{{{labels}}}"
        rest = blanks_gone[close + 1 :]
    elif blanks_gone == rest:
        raise PromTextError("no blank after the metric name")
    fields = rest.split(None, 2)
    if not 1 <= len(fields) <= 2 or len(fields[0]) > _MAX_NUMBER or _VALUE.fullmatch(fields[0]) is None:
        raise PromTextError("no number")
    if len(fields) == 2 and _TIMESTAMP.fullmatch(fields[1]) is None:
        raise PromTextError("bad timestamp")
    return key, float(fields[0])


def parse_prom_text(data: bytes, max_samples: int) -> dict[str, float]:
    """The samples of one text, ``name{label="value"}`` to its number.

    NaN and infinite samples are valid and left out: neither JSON nor a database could hold them.

    Args:
        data: the text; its last line must be ended, or it may still be in the writing.
        max_samples: more are refused.

    Raises:
        PromTextError: what is wrong, with the number of the line.
    """
    if data and not data.endswith(b"\n"):
        raise PromTextError("the last line has no end; is it still being written?")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PromTextError(f"not UTF-8 at byte {error.start}") from None
    samples: dict[str, float] = {}
    seen: set[str] = set()
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip(" \t\r")
        if not line or line.startswith("#"):
            continue
        try:
            key, value = _sample(line)
            if key in seen:
                raise PromTextError("a sample occurs twice")
            seen.add(key)
            if len(seen) > max_samples:
                raise PromTextError(f"more samples than the {max_samples} still free")
        except PromTextError as error:
            raise PromTextError(f"line {number}: {error}") from None
        if math.isfinite(value):
            samples[key] = value
    return samples
