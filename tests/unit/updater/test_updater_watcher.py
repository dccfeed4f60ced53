"""The watcher against real processes: a sleep plays the daemon, a short program the old version."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from daemon.durable.lock import DirectoryLock
from daemon.model.agent import ExitStatus, Identity
from daemon.procfs.identity import identify, verify
from daemon.updater.selfupdate import launcher
from daemon.updater.selfupdate.probation import Phase, Probation, ProbationFile
from daemon.updater.selfupdate.switching import WATCH
from daemon.updater.selfupdate.watcher import in_words, last_lines, sizes, was_asked_to_end
from tests.fakes.installation import install, put_on_probation

CHECKOUT = Path(__file__).resolve().parents[3]
OLD = """\
import os, sys, time
from pathlib import Path
from daemon.updater.selfupdate.probation import ProbationFile
root = Path(sys.argv[1])
with (root / "started").open("a") as file:
    file.write(f"{os.getpid()}\\n")
if {settles}:
    ProbationFile(root).settle("u1")
    time.sleep(60)
"""


def wait_for(what: str, check: Callable[[], Any], patience_s: float = 20.0) -> Any:
    end = time.monotonic() + patience_s
    while not (found := check()):
        assert time.monotonic() < end, f"waited in vain for: {what}"
        time.sleep(0.02)
    return found


class Rig:
    """One installation, a process that plays the daemon, and its watcher."""

    def __init__(self, folder: Path) -> None:
        self.root = install(folder / "i", "1", "2")
        self.file = ProbationFile(self.root)
        self.work = folder / "w"
        self.work.mkdir()
        self.daemon = subprocess.Popen(["sleep", "1000"])
        self.watcher: Identity | None = None

    def begin(self, *, settles: bool = True, deadline_s: float = 60.0, **facts: Any) -> Probation:
        """The record and the watcher, as the old version leaves them."""
        me = identify(self.daemon.pid)
        assert me is not None
        program = OLD.replace("{settles}", str(settles))
        probation = put_on_probation(
            self.root, daemon=me,
            argv=(sys.executable, "-c", program, str(self.root)),
            env={"PYTHONPATH": str(CHECKOUT), "PATH": os.environ["PATH"]}, work_dir=str(self.work),
            deadline_mono=time.monotonic() + deadline_s, kill_after_s=0.3, grace_s=0.3, **facts,
        )
        done = self.run("u1")
        assert done.returncode == 0, done
        self.watcher = msgspec.json.decode(done.stdout, type=Identity)
        return probation

    def run(self, update_id: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", WATCH, "\n".join([str(CHECKOUT), *sys.path]), str(self.root), update_id],
            capture_output=True, text=True, timeout=20, check=False,
        )

    def watches(self) -> bool:
        found = verify(self.watcher) if self.watcher is not None else None
        return found is not None and not found.dead

    def ended(self) -> Probation:
        """Waits for the watcher's end; the record then."""
        wait_for("the watcher's end", lambda: not self.watches())
        found = self.file.read()
        assert found is not None
        return found

    def started(self) -> int:
        """How often the old version was started."""
        return len(self.old_pids())

    def old_pids(self) -> list[int]:
        path = self.root / "started"
        return [int(line) for line in path.read_text().splitlines()] if path.exists() else []

    def end_daemon(self, number: int) -> None:
        self.daemon.send_signal(number)
        self.daemon.wait()

    def clean_up(self) -> None:
        if self.daemon.poll() is None:
            self.end_daemon(signal.SIGKILL)
        if self.watches() and self.watcher is not None:
            os.kill(self.watcher.pid, signal.SIGKILL)
        for pid in self.old_pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.clean_up()


def test_a_daemon_that_dies_is_taken_back_with_what_it_said_last(rig: Rig, tmp_path: Path) -> None:
    log = tmp_path / "daemon.log"
    log.write_text("of the old version\n")
    rig.begin(logs=(str(log), str(tmp_path / "none")))
    with log.open("a") as file:
        file.write("".join(f"line {n}\n" for n in range(10)))
    rig.end_daemon(signal.SIGSEGV)
    found = rig.ended()
    assert (found.state, found.by, found.settled) == (Phase.ROLLED_BACK, "watcher", True)
    assert "ended by SIGSEGV" in found.reason
    assert found.evidence["signal"] == signal.SIGSEGV
    assert found.evidence["last_lines"] == [f"line {n}" for n in range(10)]
    assert launcher.current(rig.root) == "1"
    assert rig.started() == 1


def test_a_confirmed_version_is_left_alone_and_the_watch_ends(rig: Rig) -> None:
    rig.begin()
    assert rig.watches()
    rig.file.confirm("u1")
    assert rig.ended().state is Phase.CONFIRMED
    assert rig.daemon.poll() is None
    assert (launcher.current(rig.root), rig.started()) == ("2", 0)


def test_another_update_ends_the_watch_over_this_one(rig: Rig) -> None:
    probation = rig.begin()
    put_on_probation(rig.root, daemon=probation.daemon, id="u2")
    assert rig.ended().id == "u2"
    assert rig.daemon.poll() is None


def test_after_the_deadline_it_is_ended_and_the_old_version_started(rig: Rig) -> None:
    rig.begin(deadline_s=0.3)
    assert rig.daemon.wait(10) == -signal.SIGTERM
    found = rig.ended()
    assert "not proven itself in time" in found.reason
    assert (launcher.current(rig.root), rig.started()) == ("1", 1)


