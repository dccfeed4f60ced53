"""What a collector returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec


class Metrics(msgspec.Struct, frozen=True, kw_only=True):
    """One sample of one collector.

    Attributes:
        name: the collector's name.
        timestamp: wall time of the sample, Unix seconds.
        values: numbers, text, or lists of flat mappings (``disks``, ``interfaces``); see docs/protocols.md.
    """

    name: str
    timestamp: float
    values: Mapping[str, Any]
