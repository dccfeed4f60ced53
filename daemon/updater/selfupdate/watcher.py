"""Watches a new version of the daemon: a process of the *old* version, started before the old one gives way.

Its arguments are the installation and the update's id. It holds the daemon's pidfd (an exec keeps the
process), so it can neither miss its end nor signal a stranger. When the daemon dies unconfirmed or its time
is over, ``current`` goes back to the old version, which is then started, unless a service manager does that.
It ends when the update is confirmed, or when the old version runs and is ready.

Nothing of Twisted is imported: it is small, and runs while the new version's files may be anything.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from daemon import faults
from daemon.model.agent import ExitStatus, Identity
from daemon.procfs import pidfd as pidfds
from daemon.procfs.identity import identify, verify
from daemon.updater.selfupdate import launcher
from daemon.updater.selfupdate.probation import WATCHER_LOG, Phase, Probation, ProbationFile

LOOK_S = 0.25  # between two looks at the record
END_S = 30.0  # for a process to be gone after SIGKILL
SETTLE_S = 60.0  # for the old version to be ready again
START_AGAIN_S = (1.0, 5.0, 15.0)  # before further tries to start the old version
TAIL_BYTES = 16 * 1024
TAIL_LINES = 20
ASKED = frozenset({signal.SIGTERM, signal.SIGINT})


def sizes(paths: Sequence[str]) -> Mapping[str, int]:
    """How long the files are; 0 for one that is not there."""
    found = {}
    for path in paths:
        try:
            found[path] = os.lstat(path).st_size
        except OSError:
            found[path] = 0
    return found


def last_lines(paths: Sequence[str], known: Mapping[str, int]) -> tuple[str, ...]:
    """The last lines of the files, one after another, at most 20 of each; what cannot be read is left out.

    Args:
        paths: the files.
        known: how long each was before: what stands there is of another version. A shorter one was rotated.
    """
    lines: list[str] = []
    for path in paths:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            continue
        with os.fdopen(fd, "rb") as file, suppress(OSError):
            size = os.fstat(fd).st_size
            begin = before if (before := known.get(path, 0)) <= size else 0
            cut = size - begin > TAIL_BYTES
            file.seek(size - TAIL_BYTES if cut else begin)
            found = file.read(TAIL_BYTES).decode("utf-8", "replace").splitlines()
            lines += found[1 if cut else 0 :][-TAIL_LINES:]
    return tuple(lines)


def in_words(status: ExitStatus) -> str:
    """How a process ended."""
    if status.signal is not None:
        try:
            return f"it was ended by {signal.Signals(status.signal).name}"
        except ValueError:
            return f"it was ended by signal {status.signal}"
    return "its exit status is not known" if status.code is None else f"it exited with status {status.code}"


def was_asked_to_end(status: ExitStatus, probation: Probation) -> bool:
    """Whether somebody wanted the daemon to end, so that nobody starts it again.

    A daemon that leaves in order ends by the signal it got, or with 0.
    """
    return probation.stopping or status.signal in ASKED or status.code == 0


def held(work_dir: str) -> bool:
    """Whether a daemon holds the lock of that work_dir; by what its holder wrote into it and has open.

    Trying to take it would hold off the very daemon that is just being started.
    """
    lock = Path(work_dir) / "lock"
    try:
        with lock.open("rb") as file:
            pid, mine = int(file.read(32)), os.fstat(file.fileno())
        return any(
            os.path.samestat(each.stat(), mine) for each in Path(f"/proc/{pid}/fd").iterdir() if each.exists()
        )
    except (OSError, ValueError):
        return False


class Watcher:
    """One update's watcher.

    Args:
        root: of the installation.
        probation: as it stood at the start; what the record says later is asked anew each time.
        pidfd: of the daemon.
    """

    def __init__(self, root: Path, probation: Probation, pidfd: int) -> None:
        self._file = ProbationFile(root)
        self._root = root
        self._probation = probation
        self._pidfd = pidfd
        self._ended_by_us = False
        self._lengths = sizes(probation.logs)  # the new version has not begun yet

    def run(self) -> None:
        """Returns when nothing is left to be watched."""
        overdue = rolled_back_at = 0.0
        while True:
            if self._ended(LOOK_S):
                self._died()
                return
            found = self._look()
            now = time.monotonic()
            if found is None or found.state is Phase.CONFIRMED or found.settled:
                return
            if found.state is Phase.ROLLED_BACK:  # by the new version itself; the old one comes in its place
                rolled_back_at = rolled_back_at or now
                if now > rolled_back_at + SETTLE_S:
                    say("the old version is not ready, and alive; it is left to itself")
                    return
            elif not overdue and now >= found.deadline_mono:
                overdue = now
                self._overdue(found)

    def _said(self, found: Probation) -> tuple[str, ...]:
        """What the new version said last."""
        return last_lines(found.logs, self._lengths)

    def _look(self) -> Probation | None:
        """The record now; as it was where it cannot be read; None when it is another update's."""
        try:
            found = self._file.read()
        except OSError as error:
            say(f"the record cannot be read: {error}")
            return self._probation
        if found is None:
            return self._probation
        if found.id != self._probation.id:
            return None
        self._probation = found
        return found

    def _ended(self, patience_s: float) -> bool:
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(patience_s * 1000))

    def _overdue(self, found: Probation) -> None:
        """Its time is over: back first, then it is ended, by its pidfd alone."""
        if not self._take_back(
            f"version {found.new} had not proven itself in time", {"last_lines": self._said(found)}
        ):
            return
        self._ended_by_us = True
        for number, patience_s in ((signal.SIGTERM, found.kill_after_s), (signal.SIGKILL, END_S)):
            say(f"{number.name} to pid {found.daemon.pid}")
            pidfds.send_signal(self._pidfd, number)
            if self._ended(patience_s):
                return
        say("it hangs in the kernel; the old version cannot be started beside it")

    def _take_back(self, reason: str, evidence: dict[str, Any]) -> bool:
        faults.hit("update.watcher.back")
        for wait_s in (*START_AGAIN_S, None):
            try:
                taken = self._file.take_back(self._probation.id, "watcher", reason, evidence)
                break
            except OSError as error:
                say(f"{error}; {launcher.CURRENT} cannot be set back")
                if wait_s is None:
                    raise
                time.sleep(wait_s)
        if taken:
            say(f"back to version {launcher.current(self._root)}: {reason}")
        faults.hit("update.watcher.turned")
        return taken

    def _died(self) -> None:
        identity = self._probation.daemon
        status = pidfds.stranger_status(self._pidfd, identity.pid, identity.start_ticks)
        found = self._look()
        if found is None:
            return
        say(f"the daemon is gone, {in_words(status)}")
        if found.state is Phase.TRYING:
            self._take_back(
                f"version {found.new} was stopped before it had proven itself" if found.stopping
                else f"the daemon died before version {found.new} had proven itself: {in_words(status)}",
                {"code": status.code, "signal": status.signal, "last_lines": self._said(found)},
            )
            found = self._look() or found
        if found.settled or found.state is Phase.CONFIRMED or found.supervised:
            return
        if found.stopping or (was_asked_to_end(status, found) and not self._ended_by_us):
            say("somebody asked it to end; it is not started again")
            return
        self._start_old(found)

    def _start_old(self, found: Probation) -> None:
        """Starts the old version, unless somebody else did, until it is ready."""
        until = time.monotonic() + found.grace_s
        for pause_s in (0.0, *START_AGAIN_S):
            time.sleep(pause_s)
            while not (taken := held(found.work_dir)) and time.monotonic() < until:
                time.sleep(0.1)
            if taken:
                say("somebody else has started the daemon")
                return
            faults.hit("update.watcher.start")
            say(f"starting {' '.join(found.argv)}")
            child = subprocess.Popen(
                list(found.argv), env=dict(found.env), cwd=found.cwd if Path(found.cwd).is_dir() else "/",
                stdin=subprocess.DEVNULL, start_new_session=True,
            )
            end = time.monotonic() + SETTLE_S
            while time.monotonic() < end:
                if child.poll() is not None:
                    say(f"it ended with {child.returncode}")
                    break
                now = self._look()
                if now is None or now.settled:
                    child.returncode = 0  # it lives on, and is not ours to wait for
                    return
                time.sleep(LOOK_S)
            else:
                child.returncode = 0
                return
        say("the old version does not start; an operator has to look")


