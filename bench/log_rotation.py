"""A log that is written at full speed and rotated all the while: lines lost, and how long a write may take.

The floor is the same writer on a file that nobody rotates.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from bench.lab import ROOT
from bench.row import Row, ms
from daemon.config.schema import LogsConfig
from daemon.logs.agent_log import AgentLog

ROTATIONS = 20
MAX_BYTES = 4 * 2**20
LIMITS = LogsConfig(max_size=MAX_BYTES, max_files=1000, compress=False, max_total=2**40)

# Writes numbered lines until it is told to end; prints how many, and the longest time one write took.
WRITER = """
import os, sys, time
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
number, longest = 0, 0.0
while not os.path.exists(sys.argv[2]):
    many = range(number, number + 50)
    text = b"".join(b"line %d of a log that is written as fast as it goes\\n" % n for n in many)
    number += 50
    begin = time.perf_counter()
    os.write(fd, text)
    longest = max(longest, time.perf_counter() - begin)
print(number, longest)
"""


def _write(folder: Path, rotations: int, rotate: bool) -> tuple[int, int, float]:
    """Lines written, lines found, the longest write in seconds."""
    log = AgentLog(folder / "logs", list)
    log.folder.mkdir(parents=True)
    log.recover()
    end, done = folder / "end", 0
    writer = subprocess.Popen(
        [sys.executable, "-S", "-E", "-c", WRITER, str(log.live), str(end)], stdout=subprocess.PIPE
    )
    try:
        while done < rotations and writer.poll() is None:
            size = log.live.stat().st_size if log.live.exists() else 0
            if size > MAX_BYTES * (1 if rotate else done + 1):
                done += not rotate or log.rotate(LIMITS) is not None
    finally:
        end.touch()
        printed, _ = writer.communicate()
    number, longest = printed.split()
    found = sum(path.read_bytes().count(b"\n") for path in log.folder.glob("agent.log.*"))
    with log.live.open("rb") as file:
        file.seek(log.skip)  # the end of a line that is in the newest rotated file
        found += file.read().count(b"\n")
    return int(number), found, float(longest)


def measure(quick: bool = False) -> Row:
    """One run of each; the floor writes as much."""
    rotations = 5 if quick else ROTATIONS
    with tempfile.TemporaryDirectory(prefix="hd-bench-", dir=ROOT) as folder:
        _written, _found, floor = _write(Path(folder) / "floor", rotations, rotate=False)
        written, found, ours = _write(Path(folder) / "ours", rotations, rotate=True)
    return Row(
        measure=f"a log written at full speed over {rotations} rotations", floor=f"longest write {ms(floor)}",
        ours=f"{written - found} of {written:,} lines lost, longest write {ms(ours)}",
        ratio=None, aim="0 lost", holds=written == found,
    )
