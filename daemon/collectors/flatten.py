"""A sample as plain numbers, for ReportMetrics (``map<string, double>``)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from daemon.model.metrics import Metrics

# What names a row of a list, in the lists of our own collectors; elsewhere the first text of a row.
ROW_NAMES = {"disks": "mountpoint", "devices": "device", "interfaces": "interface", "per_core": "core"}


def _number(value: Any) -> float | None:
    """A value as a finite double; None when it is no number."""
    if not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _row_name(key: str, index: int, row: Mapping[str, Any]) -> tuple[str, str | None]:
    """How a row is called, and the field that says so."""
    field = ROW_NAMES.get(key)
    if field is None:
        field = next((name for name, value in row.items() if isinstance(value, str)), None)
    if field is None or field not in row:
        return str(index), None
    return str(row[field]), field


def flatten(metrics: Metrics) -> dict[str, float]:
    """The numbers of a sample.

    Numbers and truth values go as they are, rows of lists as ``disks[/var].used`` and
    ``interfaces[eth0].bytes_sent`` (by position where nothing names a row); text, and what a double cannot
    tell (NaN, infinities), is left out.
    """
    flat: dict[str, float] = {}
    for key, value in metrics.values.items():
        if isinstance(value, (list, tuple)):
            for index, row in enumerate(value):
                if not isinstance(row, Mapping):
                    continue
                name, name_field = _row_name(key, index, row)
                for field, cell in row.items():
                    number = None if field == name_field else _number(cell)
                    if number is not None:
                        flat[f"{key}[{name}].{field}"] = number
            continue
        number = _number(value)
        if number is not None:
            flat[key] = number
    return flat
