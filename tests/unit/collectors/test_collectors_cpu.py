"""The CPU collector: parsing, percentages, the baseline of the first round."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest
from collectors_support import STAT, make_proc

from daemon.collectors.cpu import (
    TICKS_PER_S,
    CpuCollector,
    CpuTimes,
    busy_percent,
    cpu_values,
    parse_model,
    parse_stat,
    since_boot_percent,
)
from daemon.errors import CollectError

ZERO = (0,) * 8


def times(*total: int, cores: dict[int, tuple[int, ...]] | None = None) -> CpuTimes:
    full = total + (0,) * (8 - len(total))
    return CpuTimes(total=full, cores=cores if cores is not None else {0: full})


def stat_line(*ticks: int) -> bytes:
    text = " ".join(map(str, ticks))
    return f"cpu  {text}\ncpu0 {text}\n".encode()


def collector(proc: str) -> CpuCollector:
    return CpuCollector(interval_s=60, timeout_s=10, wall=lambda: 5.0, proc=proc)


def test_reads_total_and_every_core() -> None:
    read = parse_stat(STAT)
    assert read.total == (1000, 20, 300, 8000, 100, 5, 15, 60)
    assert list(read.cores) == [0, 1]
    assert read.cores[1] == (400, 10, 100, 4100, 20, 0, 5, 30)


def test_old_kernels_have_fewer_columns() -> None:
    assert parse_stat(b"cpu 1 2 3 4\n").total == (1, 2, 3, 4, 0, 0, 0, 0)


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"intr 1 2 3\n",
        b"cpu\n",
        b"cpu 1 2\n",
        b"cpu a b c d\n",
        b"cpu 1 2 3 4\ncpuX 1 2 3 4\n",
        b"\x00\xff",
    ],
)
def test_junk_is_a_collect_error(junk: bytes) -> None:
    with pytest.raises(CollectError):
        parse_stat(junk)


def test_last_line_may_lack_its_end() -> None:
    assert parse_stat(b"cpu 1 2 3 4").total[3] == 4


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ((50, 0, 0, 50, 0, 0, 0, 0), 50.0),
        ((0, 0, 0, 100, 0, 0, 0, 0), 0.0),
        ((100, 0, 0, 0, 0, 0, 0, 0), 100.0),
        ((10, 0, 0, 40, 50, 0, 0, 0), 10.0),
        ((10, 0, 0, 80, 0, 0, 0, 10), 20.0),
        (ZERO, None),
    ],
)
def test_busy_is_neither_idle_nor_iowait(after: tuple[int, ...], expected: float | None) -> None:
    assert busy_percent(ZERO, after) == expected


def test_counters_that_go_back_stay_within_bounds() -> None:
    before = (100, 0, 100, 1000, 50, 0, 0, 9)
    after = (150, 0, 100, 900, 40, 0, 0, 0)
    assert busy_percent(before, after) == 100.0


def test_guest_time_is_not_counted_twice() -> None:
    read = parse_stat(b"cpu 50 0 0 50 0 0 0 0 50 0\n")
    assert since_boot_percent(read.total) == 50.0


@pytest.mark.parametrize(
    ("text", "model"),
    [
        (b"processor\t: 0\nmodel name\t: Intel(R) Xeon(R)\nflags\t: a b\n", "Intel(R) Xeon(R)"),
        (b"processor\t: 0\nBogoMIPS\t: 50\n\nHardware\t: BCM2835\n", "BCM2835"),
        (b"cpu\t\t: POWER9\n", "POWER9"),
        (b"model name\t:\n", ""),
        (b"\xff\xfe", ""),
    ],
)
def test_model_by_architecture(text: bytes, model: str) -> None:
    assert parse_model(text) == model


def test_values_are_named_as_designed() -> None:
    read = parse_stat(STAT)
    values = cpu_values(None, read, model="m", load=(1.0, 2.0, 3.0))
    assert set(values) == {
        "usage_percent", "cores", "model", "user", "system", "idle", "iowait", "steal", "per_core",
        "load1", "load5", "load15", "nice", "irq", "softirq",
    } | ({"boot_time_seconds"} if read.booted_at else set())
    assert values["cores"] == 2
    assert values["user"] == 1000 / TICKS_PER_S
    assert values["steal"] == 60 / TICKS_PER_S
    assert [row["core"] for row in values["per_core"]] == [0, 1]
    assert (values["load1"], values["load15"]) == (1.0, 3.0)


@pytest.mark.parametrize(
    ("tail", "booted_at"),
    [(b"intr 7 8\nctxt 5\nbtime 1790000000\nprocesses 9\n", 1_790_000_000), (b"btime 7\n", 7), (b"intr 7\n", 0)],
)
def test_the_boot_is_told_where_the_kernel_tells_it(tail: bytes, booted_at: int) -> None:
    read = parse_stat(b"cpu  1 2 3 4\ncpu0 1 2 3 4\n" + tail)
    assert read.booted_at == booted_at
    values = cpu_values(None, read, model="", load=None)
    assert values.get("boot_time_seconds", 0) == booted_at


def test_the_modes_of_a_cpu_are_all_its_time() -> None:
    ticks = b" ".join(b"%d" % (n * TICKS_PER_S) for n in range(1, 9))
    values = cpu_values(None, parse_stat(b"cpu  " + ticks + b"\ncpu0 " + ticks + b"\n"), model="", load=None)
    modes = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
    assert [values["per_core"][0][mode] for mode in modes] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_load_is_left_out_where_unknown() -> None:
    assert "load1" not in cpu_values(None, parse_stat(STAT), model="", load=None)


def test_too_short_a_window_gives_the_average_since_boot() -> None:
    before, after = times(100, 0, 0, 900), times(105, 0, 0, 905)
    assert cpu_values(before, after, model="", load=None)["usage_percent"] == since_boot_percent(after.total)


def test_wide_window_gives_the_use_within_it() -> None:
    before, after = times(100, 0, 0, 900), times(175, 0, 0, 925)
    assert cpu_values(before, after, model="", load=None)["usage_percent"] == 75.0


def test_core_that_came_online_has_its_average_since_boot() -> None:
    old = {0: (0, 0, 0, 100, 0, 0, 0, 0)}
    new = {0: (100, 0, 0, 100, 0, 0, 0, 0), 3: (30, 0, 0, 70, 0, 0, 0, 0)}
    values = cpu_values(times(0, 0, 0, 100, cores=old), times(130, 0, 0, 170, cores=new), model="", load=None)
    assert [(row["core"], row["usage_percent"]) for row in values["per_core"]] == [(0, 100.0), (3, 30.0)]


def test_first_round_right_after_construction_does_not_wait(tmp_path: Path) -> None:
    one = collector(make_proc(tmp_path, stat=stat_line(100, 0, 0, 300)))
    sample = one.collect()
    assert (sample.name, sample.timestamp) == ("cpu", 5.0)
    assert sample.values["usage_percent"] == 25.0
    assert sample.values["model"] == "Test CPU @ 2 GHz"


def test_first_round_later_uses_the_primed_baseline(tmp_path: Path) -> None:
    one = collector(make_proc(tmp_path, stat=stat_line(100, 0, 0, 300)))
    make_proc(tmp_path, stat=stat_line(190, 0, 0, 310))
    assert one.collect().values["usage_percent"] == 90.0


def test_baseline_stays_until_a_round_is_far_enough(tmp_path: Path) -> None:
    one = collector(make_proc(tmp_path, stat=stat_line(100, 0, 0, 300)))
    make_proc(tmp_path, stat=stat_line(110, 0, 0, 300))
    one.collect()  # 10 ticks: too short
    make_proc(tmp_path, stat=stat_line(110, 0, 0, 390))
    assert one.collect().values["usage_percent"] == 10.0
    make_proc(tmp_path, stat=stat_line(210, 0, 0, 390))
    assert one.collect().values["usage_percent"] == 100.0


def test_counters_reset_under_us_do_not_stick(tmp_path: Path) -> None:
    one = collector(make_proc(tmp_path, stat=stat_line(5000, 0, 0, 5000)))
    make_proc(tmp_path, stat=stat_line(1, 0, 0, 9))
    assert one.collect().values["usage_percent"] == 10.0
    make_proc(tmp_path, stat=stat_line(51, 0, 0, 59))
    assert one.collect().values["usage_percent"] == 50.0


def test_missing_proc_fails_the_round_not_the_construction(tmp_path: Path) -> None:
    one = collector(str(tmp_path / "nothing"))
    with pytest.raises(CollectError, match="D5001 cannot read"):
        one.collect()
    make_proc(tmp_path / "nothing")
    assert one.collect().values["cores"] == 2


def test_model_is_read_once_and_has_a_substitute(tmp_path: Path) -> None:
    proc = make_proc(tmp_path)
    (tmp_path / "cpuinfo").unlink()
    one = collector(proc)
    model = one.collect().values["model"]
    assert model == os.uname().machine
    make_proc(tmp_path)
    assert one.collect().values["model"] == model


def test_model_behind_the_head_of_cpuinfo_is_found(tmp_path: Path) -> None:
    block = b"processor\t: 0\nFeatures\t: fp asimd\n\n" * 300
    one = collector(make_proc(tmp_path, cpuinfo=block + b"Hardware\t: Board\n"))
    assert one.collect().values["model"] == "Board"


def test_agrees_with_psutil_on_this_host() -> None:
    one = CpuCollector(interval_s=60, timeout_s=10, wall=lambda: 0.0)
    before = psutil.cpu_times()
    values = one.collect().values
    after = psutil.cpu_times()
    for field in ("user", "system", "idle"):
        assert getattr(before, field) - 0.05 <= values[field] <= getattr(after, field) + 0.05
    assert values["cores"] == psutil.cpu_count()
    assert 0 <= values["usage_percent"] <= 100
