"""Samples as plain numbers."""

from __future__ import annotations

from typing import Any

import pytest

from daemon.collectors.flatten import flatten
from daemon.model.metrics import Metrics


def flat(**values: Any) -> dict[str, float]:
    return flatten(Metrics(name="x", timestamp=0.0, values=values))


def test_numbers_stay_and_text_goes() -> None:
    assert flat(a=1, b=2.5, model="Intel", on=True, off=False) == {"a": 1.0, "b": 2.5, "on": 1.0, "off": 0.0}


def test_rows_are_named_by_mount_interface_and_core() -> None:
    assert flat(
        disks=[{"device": "/dev/sda1", "mountpoint": "/var", "fstype": "ext4", "used": 3}],
        interfaces=({"interface": "eth0", "bytes_sent": 7},),
        per_core=[{"core": 0, "user": 1.5}],
    ) == {"disks[/var].used": 3.0, "interfaces[eth0].bytes_sent": 7.0, "per_core[0].user": 1.5}


def test_rows_of_strangers_are_named_by_their_first_text_or_by_position() -> None:
    assert flat(queues=[{"depth": 3, "queue": "mail"}], plain=[{"v": 1}, {"v": 2}], disks=[{"used": 1}]) == {
        "queues[mail].depth": 3.0,
        "plain[0].v": 1.0,
        "plain[1].v": 2.0,
        "disks[0].used": 1.0,
    }


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), -float("inf"), 10**400, None, "3", {"a": 1}, [1, 2], []]
)
def test_what_a_finite_double_cannot_tell_is_left_out(value: object) -> None:
    assert flat(x=value) == {}


def test_every_number_is_a_float() -> None:
    assert all(type(number) is float for number in flat(a=1, b=True, rows=[{"n": "r", "v": 2}]).values())
