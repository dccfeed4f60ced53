"""The network collector: parsing, sums, rates over resets and vanishing interfaces."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from collectors_support import NET_DEV, make_proc
from twisted.internet.task import Clock

from daemon.collectors.network import (
    COUNTERS,
    NetworkCollector,
    counter_rate,
    network_values,
    parse_net_dev,
    select_interfaces,
)
from daemon.errors import CollectError

HEAD = b"Inter-|\n face |\n"


def net_dev(**received: int) -> bytes:
    rows = [
        f"  {name}: {count} 1 0 0 0 0 0 0 {count * 2} 1 0 0 0 0 0 0\n" for name, count in received.items()
    ]
    return HEAD + "".join(rows).encode()


def test_columns_are_the_ones_of_proc() -> None:
    row = dict(zip(COUNTERS, parse_net_dev(NET_DEV)["eth0"], strict=True))
    assert row == {
        "bytes_sent": 273356, "bytes_recv": 155310222, "packets_sent": 2502, "packets_recv": 4412,
        "errin": 1, "errout": 3, "dropin": 2, "dropout": 4,
    }  # fmt: skip


def test_names_with_colons_and_without_blanks() -> None:
    read = parse_net_dev(HEAD + b"eth0:1:5 1 0 0 0 0 0 0 6 1 0 0 0 0 0 0\n")
    assert list(read) == ["eth0:1"]


def test_name_that_is_not_utf8_is_still_text() -> None:
    (name,) = parse_net_dev(HEAD + b"e\xff: 5 1 0 0 0 0 0 0 6 1 0 0 0 0 0 0\n")
    assert name.encode()


@pytest.mark.parametrize(
    "junk", [b"eth0: 1 2 3\n", b"eth0: a b c d e f g h i j k l m n o p\n", b"no colon here\n"]
)
def test_junk_is_a_collect_error(junk: bytes) -> None:
    with pytest.raises(CollectError):
        parse_net_dev(HEAD + junk)


def test_a_host_without_interfaces_has_zero_sums() -> None:
    values = network_values({}, parse_net_dev(HEAD), 60)
    assert values["interfaces"] == []
    assert values["bytes_sent"] == 0
    assert values["bytes_sent_per_second"] == 0.0


@pytest.mark.parametrize(
    ("before", "after", "rate"),
    [(100, 400, 30.0), (100, 100, 0.0), (1 << 32, 50, 5.0), ((1 << 32) - 1, 0, 0.0), (0, 1, 0.1)],
)
def test_rate_is_never_negative(before: int, after: int, rate: float) -> None:
    assert counter_rate(before, after, 10.0) == rate


def test_sums_and_rates_are_those_of_the_rows() -> None:
    before, after = parse_net_dev(net_dev(a=100, b=50)), parse_net_dev(net_dev(a=200, b=150))
    values = network_values(before, after, 10.0)
    assert values["bytes_recv"] == 350
    assert values["bytes_sent"] == 700
    assert values["bytes_recv_per_second"] == 20.0
    assert values["bytes_sent_per_second"] == 40.0
    assert [row["bytes_recv_per_second"] for row in values["interfaces"]] == [10.0, 10.0]


def test_new_interface_has_no_rate_yet_and_a_gone_one_no_row() -> None:
    values = network_values(parse_net_dev(net_dev(old=10**9)), parse_net_dev(net_dev(new=5000)), 10.0)
    assert [row["interface"] for row in values["interfaces"]] == ["new"]
    assert values["bytes_recv_per_second"] == 0.0


def test_only_wanted_interfaces_are_kept() -> None:
    read = parse_net_dev(NET_DEV)
    assert list(select_interfaces(read, {"eth0", "absent"})) == ["eth0"]
    assert list(select_interfaces(read, ())) == ["lo", "eth0"]


def make(clock: Clock, proc: str, *names: str) -> NetworkCollector:
    return NetworkCollector(
        interval_s=60, timeout_s=10, clock=clock, wall=lambda: 9.0, interfaces=names, proc=proc
    )


def test_rates_are_measured_from_construction_on(tmp_path: Path) -> None:
    clock = Clock()
    one = make(clock, make_proc(tmp_path, net_dev=net_dev(a=100)), "a")
    assert one.collect().values["bytes_recv_per_second"] == 0.0
    clock.advance(10)
    make_proc(tmp_path, net_dev=net_dev(a=1100, b=5))
    sample = one.collect()
    assert (sample.name, sample.timestamp) == ("network", 9.0)
    assert sample.values["bytes_recv_per_second"] == 100.0
    assert [row["interface"] for row in sample.values["interfaces"]] == ["a"]
    clock.advance(10)
    make_proc(tmp_path, net_dev=net_dev(a=50))
    assert one.collect().values["bytes_recv_per_second"] == 5.0


def test_missing_proc_fails_the_round_not_the_construction(tmp_path: Path) -> None:
    clock = Clock()
    one = make(clock, str(tmp_path / "none"))
    with pytest.raises(CollectError):
        one.collect()
    make_proc(tmp_path / "none")
    assert one.collect().values["bytes_recv"] > 0
    clock.advance(10)
    make_proc(tmp_path / "none", net_dev=NET_DEV.replace(b"3193", b"4193"))
    assert one.collect().values["bytes_recv_per_second"] == 100.0


def test_agrees_with_psutil_on_this_host() -> None:
    clock = Clock()
    one = NetworkCollector(interval_s=60, timeout_s=10, clock=clock, wall=lambda: 0.0)
    before = psutil.net_io_counters(pernic=True)
    values = one.collect().values
    after = psutil.net_io_counters(pernic=True)
    assert [row["interface"] for row in values["interfaces"]] == list(before)
    for row in values["interfaces"]:
        for counter in COUNTERS:
            low = getattr(before[row["interface"]], counter)
            assert low <= row[counter] <= getattr(after[row["interface"]], counter)
