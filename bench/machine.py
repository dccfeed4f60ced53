"""The machine a table was made on."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path

import twisted


def machine() -> str:
    """CPU, cores, kernel, Python, Twisted, load and date in one line."""
    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    return (
        f"{model}, {os.cpu_count()} cores; Linux {platform.release()}; Python {platform.python_version()}; "
        f"Twisted {twisted.__version__}; load {load} at the start; {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    )
