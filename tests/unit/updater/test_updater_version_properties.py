"""Properties of the order of versions, whatever they look like."""

from __future__ import annotations

import pytest

from daemon.errors import UpdateVerifyError
from daemon.updater.package.version import Version

pytest.importorskip("hypothesis")
from hypothesis import assume, given, settings
from hypothesis import strategies as st

SETTINGS = settings(derandomize=True, deadline=None, max_examples=500, database=None)

# Few numbers and words, so that two versions often differ late or not at all.
NUMBERS = st.lists(st.sampled_from(["0", "1", "2", "10", "01"]), min_size=1, max_size=3).map(".".join)
IDENTIFIERS = st.lists(st.sampled_from(["0", "1", "10", "a", "rc", "rc1", "A", "-", "a-b"]), min_size=1, max_size=3)
DEBIAN = st.text(alphabet="ab01.-~", max_size=5)
TEXTS = st.builds(
    "".join,
    st.tuples(
        st.sampled_from(["", "", "0:", "1:"]), st.sampled_from(["", "v"]), NUMBERS,
        st.one_of(st.just(""), IDENTIFIERS.map(lambda ids: "-" + ".".join(ids))),
        st.one_of(st.just(""), DEBIAN.map(lambda text: "~" + text)),
        st.sampled_from(["", "+b1"]),
    ),
)
VERSIONS = TEXTS.map(Version.parse)


@SETTINGS
@given(a=VERSIONS, b=VERSIONS)
def test_total_and_antisymmetric(a: Version, b: Version) -> None:
    assert (a < b) + (a == b) + (a > b) == 1
    assert (a <= b) == (b >= a) == (a < b or a == b)
    assert (a <= b and b <= a) == (a == b)


@SETTINGS
@given(versions=st.lists(VERSIONS, min_size=3, max_size=3))
def test_transitive(versions: list[Version]) -> None:
    a, b, c = sorted(versions)
    assert a <= b <= c and a <= c
    for x in versions:
        for y in versions:
            for z in versions:
                assert not (x < y and y < z) or x < z
                assert not (x == y and y == z) or x == z


@SETTINGS
@given(a=VERSIONS)
def test_a_tilde_sorts_before_the_same_text_without_it(a: Version) -> None:
    assume("+" not in a.text)
    assert Version.parse(a.text + "~") < a
    assert Version.parse(a.text + "~~") < Version.parse(a.text + "~")


@SETTINGS
@given(text=st.text(max_size=150))
def test_any_text_is_a_version_or_refused(text: str) -> None:
    try:
        version = Version.parse(text)
    except UpdateVerifyError:
        return
    assert version.text == text and "/" not in text and text.isascii() and text.isprintable()
