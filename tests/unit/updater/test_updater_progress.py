"""How far a download is."""

from __future__ import annotations

from daemon.updater.download.progress import Progress, Tenths


def test_ratio() -> None:
    assert Progress(received=5, total=20).ratio == 0.25
    assert Progress(received=5, total=None).ratio == 0.0
    assert Progress(received=0, total=0).ratio == 0.0
    assert Progress(received=30, total=20).ratio == 1.0


def test_each_tenth_is_told_once_even_by_a_download_that_begins_anew() -> None:
    tenths = Tenths()
    told = [tenths.passed(Progress(received=size, total=100)) for size in (0, 9, 10, 11, 35, 39, 5, 20, 39, 40, 100, 100)]
    assert told == [None, None, 10, None, 30, None, None, None, None, 40, 100, None]


def test_without_a_total_nothing_is_told() -> None:
    assert Tenths().passed(Progress(received=10**9, total=None)) is None
