"""What the answer of a package server means for a download: begin, go on, wait, or give up. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import Enum

from daemon.httpclient.sink import Answer

RETRY_AFTER_MAX_S = 86400.0
VALIDATOR_MAX = 1024  # characters of an ETag that is worth keeping
_STRONG_ETAG = re.compile(r'"[\x21\x23-\x7e]*"')  # RFC 9110, 8.8.3, ASCII alone
_CONTENT_RANGE = re.compile(r"bytes\s+([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", re.IGNORECASE)
_UNSATISFIED = re.compile(r"bytes\s+\*/([0-9]{1,18})", re.IGNORECASE)
_BUSY = frozenset({429, 503})
_PASSING = frozenset({408, 425, *_BUSY})


class Step(Enum):
    """What follows an answer."""

    ANEW = "anew"  # its body is the package from the first byte
    RESUME = "resume"  # its body continues the part
    COMPLETE = "complete"  # the part was whole already
    DISCARD = "discard"  # the part is of no use: ask again for everything
    RETRY = "retry"  # ask again later
    FINAL = "final"  # asking again will not help


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One answer, judged.

    Attributes:
        why: for DISCARD, RETRY and FINAL: what it answered.
        advice: for FINAL: the next step.
        status: HTTP's, where that is the reason.
        range_fault: for DISCARD: the server cannot be trusted with ranges.
        busy: the server itself asks for patience: no number of such answers is too many.
        retry_after_s: seconds it asks for; None for nothing.
        validator, total: for ANEW, what to keep; ``total`` for RESUME likewise.
        end: for RESUME, bytes the part will have after this answer.
    """

    step: Step
    why: str = ""
    advice: str = ""
    status: int = 0
    range_fault: bool = False
    busy: bool = False
    retry_after_s: float | None = None
    validator: str = ""
    total: int | None = None
    end: int | None = None


def judge(answer: Answer, *, offset: int, validator: str, total: int | None, max_bytes: int) -> Verdict:
    """Judges an answer.

    Args:
        offset: bytes of the part when it was asked; 0: everything was asked for.
        validator, total: of the part.
        max_bytes: a larger package is refused.
    """
    if answer.status == 200:
        return _whole(answer, max_bytes)
    if answer.status == 206 and offset:
        return _continued(answer, offset, validator, total, max_bytes)
    if answer.status == 416 and offset:
        match = _UNSATISFIED.fullmatch(answer.headers.get("content-range", "").strip())
        if match is not None and int(match[1]) == offset and total in (None, offset):
            return Verdict(step=Step.COMPLETE)
        return Verdict(step=Step.DISCARD, why="it has another package now (416)")
    why = f"it answered {answer.status}"
    if answer.status in _PASSING or 500 <= answer.status <= 599:
        return Verdict(
            step=Step.RETRY, why=why, status=answer.status, busy=answer.status in _BUSY,
            retry_after_s=retry_after_s(answer.headers),
        )
    return Verdict(step=Step.FINAL, why=why, advice=_advice(answer.status), status=answer.status)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds that Retry-After asks for (RFC 9110, 10.2.3), at most a day; None for nothing or nonsense.

    A date is counted from the answer's own Date: our clock may differ.
    """
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), RETRY_AFTER_MAX_S)
    until, now = _seconds(text), _seconds(headers.get("date", ""))
    if until is None or now is None:
        return None
    return min(max(until - now, 0.0), RETRY_AFTER_MAX_S)


def validator_of(headers: Mapping[str, str]) -> str:
    """What If-Range takes: a strong ETag, else a Last-Modified a second older than the answer (RFC 9110,
    8.8.2.2 and 13.1.5); empty for neither."""
    etag = headers.get("etag", "").strip()
    if etag:
        strong = len(etag) <= VALIDATOR_MAX and _STRONG_ETAG.fullmatch(etag) is not None
        return etag if strong else ""
    text = headers.get("last-modified", "").strip()
    modified, now = _seconds(text), _seconds(headers.get("date", ""))
    return text if modified is not None and now is not None and now - modified >= 1 else ""


def _whole(answer: Answer, max_bytes: int) -> Verdict:
    if answer.length is not None and answer.length > max_bytes:
        return too_large(answer.length, max_bytes)
    return Verdict(step=Step.ANEW, validator=validator_of(answer.headers), total=answer.length)


def _continued(answer: Answer, offset: int, validator: str, total: int | None, max_bytes: int) -> Verdict:
    match = _CONTENT_RANGE.fullmatch(answer.headers.get("content-range", "").strip())
    if match is None:
        return _wrong("it answered 206 without a Content-Range that can be read")
    begin, last = int(match[1]), int(match[2])
    whole = total if match[3] == "*" else int(match[3])
    if begin != offset or last < begin or (whole is not None and last >= whole):
        return _wrong("it answered with another range than was asked for")
    if total is not None and whole != total:
        return _wrong(f"the package has {whole} bytes now and had {total}")
    if answer.length is not None and answer.length != last + 1 - begin:
        return _wrong("its Content-Range and Content-Length contradict each other")
    etag = answer.headers.get("etag", "").strip()
    if etag and validator.startswith('"') and etag != validator:
        return _wrong("it continued with another package (its ETag changed)")
    if whole is not None and whole > max_bytes:
        return too_large(whole, max_bytes)
    return Verdict(step=Step.RESUME, total=whole, end=last + 1)


def _wrong(why: str) -> Verdict:
    return Verdict(step=Step.DISCARD, why=why, range_fault=True)


def too_large(size: int, max_bytes: int) -> Verdict:
    """The package is over the limit."""
    return Verdict(step=Step.FINAL, why=f"the package has {size} bytes or more, {max_bytes} are allowed",
                   advice="raise update.max_package_size if it is meant to be that large")


def _advice(status: int) -> str:
    if status in (401, 403, 407):
        return "check the user and password, or the signature, in download_url"
    if status in (404, 410):
        return "check download_url, and that the package was published"
    return "check download_url and the package server"


def _seconds(text: str) -> float | None:
    """Unix seconds of an HTTP date; None where it is none."""
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
