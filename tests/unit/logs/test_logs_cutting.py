"""Where a log is cut: whole lines into the rotated file, whole blocks out of the live one, nothing lost or doubled."""

from __future__ import annotations

import itertools

import pytest

from daemon.logs.cutting import Cut, plan_cut


def cut(data: bytes, skip: int, block: int, may_split: bool = False) -> Cut | None:
    def first(begin: int, end: int) -> int:
        return data.find(b"\n", begin, end) + 1 or -1

    def last(begin: int, end: int) -> int:
        return data.rfind(b"\n", begin, end) + 1 or -1

    return plan_cut(len(data), skip, block, first, last, may_split=may_split)


@pytest.mark.parametrize(
    ("data", "skip", "expected"),
    [
        (b"", 0, None), (b"abc\n", 0, None), (b"abcdefg\n", 0, None),  # not more than a block
        (b"abcdefg\nX", 0, (0, 8, 8, 0)),  # a line that ends at the block
        (b"abc\ndefghi\njk\nlm\n", 0, (0, 17, 16, 1)),  # the last line end at or after 16
        (b"abc\ndefghi\njk\nlmnopq", 0, (0, 11, 8, 3)),  # the last line has not ended
        (b"abcdefghijklmnopqrstu", 0, None),  # no line end at all
        (b"abcdefghij\nklmnopqrst", 3, (3, 11, 8, 3)),
    ],
)
def test_the_cut(data: bytes, skip: int, expected: tuple[int, int, int, int] | None) -> None:
    found = cut(data, skip, 8)
    assert (None if found is None else (found.begin, found.end, found.collapse, found.skip)) == expected


def test_a_line_without_end_is_split_only_when_it_may() -> None:
    data = b"x" * 100
    assert cut(data, 0, 8) is None
    found = cut(data, 0, 8, may_split=True)
    assert found is not None and (found.end, found.collapse, found.split) == (96, 96, True)


def test_every_byte_is_in_one_file_and_every_file_has_whole_lines() -> None:
    hypothesis = pytest.importorskip("hypothesis")
    st = hypothesis.strategies
    # A number is a piece of half as many letters; an odd one ends a line. Bytes drawn one by one take ten times as long.
    text = st.lists(st.integers(0, 41), max_size=20)

    @hypothesis.settings(derandomize=True, deadline=None, max_examples=300)
    @hypothesis.given(st.lists(text, min_size=1, max_size=8), st.sampled_from([2, 4, 8, 16]), st.booleans())
    def check(writes: list[list[int]], block: int, may_split: bool) -> None:
        live, skip, rotated, everything = b"", 0, [], b""
        letters = itertools.cycle(range(ord("a"), ord("z") + 1))
        for write in writes:
            data = b"".join(bytes(itertools.islice(letters, n // 2)) + b"\n" * (n % 2) for n in write)
            live += data
            everything += data
            found = cut(live, skip, block, may_split)
            if found is None:
                continue
            assert found.collapse % block == 0 and 0 < found.collapse < len(live)
            assert skip == found.begin < found.end <= len(live)
            assert found.skip >= 0
            piece = live[found.begin : found.end]
            assert found.split or piece.endswith(b"\n")
            rotated.append(piece)
            live, skip = live[found.collapse :], found.skip
        assert b"".join(rotated) + live[skip:] == everything

    check()
