"""What the answers of a package server mean."""

from __future__ import annotations

from typing import Any

import pytest

from daemon.httpclient.sink import Answer
from daemon.updater.download.answers import Step, Verdict, judge, retry_after_s, validator_of

NOW = "Sun, 06 Nov 1994 08:49:37 GMT"
MAX = 1000


def answer(status: int, length: int | None = None, **headers: str) -> Answer:
    return Answer(status=status, length=length, headers={name.replace("_", "-"): value for name, value in headers.items()})


def judged(given: Answer, offset: int = 0, validator: str = '"v1"', total: int | None = 500, max_bytes: int = MAX) -> Verdict:
    return judge(given, offset=offset, validator=validator, total=total, max_bytes=max_bytes)


@pytest.mark.parametrize("offset", [0, 100])
def test_200_is_all_of_it_whatever_was_asked_for(offset: int) -> None:
    assert judged(answer(200, 700, etag='"v2"'), offset) == Verdict(step=Step.ANEW, validator='"v2"', total=700)
    assert judged(answer(200), offset) == Verdict(step=Step.ANEW)


def test_a_size_over_the_limit_is_final_before_a_byte_is_read() -> None:
    assert judged(answer(200, MAX)).step is Step.ANEW
    found = judged(answer(200, MAX + 1))
    assert (found.step, found.why) == (Step.FINAL, "the package has 1001 bytes or more, 1000 are allowed")
    assert "update.max_package_size" in found.advice
    found = judged(answer(206, content_range="bytes 100-1000/1001"), 100, total=None)
    assert found.step is Step.FINAL


@pytest.mark.parametrize(
    ("content_range", "length", "total", "end", "whole"),
    [
        ("bytes 100-499/500", 400, 500, 500, 500),
        ("bytes 100-499/500", None, 500, 500, 500),
        ("Bytes  100-199/500", 100, 500, 200, 500),
        ("bytes 100-499/*", 400, 500, 500, 500),
        ("bytes 100-499/500", 400, None, 500, 500),
        ("bytes 100-499/*", 400, None, 500, None),
    ],
)
def test_206_goes_on(content_range: str, length: int | None, total: int | None, end: int, whole: int | None) -> None:
    found = judged(answer(206, length, content_range=content_range, etag='"v1"'), 100, total=total)
    assert found == Verdict(step=Step.RESUME, end=end, total=whole)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content_range": "bytes 0-499/500"},
        {"content_range": "bytes 101-499/500"},
        {"content_range": "bytes 100-99/500"},
        {"content_range": "bytes 100-500/500"},
        {"content_range": "bytes 100-599/600"},
        {"content_range": "bytes */500"},
        {"content_range": "items 100-499/500"},
        {"content_range": "bytes 100-499"},
        {"content_range": "bytes 100-499/500, bytes 100-499/500"},
        {"content_range": "bytes 100-" + "9" * 40 + "/500"},
        {"content_type": "multipart/byteranges; boundary=x"},
        {"content_range": "bytes 100-499/500", "etag": '"v2"'},
        {"content_range": "bytes 100-499/500", "etag": 'W/"v1"'},
    ],
)
def test_a_206_that_does_not_continue_the_part_discards_it(headers: dict[str, str]) -> None:
    found = judged(answer(206, 400, **headers), 100)
    assert (found.step, found.range_fault) == (Step.DISCARD, True)
    assert found.why


def test_a_206_whose_length_contradicts_its_range() -> None:
    assert judged(answer(206, 399, content_range="bytes 100-499/500"), 100).step is Step.DISCARD


def test_a_206_that_nobody_asked_for_is_final() -> None:
    assert judged(answer(206, 500, content_range="bytes 0-499/500")).step is Step.FINAL


@pytest.mark.parametrize(
    ("content_range", "total", "step"),
    [
        ("bytes */100", None, Step.COMPLETE),
        ("bytes */100", 100, Step.COMPLETE),
        ("bytes */100", 500, Step.DISCARD),
        ("bytes */90", None, Step.DISCARD),
        ("bytes */500", 500, Step.DISCARD),
        ("", None, Step.DISCARD),
    ],
)
def test_416(content_range: str, total: int | None, step: Step) -> None:
    assert judged(answer(416, content_range=content_range), 100, total=total).step is step
    assert judged(answer(416, content_range=content_range), 0, total=total).step is Step.FINAL


@pytest.mark.parametrize(
    ("status", "step", "busy"),
    [
        (408, Step.RETRY, False), (425, Step.RETRY, False), (429, Step.RETRY, True), (500, Step.RETRY, False),
        (502, Step.RETRY, False), (503, Step.RETRY, True), (504, Step.RETRY, False), (599, Step.RETRY, False),
        (204, Step.FINAL, False), (302, Step.FINAL, False), (304, Step.FINAL, False), (400, Step.FINAL, False),
        (401, Step.FINAL, False), (403, Step.FINAL, False), (404, Step.FINAL, False), (407, Step.FINAL, False),
        (410, Step.FINAL, False), (451, Step.FINAL, False), (600, Step.FINAL, False),
    ],
)
def test_other_statuses(status: int, step: Step, busy: bool) -> None:
    for offset in (0, 100):
        found = judged(answer(status, retry_after="7"), offset)
        assert (found.step, found.busy, found.status) == (step, busy, status)
        assert found.why == f"it answered {status}"
        assert found.retry_after_s == (7 if step is Step.RETRY else None)
        assert bool(found.advice) is (step is Step.FINAL)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "0"}, 0),
        ({"retry-after": " 120 "}, 120),
        ({"retry-after": "9" * 400}, 86400),
        ({"retry-after": "Sun, 06 Nov 1994 08:51:37 GMT", "date": NOW}, 120),
        ({"retry-after": "Sun, 06 Nov 1994 08:00:00 GMT", "date": NOW}, 0),
        ({"retry-after": "Sun, 06 Nov 2094 08:00:00 GMT", "date": NOW}, 86400),
        ({"retry-after": "Sun, 06 Nov 1994 08:51:37 GMT"}, None),
        ({"retry-after": "soon", "date": NOW}, None),
        ({"retry-after": "-1", "date": NOW}, None),
        ({"retry-after": "1.5", "date": NOW}, None),
        ({"retry-after": "\u00b2", "date": NOW}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(headers) == seconds


@pytest.mark.parametrize(
    ("headers", "validator"),
    [
        ({}, ""),
        ({"etag": '"abc"'}, '"abc"'),
        ({"etag": '""'}, '""'),
        ({"etag": 'W/"abc"'}, ""),
        ({"etag": "abc"}, ""),
        ({"etag": '"a", "b"'}, ""),
        ({"etag": '"a\u00e4"'}, ""),
        ({"etag": '"' + "a" * 2000 + '"'}, ""),
        ({"etag": '"a"', "last-modified": "Sun, 06 Nov 1994 08:00:00 GMT", "date": NOW}, '"a"'),
        ({"last-modified": "Sun, 06 Nov 1994 08:49:36 GMT", "date": NOW}, "Sun, 06 Nov 1994 08:49:36 GMT"),
        ({"last-modified": NOW, "date": NOW}, ""),
        ({"last-modified": "Sun, 06 Nov 1994 08:00:00 GMT"}, ""),
        ({"last-modified": "yesterday", "date": NOW}, ""),
        # A weak ETag says that Last-Modified is not to be trusted to the byte either.
        ({"etag": 'W/"a"', "last-modified": "Sun, 06 Nov 1994 08:00:00 GMT", "date": NOW}, ""),
    ],
)
def test_validators(headers: dict[str, Any], validator: str) -> None:
    assert validator_of(headers) == validator
