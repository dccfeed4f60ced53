"""The rules for gaps."""

from __future__ import annotations

import pytest

from daemon.events.history import find_gap, is_next


@pytest.mark.parametrize(
    ("order", "following", "expected"),
    [
        ((5, 1), (5, 2), True),
        ((5, 1), (5, 3), False),
        ((5, 9), (6, 1), True),
        ((5, 9), (9, 1), True),
        ((5, 9), (6, 2), False),
        ((5, 2), (5, 2), False),
        ((5, 2), (4, 1), False),
    ],
)
def test_neighbours(order: tuple[int, int], following: tuple[int, int], expected: bool) -> None:
    assert is_next(order, following) is expected


@pytest.mark.parametrize(
    ("cursor", "previous", "following", "expected"),
    [
        # the same epoch goes on: the numbers tell
        ((5, 3), (5, 3), (5, 4), (False, 0)),
        ((5, 3), None, (5, 4), (False, 0)),
        ((5, 3), None, (5, 9), (True, 5)),
        ((5, 0), None, (5, 1), (False, 0)),
        # another epoch follows: only a record of the cursor's own says that nothing was lost between
        ((5, 3), (5, 3), (6, 1), (False, 0)),
        ((5, 3), (5, 2), (6, 1), (False, 0)),
        ((5, 3), None, (6, 1), (True, None)),
        ((5, 3), (4, 8), (6, 1), (True, None)),
        ((5, 3), (5, 3), (6, 2), (True, None)),
        # nothing follows
        ((7, 3), None, None, (False, 0)),
        ((5, 3), (5, 3), None, (False, 0)),
        ((5, 3), None, None, (True, None)),
    ],
)
def test_gaps(
    cursor: tuple[int, int], previous: tuple[int, int] | None, following: tuple[int, int] | None,
    expected: tuple[bool, int | None],
) -> None:
    assert find_gap(cursor, previous, following, epoch=7) == expected
