"""``kill -9`` of an agent in a daemon that is alone."""

from __future__ import annotations

from bench.kills import compare
from bench.row import Row


def measure(quick: bool = False) -> Row:
    """The median over many kills, one at a time."""
    return compare(1, 30 if quick else 150)
