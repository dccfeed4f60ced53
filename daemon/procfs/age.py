"""How long a process has been running."""

from __future__ import annotations

import os
import time

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def process_age_s(start_ticks: int) -> float:
    """Seconds since a process with that start time (field 22 of its stat) began; never negative.

    Start times count from boot with sleep included, as CLOCK_BOOTTIME does (proc(5), Linux 2.6+).
    """
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - start_ticks / TICKS_PER_SECOND)


def boot_ticks() -> int:
    """Now, in the unit of process start times: what a process forked at this moment gets, or one more."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * TICKS_PER_SECOND)
