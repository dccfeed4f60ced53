"""The rings of all agents, and the points made of them; blocks, called on one thread lane."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path
from typing import overload

from daemon.durable.atomic import remove_stale_temporaries
from daemon.durable.explain import storage_error
from daemon.errors import StorageError
from daemon.model.usage import UsagePoint
from daemon.resources.ring import RECORD_BYTES, Ring
from daemon.resources.usage_record import USAGE, Sample, encode, sample_of

Numbered = tuple[int, Sample]  # a sample and its number, see History


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What became of a batch.

    Attributes:
        newest: the number of the newest sample on disk of each agent of the batch; 0 for none.
        trouble: the first thing a disk refused, and what to do; empty when all is well.
    """

    newest: Mapping[str, int]
    trouble: str


class History:
    """One ring per agent, opened when it is first written or read.

    Samples come with a number that only grows. It tells those that are on disk already: a batch may come a
    second time because nobody waited long enough to hear of the first.

    Args:
        directory: ``work_dir/state/resources``; made when it is missing.

    Attributes:
        set_aside: files that were found instead of rings, by agent: where they are now.
        torn_total: damaged records found when rings were opened; they are left out.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._rings: dict[str, Ring[Sample]] = {}
        self._newest: dict[str, int] = {}
        self._ready = False
        self.set_aside: dict[str, str] = {}
        self.torn_total = 0

    def append(self, batch: Mapping[str, Sequence[Numbered]], capacity: int) -> Stored:
        """Stores samples of several agents; one agent's trouble does not hold the others up."""
        trouble = ""
        for agent_id, samples in batch.items():
            try:
                trouble = self._append(agent_id, samples, capacity) or trouble
            except StorageError as error:
                trouble = trouble or error.message
        return Stored(newest={each: self._newest.get(each, 0) for each in batch}, trouble=trouble)

    def _append(self, agent_id: str, samples: Sequence[Numbered], capacity: int) -> str:
        ring = self._ring(agent_id, capacity, again=True)
        new = self._after(agent_id, samples)
        begin = ring.next
        try:
            ring.append(sample for _number, sample in new)
        except StorageError:
            self._rings.pop(agent_id, None)  # whatever happened to it: the next time it is looked at anew
            raise
        finally:
            if ring.next > begin:
                self._newest[agent_id] = new[ring.next - begin - 1][0]
        return ring.refused

    def _after(self, agent_id: str, samples: Sequence[Numbered]) -> list[Numbered]:
        newest = self._newest.get(agent_id, 0)
        return [each for each in samples if each[0] > newest]

    def query(
        self, agent_id: str, since: float, step_s: int, capacity: int, waiting: Sequence[Numbered] = ()
    ) -> Sequence[UsagePoint]:
        """The points of an agent since a wall time, oldest first; none for an agent without history.

        Samples as they are come as :class:`StoredPoints`: a day of them costs a tenth that way.

        Args:
            agent_id: the agent.
            since: Unix seconds. What a clock that was ahead has stamped counts as well.
            step_s: seconds that make one point, 0 for the samples as they are.
            capacity: of its ring.
            waiting: samples that may not be on disk yet.

        Raises:
            StorageError: its ring cannot be read.
        """
        stored: Iterable[bytes] = ()
        if agent_id in self._rings or os.path.lexists(self._path(agent_id)):
            ring = self._ring(agent_id, capacity)
            stored = ring.read_since(since)
        more = [sample for _number, sample in self._after(agent_id, waiting) if sample.at >= since]
        try:
            if not step_s:
                return StoredPoints(b"".join(chain(stored, (encode(0, sample) for sample in more))))
            return points_of(chain(map(sample_of, stored), more), step_s)
        except StorageError:
            self._rings.pop(agent_id, None)
            raise

    def forget_others(self, agent_ids: Collection[str]) -> None:
        """Removes the rings of agents that are no longer there.

        Raises:
            StorageError: one cannot be removed.
        """
        for path in self._directory.glob("*.ring"):
            if path.stem not in agent_ids:
                self.forget(path.stem)

    def forget(self, agent_id: str) -> None:
        """Removes an agent's ring.

        Raises:
            StorageError: it cannot be removed.
        """
        self._rings.pop(agent_id, None)
        self._newest.pop(agent_id, None)
        try:
            with suppress(FileNotFoundError):
                self._path(agent_id).unlink()
        except OSError as error:
            raise storage_error("remove", self._path(agent_id), error) from error

    def _path(self, agent_id: str) -> Path:
        return self._directory / f"{agent_id}.ring"

    def _ring(self, agent_id: str, capacity: int, *, again: bool = False) -> Ring[Sample]:
        """The ring of an agent; ``again`` tries once more to resize one that a disk refused to."""
        known = self._rings.get(agent_id)
        if known is not None and known.wanted == capacity and not (again and known.refused):
            return known
        self._prepare()
        self._rings[agent_id] = ring = Ring(self._path(agent_id), capacity, USAGE)
        if known is None:
            self.torn_total += ring.torn
        if ring.set_aside:
            self.set_aside[agent_id] = ring.set_aside
        return ring

    def _prepare(self) -> None:
        if self._ready:
            return
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise storage_error("make", self._directory, error) from error
        remove_stale_temporaries(self._directory)
        self._ready = True