def test_one_that_is_deaf_to_sigterm_is_killed(rig: Rig) -> None:
    rig.end_daemon(signal.SIGKILL)
    rig.daemon = subprocess.Popen(
        [sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
         "print(1, flush=True); time.sleep(60)"], stdout=subprocess.PIPE,
    )
    assert rig.daemon.stdout is not None
    rig.daemon.stdout.readline()
    rig.begin(deadline_s=0.3)
    assert rig.daemon.wait(10) == -signal.SIGKILL
    assert (rig.ended().settled, rig.started()) == (True, 1)
    rig.daemon.stdout.close()


@pytest.mark.parametrize("how", ["signal", "word"])
def test_a_daemon_that_was_asked_to_end_is_taken_back_but_not_started(rig: Rig, how: str) -> None:
    rig.begin()
    if how == "word":
        rig.file.note("u1", stopping=True)
    rig.end_daemon(signal.SIGTERM if how == "signal" else signal.SIGKILL)
    found = rig.ended()
    assert (found.state, found.settled) == (Phase.ROLLED_BACK, False)
    assert (launcher.current(rig.root), rig.started()) == ("1", 0)


def test_under_a_service_manager_it_only_goes_back(rig: Rig) -> None:
    rig.begin(supervised=True)
    rig.end_daemon(signal.SIGKILL)
    assert rig.ended().state is Phase.ROLLED_BACK
    assert (launcher.current(rig.root), rig.started()) == ("1", 0)


def test_somebody_else_who_starts_the_daemon_first_is_not_disturbed(rig: Rig) -> None:
    lock = DirectoryLock(rig.work)
    rig.begin()
    rig.end_daemon(signal.SIGKILL)
    lock.acquire()
    try:
        assert rig.ended().state is Phase.ROLLED_BACK
        assert rig.started() == 0
    finally:
        lock.release()


def test_an_old_version_that_does_not_start_is_tried_again(rig: Rig) -> None:
    rig.begin(settles=False)
    rig.end_daemon(signal.SIGKILL)
    wait_for("a second try", lambda: rig.started() >= 2)


def test_a_version_that_goes_back_by_itself_is_watched_until_the_old_one_is_there(rig: Rig) -> None:
    rig.begin()
    rig.file.take_back("u1", "daemon", "it was not well")
    time.sleep(0.6)
    assert rig.watches()
    rig.end_daemon(signal.SIGKILL)  # on the way
    found = rig.ended()
    assert (found.by, found.reason, found.settled, rig.started()) == ("daemon", "it was not well", True, 1)


def test_a_record_that_is_damaged_meanwhile_does_not_blind_it(rig: Rig) -> None:
    rig.begin()
    (rig.root / "probation.json").write_text("{")
    time.sleep(0.6)
    assert rig.watches()


@pytest.mark.parametrize("why", ["another id", "over", "stranger", "gone"])
def test_where_there_is_nothing_to_watch_it_says_so(rig: Rig, why: str) -> None:
    me = identify(rig.daemon.pid)
    assert me is not None
    if why == "stranger":
        me = Identity(boot_id=me.boot_id, pid=me.pid, start_ticks=me.start_ticks + 1)
    put_on_probation(rig.root, daemon=me)
    if why == "over":
        rig.file.confirm("u1")
    if why == "gone":
        rig.end_daemon(signal.SIGKILL)
    done = rig.run("u2" if why == "another id" else "u1")
    assert done.returncode == 1
    assert ("there is no update" if why in ("another id", "over") else "is gone") in done.stdout
    if why != "gone":
        assert rig.daemon.poll() is None


@pytest.mark.parametrize(
    ("status", "words", "asked"),
    [(ExitStatus(code=0), "it exited with status 0", True), (ExitStatus(code=1), "it exited with status 1", False),
     (ExitStatus(signal=15), "it was ended by SIGTERM", True), (ExitStatus(signal=9), "it was ended by SIGKILL", False),
     (ExitStatus(signal=63), "it was ended by signal 63", False), (ExitStatus(), "its exit status is not known", False)],
)
def test_how_it_ended_tells_whether_somebody_wanted_that(status: ExitStatus, words: str, asked: bool) -> None:
    probation = Probation(id="u", old="1", new="2", daemon=Identity(boot_id="b", pid=1, start_ticks=1))
    assert in_words(status) == words
    assert was_asked_to_end(status, probation) is asked


def test_the_last_lines_of_a_large_file_are_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("x" * 100_000 + "\n" + "last\n")
    os.mkfifo(tmp_path / "fifo")
    assert last_lines([str(path), str(tmp_path / "fifo")], {}) == ("last",)


@pytest.mark.parametrize(
    ("known", "lines"), [(0, ("old", "new")), (4, ("new",)), (8, ()), (9, ("old", "new"))],
    ids=["unknown", "grown", "silent", "rotated"],
)
def test_what_stood_there_before_is_of_another_version(tmp_path: Path, known: int, lines: tuple[str, ...]) -> None:
    path = tmp_path / "log"
    path.write_text("old\nnew\n")
    assert last_lines([str(path)], {str(path): known}) == lines


def test_of_a_long_log_the_last_twenty_lines_are_told(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("".join(f"line {n}\n" for n in range(100)))
    assert last_lines([str(path)], sizes([str(tmp_path / "none")])) == tuple(f"line {n}" for n in range(80, 100))
