"""Durations and sizes."""

from __future__ import annotations

import math

import pytest

from daemon.config.units import parse_duration, parse_size


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("500ms", 0.5),
        ("30s", 30.0),
        ("1m30s", 90.0),
        ("2h", 7200.0),
        ("7d", 604800.0),
        ("1.5h", 5400.0),
        ("1d2h3m4s5ms", 93784.005),
        ("0s", 0.0),
        ("90", 90.0),
        (90, 90.0),
        (0.25, 0.25),
        ("5m", 300.0),
    ],
)
def test_durations_come_to_seconds(written, seconds):
    assert parse_duration(written) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "written",
    [
        "",
        " ",
        "s",
        "1 s x",
        "1s1m",
        "1m1m",
        "1x",
        "-5s",
        "1e3",
        "1:30",
        "٣s",
        "1s\n",
        "9" * 65 + "s",
        True,
        False,
        None,
        -1,
        math.nan,
        math.inf,
        10**400,
        10**100,
        "4000d",
        [],
        b"1s",
    ],
)
def test_what_is_no_duration_is_refused(written):
    with pytest.raises(ValueError, match=r"must|duration|large"):
        parse_duration(written)


@pytest.mark.parametrize(
    ("written", "size"),
    [
        ("500MB", 500 * 10**6),
        ("500MiB", 500 * 2**20),
        ("1.5KiB", 1536),
        ("64 MiB", 64 * 2**20),
        ("10kB", 10**4),
        ("1TB", 10**12),
        ("2GiB", 2**31),
        ("7B", 7),
        ("1024", 1024),
        (524288000, 524288000),
        (5e8, 5 * 10**8),
        (0, 0),
    ],
)
def test_sizes_come_to_bytes(written, size):
    parsed = parse_size(written)
    assert parsed == size
    assert type(parsed) is int


@pytest.mark.parametrize(
    "written",
    [
        "",
        "MB",
        "5M",
        "5mb",
        "5Mb",
        "-5MB",
        "0.3B",
        "1e6",
        "1,5MB",
        "²MB",
        "9" * 65,
        "9" * 60 + "TB",
        True,
        None,
        -1,
        1.5,
        math.nan,
        math.inf,
        10**400,
        10**100,
        2**61,
    ],
)
def test_what_is_no_size_is_refused(written):
    with pytest.raises(ValueError, match=r"must|size|large|whole"):
        parse_size(written)


def test_messages_stay_short_whatever_was_written():
    for parse in (parse_duration, parse_size):
        for written in ("x" * 10_000, 10**5000, 10**100):
            with pytest.raises(ValueError) as caught:
                parse(written)
            assert len(str(caught.value)) < 250