class StoredPoints(Sequence[UsagePoint]):
    """Samples as points, each made when it is asked for.

    Args:
        records: of the ring, intact, one after the other.
    """

    __slots__ = ("_records",)

    def __init__(self, records: bytes) -> None:
        self._records = records

    def __len__(self) -> int:
        return len(self._records) // RECORD_BYTES

    @overload
    def __getitem__(self, index: int) -> UsagePoint: ...

    @overload
    def __getitem__(self, index: slice) -> StoredPoints: ...

    def __getitem__(self, index: int | slice) -> UsagePoint | StoredPoints:
        if isinstance(index, slice):
            places = range(*index.indices(len(self)))
            return StoredPoints(b"".join(map(self._record, places)))
        return _single(self._record(range(len(self))[index]))

    def _record(self, place: int) -> bytes:
        return self._records[place * RECORD_BYTES : (place + 1) * RECORD_BYTES]


def _single(record: bytes) -> UsagePoint:
    """One sample as a point; :func:`_point` comes to the same, at several times the cost."""
    s = sample_of(record)
    return UsagePoint(
        timestamp=s.at, cpu=s.cpu, cpu_min=s.cpu, cpu_max=s.cpu, memory_rss=s.rss, memory_rss_min=s.rss,
        memory_rss_max=s.rss, memory_vms=s.vms, disk_read_bytes=s.read, disk_write_bytes=s.write,
        open_files=s.files, threads=s.threads, reported_cpu=s.reported_cpu,
        reported_memory=s.reported_memory,
    )


def points_of(samples: Iterable[Sample], step_s: int) -> tuple[UsagePoint, ...]:
    """Samples as points, one for each step that has any.

    Steps lie on whole multiples of ``step_s`` since 1970, so that two queries give the same ones. A clock
    that was set back makes a second point for a step rather than mixing what lies hours apart.
    """
    return tuple(
        _point((step + 1) * step_s, tuple(group))
        for step, group in groupby(samples, lambda sample: sample.at // step_s)
    )


def _point(timestamp: int, group: Sequence[Sample]) -> UsagePoint:
    last = group[-1]
    cpus = [s.cpu for s in group if s.cpu is not None]
    rss = [s.rss for s in group if s.rss is not None]
    said = [s.reported_cpu for s in group if s.reported_cpu is not None]
    return UsagePoint(
        timestamp=timestamp,
        cpu=_between(sum(cpus) / len(cpus), cpus) if cpus else None,
        cpu_min=min(cpus, default=None),
        cpu_max=max(cpus, default=None),
        memory_rss=sum(rss) // len(rss) if rss else None,
        memory_rss_min=min(rss, default=None),
        memory_rss_max=max(rss, default=None),
        memory_vms=last.vms,
        disk_read_bytes=last.read,
        disk_write_bytes=last.write,
        open_files=last.files,
        threads=last.threads,
        reported_cpu=_between(sum(said) / len(said), said) if said else None,
        reported_memory=next(
            (s.reported_memory for s in reversed(group) if s.reported_memory is not None), None
        ),
        samples=len(group),
    )


def _between(value: float, values: Sequence[float]) -> float:
    """A mean never leaves its values, whatever rounding does."""
    return min(max(value, min(values)), max(values))
