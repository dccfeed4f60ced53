"""The memory collector."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from collectors_support import MEMINFO, make_proc

from daemon.collectors.memory import MemoryCollector, available_bytes, memory_values, parse_meminfo
from daemon.errors import CollectError

KB = 1024


def test_values_are_named_and_counted_as_designed() -> None:
    assert memory_values(parse_meminfo(MEMINFO)) == {
        "total": 16000 * KB,
        "available": 10000 * KB,
        "used": 6000 * KB,
        "used_percent": 37.5,
        "cached": 3700 * KB,
        "buffers": 500 * KB,
        "reclaimable": 700 * KB,
        "shared": 200 * KB,
        "swap_total": 2048 * KB,
        "swap_used": 1024 * KB,
        "total_bytes": 16000 * KB,
        "used_bytes": 6000 * KB,
        "free_bytes": 4000 * KB,
        "available_bytes": 10000 * KB,
        "usage_percent": 37.5,
    }


def test_kernel_without_available_is_estimated() -> None:
    info = parse_meminfo(MEMINFO)
    del info[b"MemAvailable"]
    assert available_bytes(info) == (4000 + 500 + 3000 + 700 - 200) * KB


@pytest.mark.parametrize("available", [20000, 1 << 40])
def test_container_with_more_available_than_total_counts_what_is_free(available: int) -> None:
    info = parse_meminfo(MEMINFO) | {b"MemAvailable": available * KB}
    assert available_bytes(info) == 4000 * KB


def test_nothing_is_negative_when_the_numbers_disagree() -> None:
    info = {b"MemTotal": 100, b"MemFree": 500, b"SwapTotal": 1, b"SwapFree": 9, b"Shmem": 10**9}
    values = memory_values(info)
    assert all(number >= 0 for number in values.values())
    assert values["available"] <= values["total"]


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"MemFree: 1 kB\n",
        b"MemTotal: x kB\n",
        b"MemTotal:\n",
        b"MemTotal: 0 kB\n",
        b"MemTotal: -5 kB\n",
        b"\xff\x00",
    ],
)
def test_junk_is_a_collect_error(junk: bytes) -> None:
    with pytest.raises(CollectError):
        parse_meminfo(junk)


def test_sample_bears_name_and_time(tmp_path: Path) -> None:
    one = MemoryCollector(interval_s=60, timeout_s=10, wall=lambda: 7.0, proc=make_proc(tmp_path))
    sample = one.collect()
    assert (sample.name, sample.timestamp, sample.values["total"]) == ("memory", 7.0, 16000 * KB)


def test_agrees_with_psutil_on_this_host() -> None:
    values = MemoryCollector(interval_s=60, timeout_s=10, wall=lambda: 0.0).collect().values
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    slack = 256 * KB * KB
    assert values["total"] == memory.total
    assert values["swap_total"] == swap.total
    for field in ("available", "used", "cached", "buffers"):
        assert abs(values[field] - getattr(memory, field)) < slack