def say(text: str) -> None:
    """A line of the watcher's log, which is its stderr."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    print(f"{now} watcher: {text}", file=sys.stderr, flush=True)


def begin(root: Path, update_id: str) -> tuple[Watcher, Identity]:
    """Takes the daemon under watch.

    Raises:
        ValueError: there is nothing to watch.
        OSError: the kernel refuses.
    """
    found = ProbationFile(root).read()
    if found is None or found.id != update_id or found.state is not Phase.TRYING:
        raise ValueError(f"there is no update {update_id} to watch in {root}")
    pidfd = pidfds.open_pidfd(found.daemon.pid)
    if pidfd is None or verify(found.daemon) is None:
        raise ValueError(f"the daemon, pid {found.daemon.pid}, is gone")
    me = identify(os.getpid())
    if me is None:
        raise ValueError("/proc is not mounted")
    return Watcher(root, found, pidfd), me


def main(argv: Sequence[str]) -> int:
    """Prints the identity of the watcher, which has left the caller's session, and exits; or says why not."""
    root, update_id = Path(argv[0]), argv[1]
    faults.arm(os.environ)
    log = os.open(root / WATCHER_LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    ready, tell = os.pipe()
    # A fork in a process of its own, with one thread: the daemon itself never does this.
    if os.fork():
        os.close(tell)
        with os.fdopen(ready, "rb") as answer:
            said = answer.read().decode()
        print(said)
        return 0 if said.startswith("{") else 1
    os.setsid()
    os.dup2(log, 2)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(log, 1)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    try:
        watcher, me = begin(root, update_id)
    except (OSError, ValueError) as error:
        os.write(tell, str(error).encode())
        return 1
    os.write(tell, msgspec.json.encode(me))
    os.close(tell)
    faults.hit("update.watcher.begun")
    watcher.run()
    return 0

