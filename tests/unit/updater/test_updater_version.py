"""Which of two versions is the newer one."""

from __future__ import annotations

import itertools

import pytest

from daemon.errors import UpdateVerifyError
from daemon.updater.package.version import LENGTH_MAX, Version, newer

# Each line is in order; every pair of a line is compared, both ways.
ORDERED = [
    ["1.2.3", "1.10.0", "2"],
    ["1.0.0-SNAPSHOT", "1.0.0", "1.0.1-SNAPSHOT"],
    # the example of section 11 of SemVer 2.0.0
    ["1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11",
     "1.0.0-rc.1", "1.0.0"],
    ["1.0.0-9", "1.0.0-10", "1.0.0-a"],
    ["1.0~~", "1.0~~a", "1.0~", "1.0~beta", "1.0~rc1", "1.0~rc2", "1.0~rc10", "1.0-alpha", "1.0", "1.0.1~~"],
    ["1.0~a", "1.0~a.", "1.0~b"],
    ["7.0.15-1~deb12u2", "7.0.15-1~deb12u10", "7.0.15-1", "7.0.15"],
    ["2.9", "1:0.1", "1:2.0~rc1", "1:2.0", "2:1.0"],
    ["1.2.3", "1.2.3.1", "1.2.4"],
    ["2024.1.5", "2024.01.06", "2024.10.1"],
]


@pytest.mark.parametrize("line", ORDERED, ids=lambda line: line[0])
def test_order(line: list[str]) -> None:
    for (i, a), (j, b) in itertools.product(enumerate(line), enumerate(line)):
        assert newer(a, b) == (i > j), (a, b)
        assert (Version.parse(a) == Version.parse(b)) == (i == j), (a, b)


@pytest.mark.parametrize(
    ("a", "b"),
    [("8.11.3", "v8.11.3"), ("8.11.3", "V8.11.3"), ("1.0.0+a", "1.0.0+b"), ("1.0.0+a", "1.0.0"), ("1.0", "1.0.0"),
     ("1.0.0-rc.1+5", "1.0.0-rc.1"), ("0:1.0", "1.0"), ("1.01", "1.1"), ("0", "0.0"), ("1:1.0", "1:v1.0")],
)
def test_equal_in_order(a: str, b: str) -> None:
    assert Version.parse(a) == Version.parse(b)
    assert hash(Version.parse(a)) == hash(Version.parse(b))
    assert not newer(a, b) and not newer(b, a)


@pytest.mark.parametrize(
    "text",
    ["", " ", "v", "latest", "1.", ".1", "1..2", "-1", "1.0-", "1.0-rc..1", "1.0-.", "1.0+", "1.0 ", " 1.0", "1.0\n",
     "1.0/../..", "1.0\0", "１.０", "1.0-é", "1.0rc1", "1.0.x", "1:", "a:1.0", "1:2:3", "1.0_1", "vv1",
     "1." + "0" * LENGTH_MAX, "9" * 5000],
)
def test_what_is_no_version_is_refused_with_what_to_write_instead(text: str) -> None:
    with pytest.raises(UpdateVerifyError, match="is no version; write ") as caught:
        Version.parse(text)
    assert len(caught.value.message) < 250


def test_the_longest_version_is_one() -> None:
    assert Version.parse("1." + "9" * (LENGTH_MAX - 2)) > Version.parse("1.9")


def test_the_text_stays_and_its_plain_form_has_no_v() -> None:
    assert str(Version.parse("v1.0.0+7")) == Version.parse("v1.0.0+7").text == "v1.0.0+7"
    assert [Version.parse(t).plain for t in ("v1.0+7", "V1.0", "1:v2.0", "1.0-v1")] == ["1.0+7", "1.0", "1:2.0", "1.0-v1"]
