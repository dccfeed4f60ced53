"""A daemon killed with -9 at each moment of delivery: nothing queued is lost, only a lost answer is repeated."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.fakes.rpc_manager import FakeManager, RealManager

ROOT = Path(__file__).parents[2]

# A link whose collector has a new sample at every look; says which samples are queued.
CHILD = """
import os, sys, time
from pathlib import Path
import daemon.rpc.grpc_env
from twisted.internet import reactor
from daemon import faults
from daemon.aio.threads import ThreadLanes
from daemon.config.schema import ManagerConfig
from daemon.events.bus import EventBus
from daemon.model.metrics import Metrics
from daemon.rpc.link_wire import read_line
from daemon.rpc.manager_link import ManagerLink
from tests.fakes.rpc_link import FACTS
from tests.fakes.supervised import FakeAlerts

port, folder, first, last = int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
faults.arm(os.environ)
number = first - 1

class Collectors:
    def get_latest(self):
        global number
        number = min(number + 1, last)
        return {"cpu": Metrics(name="cpu", timestamp=number, values={"x": 1})} if number >= first else {}

link = ManagerLink(
    reactor=reactor, clock=reactor, threads=ThreadLanes(reactor), wall=time.time,
    config=ManagerConfig(address=f"127.0.0.1:{port}", report_interval=0.02, reconnect_interval=0.02),
    facts=FACTS, labels={}, versions=lambda: ("1", ""), collectors=Collectors(), states=lambda: [],
    bus=EventBus(time.time), alerts=FakeAlerts(), directory=folder,
)
# A look is not yet a report: one that asks only for first samples puts nothing into the queue.
put, heard, taken = link._queue.put, link._queue.on_news, []
def takes(lines):
    taken.extend(read_line(line).timestamp for line in lines)
    put(lines)
def queued():
    os.write(1, b"".join(b"%d\\n" % stamp for stamp in taken))
    taken.clear()
    heard()
link._queue.put, link._queue.on_news = takes, queued

def look():
    state = link.state
    if number >= last and state.connected and not state.queued:
        reactor.stop()
    else:
        reactor.callLater(0.02, look)

link.startService()
reactor.callWhenRunning(look)
reactor.addSystemEventTrigger("before", "shutdown", link.stopService)
reactor.run()
counts = link.state
print("counts", counts.delivered, counts.dropped, counts.refused, counts.queued)
"""

POINTS = (
    "journal.append:6", "queue.appended:6", "queue.settle:5", "cursor.write:7", "queue.stored:5",
    "queue.settled:6",
)


@pytest.fixture
def folder() -> Path:
    made = Path(tempfile.mkdtemp(prefix="hd-kill-"))
    yield made  # type: ignore[misc]
    shutil.rmtree(made)


def run(port: int, folder: Path, first: int, last: int, fault: str) -> tuple[int, list[str]]:
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(port), str(folder), str(first), str(last)],
        stdout=subprocess.PIPE, cwd=ROOT, timeout=25,
        env={**os.environ, "HOSTDAEMON_FAULT": fault, "PYTHONPATH": str(ROOT)},
    )
    return child.returncode, child.stdout.decode().splitlines()


def test_nothing_queued_is_lost_at_any_moment(folder: Path) -> None:
    manager = FakeManager()
    server = RealManager(manager)
    try:
        queued: set[int] = set()
        first = 1
        for point in POINTS:
            status, said = run(server.port, folder / "reports", first, first + 10_000, point)
            assert status == -signal.SIGKILL, (point, said)
            queued |= set(map(int, said))
            first = max(queued, default=first) + 100
        status, said = run(server.port, folder / "reports", first, first, "")
        assert status == 0
    finally:
        server.stop()
    assert len(queued) >= 3 * len(POINTS), queued
    arrived = [stamp for _name, stamp in manager.samples]
    assert queued <= set(arrived)
    seen = list(dict.fromkeys(arrived))
    assert seen == sorted(seen)
    # Repeated was only what was in hand when it was killed: one or a few reports for each kill.
    repeats = len(arrived) - len(seen)
    assert repeats <= 3 * len(POINTS)
    delivered, dropped, refused, waiting = map(int, said[-1].split()[1:])
    assert (delivered, dropped, refused, waiting) == (len(seen), 0, 0, 0)
