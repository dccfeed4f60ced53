"""Properties of parsing a version out of anything a binary may print."""

from __future__ import annotations

import pytest

from daemon.agents.version import parse_version

pytest.importorskip("hypothesis")
from hypothesis import given, settings
from hypothesis import strategies as st

SETTINGS = settings(derandomize=True, deadline=None, max_examples=200)
NUMBERS = st.lists(st.integers(0, 10**6), min_size=2, max_size=5).map(lambda parts: ".".join(map(str, parts)))
WORDS = st.lists(st.sampled_from(["filebeat", "version", "(amd64)", "v", "HEAD,", "\n", "--", "\ufffd"]))


@SETTINGS
@given(output=st.text(max_size=300))
def test_what_is_found_is_part_of_the_output_and_begins_like_a_version(output: str) -> None:
    version = parse_version(output)
    assert version in output
    assert version == "" or (version[0].isascii() and version[0].isdigit() and "." in version)
    assert version == version.strip()


@SETTINGS
@given(before=WORDS, version=NUMBERS, after=WORDS, prefix=st.sampled_from(["", "v"]))
def test_the_first_number_with_dots_is_found_among_words(
    before: list[str], version: str, after: list[str], prefix: str
) -> None:
    assert parse_version(" ".join([*before, prefix + version, *after])) == version
