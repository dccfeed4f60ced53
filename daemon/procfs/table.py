"""One look at every process of the host: who is in which session, who carries which mark."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from daemon.procfs.marks import Mark, parse_mark, read_environ, wiped
from daemon.procfs.stat import PROC, ProcStat, read_stat

EXEC_TRIES = 5


@dataclass(frozen=True, slots=True)
class Process:
    """One live process as the sweep saw it.

    Attributes:
        mark: what it carries, or None.
        wiped: it painted over its environment, so that a missing mark says nothing.
        hidden: its environment may not be read, likewise.
    """

    stat: ProcStat
    mark: Mark | None
    wiped: bool
    hidden: bool = False

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.stat.pid


class ProcessTable:
    """The processes of the host at one moment, zombies and kernel threads left out."""

    def __init__(self, processes: Iterable[Process]) -> None:
        self._processes = tuple(processes)
        self._by_token: dict[str, list[Process]] = {}
        self._by_session: dict[int, list[Process]] = {}
        self._wiped = [p for p in self._processes if p.wiped and p.mark is None]
        for process in self._processes:
            self._by_session.setdefault(process.stat.session, []).append(process)
            if process.mark is not None:
                self._by_token.setdefault(process.mark.token, []).append(process)

    def __iter__(self) -> Iterator[Process]:
        return iter(self._processes)

    def marked(self, token: str) -> tuple[Process, ...]:
        """Those that carry an agent's token."""
        return tuple(self._by_token.get(token, ()))

    def candidates(self, token: str, session: int) -> Iterator[Process]:
        """Those that may belong to an agent: by mark, by session (0 for none), or without readable mark."""
        seen = set()
        for process in (*self._by_token.get(token, ()), *self._by_session.get(session, ()), *self._wiped):
            if process.pid not in seen:
                seen.add(process.pid)
                yield process


def _look(pid: int) -> Process | None:
    stat = read_stat(pid)
    if stat is None or stat.dead or stat.kernel_thread:
        return None
    environ = read_environ(pid)
    for _try in range(EXEC_TRIES):
        if environ != b"":
            break
        os.sched_yield()  # in the middle of an exec it is empty for some microseconds
        environ = read_environ(pid)
    if environ is None:
        return Process(stat=stat, mark=None, wiped=False, hidden=True)
    return Process(stat=stat, mark=parse_mark(environ), wiped=wiped(environ))


def sweep() -> ProcessTable:
    """Reads the whole table: some 10 us a process. Blocks; call it on a thread where there are many."""
    pids = (int(name) for name in os.listdir(PROC) if name.isdigit())  # noqa: PTH208 - names, not paths
    return ProcessTable(process for process in map(_look, pids) if process is not None)
