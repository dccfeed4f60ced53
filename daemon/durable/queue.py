"""A queue on disk: first in, first out, bounded by size and age, with counts that are exact over restarts.

Every entry has a number. Entries are lines of a journal, and a cursor beside it holds the number of the
oldest one that still waits together with the counts, written in one step. So at any moment, also after a
``kill -9``, *appended = delivered + refused + dropped + waiting* holds; an entry the disk lost shows as a
missing number and counts as dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from daemon import faults
from daemon.durable.cursor import Cursor
from daemon.durable.explain import storage_error
from daemon.durable.journal import Journal, Position
from daemon.durable.segment import Segment, list_segments, read_segment
from daemon.errors import StorageError

SEGMENT_MAX_BYTES = 1024 * 1024
SEGMENT_MIN_BYTES = 4096
SEGMENTS_WITHIN = 8  # a queue dropped from its old end loses this part of it at once, at most
_SEGMENTS_MAX = 1_000_000  # the queue deletes segments itself, and counts
_HEAD_BYTES = 48  # number and time in front of a payload
CURSOR_FILE = "position"


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueItem:
    """An entry that waits.

    Attributes:
        number: from 1, without repeats over restarts.
        at: seconds, by the clock of whoever appended it.
        payload: what was appended.
    """

    number: int
    at: float
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueCounts:
    """The life of the queue in numbers, over all restarts."""

    waiting: int
    delivered_total: int
    refused_total: int
    dropped_total: int


@dataclass(slots=True)
class _Part:
    """A segment file."""

    position: Position
    path: Path
    size_bytes: int
    first: int | None  # number of its first good entry


class DurableQueue:
    """Opens the queue of a directory, which is made when it is missing. Blocks; one thread at a time.

    What was peeked at and not settled yet is in somebody's hands: no bound takes it.

    Args:
        directory: holds nothing else.
        max_bytes: of the files; one segment (an eighth, 1 MiB at most) above it for a moment.
        max_age_s: older entries are dropped.

    Raises:
        StorageError: the directory cannot be used.

    Attributes:
        corrupt_total: unreadable lines found at opening.
    """

    def __init__(self, directory: Path, *, max_bytes: int, max_age_s: float) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._max_age_s = max_age_s
        self._held = False  # something peeked at is in somebody's hands
        self._peeked: tuple[int, Position] | None = None  # the last number peeked at, and the place behind it
        self._from = Position()  # entries before it are done
        self._firsts: dict[int, int] = {}  # of the segments: number of their first entry
        self._unstored = False  # the cursor on disk is behind
        self._head = 0  # number of the oldest entry that waits
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error("make", directory, error) from error
        self._cursor = Cursor(directory / CURSOR_FILE)
        try:
            segment_bytes = max(SEGMENT_MIN_BYTES, min(SEGMENT_MAX_BYTES, max_bytes // SEGMENTS_WITHIN))
            self._journal = Journal(directory, segment_bytes=segment_bytes, segments=_SEGMENTS_MAX)
        except StorageError:
            self._cursor.close()
            raise
        self.corrupt_total = self._journal.corrupt_total
        try:
            self._begin(self._cursor.values)
            self._remove_done()
        except StorageError:
            self.close()
            raise

    def _begin(self, kept: Mapping[str, int]) -> None:
        self._delivered = kept.get("delivered", 0)
        self._refused = kept.get("refused", 0)
        self._dropped = kept.get("dropped", 0)
        newest = next((number for number, _at, _payload in _parsed(self._journal.tail(1))), 0)
        oldest = next((item.number for item, _end in self._items(Position())), newest + 1)
        self._head = kept.get("head", oldest)
        # Lines that a power failure took may be among those the cursor says are done.
        self._next = max(newest + 1, self._head, kept.get("next", 0))

    # ------------------------------------------------------------------ facts

    @property
    def counts(self) -> QueueCounts:
        """The numbers at this moment."""
        return QueueCounts(
            waiting=self._next - self._head, delivered_total=self._delivered,
            refused_total=self._refused, dropped_total=self._dropped,
        )

    @property
    def next_number(self) -> int:
        """The number the next entry gets."""
        return self._next

    @property
    def max_payload_bytes(self) -> int:
        """The longest payload."""
        return self._journal.max_line_bytes - _HEAD_BYTES

    @property
    def dirty(self) -> bool:
        """Whether there is something to sync."""
        return self._journal.dirty or self._cursor.dirty

    @property
    def unreadable(self) -> Path | None:
        """Where a damaged file of the counts was put; they begin anew. None when there was none."""
        return self._cursor.unreadable

    # --------------------------------------------------------------- appending

    def append(self, payloads: Sequence[bytes], at: float, *, first: int | None = None) -> None:
        """Adds entries; when this returns, a ``kill -9`` cannot lose them.

        Args:
            payloads: without a newline, ``max_payload_bytes`` at most.
            at: seconds; ages are measured by it, so it should not jump.
            first: the number of the first of them. Those already in the queue are passed over, so whoever
                does not know how an append ended repeats it with the same number.

        Raises:
            ValueError: a payload is too long or not one line; those before it were appended.
            StorageError: the disk refuses; those before it were appended.
        """
        known = 0 if first is None else max(0, self._next - first)
        for payload in payloads[known:]:
            self._journal.append(b"%d %.3f %b" % (self._next, at, payload))
            self._next += 1
        faults.hit("queue.appended")
        self.trim(at)

    # ---------------------------------------------------------------- reading

    def peek(self, at: float, count: int, max_bytes: int) -> tuple[QueueItem, ...]:
        """The oldest entries, at most so many and so large, but one at least when one waits.

        They are held until :meth:`settle` or :meth:`release`.

        Raises:
            StorageError: they cannot be read.
        """
        self._held = False
        self._peeked = None
        self.trim(at)
        found: list[QueueItem] = []
        size = 0
        for item, end in self._items(self._from):
            size += len(item.payload)
            if found and size > max_bytes:
                break
            found.append(item)
            self._peeked = (item.number, end)
            if len(found) >= count:
                break
        if not found and self._next > self._head:
            self._advance(self._next)  # the disk lost them: they count as dropped
        self._held = bool(found)
        return tuple(found)

    def settle(self, through: int, *, delivered: int = 0, refused: int = 0) -> None:
        """The entries up to a number are done; those of them that are in neither count were lost.

        Raises:
            StorageError: that could not be stored: it holds all the same, but for a kill before the next
                call stores it.
        """
        self._held = False
        faults.hit("queue.settle")
        if self._peeked is not None and self._peeked[0] == through:
            self._from = self._peeked[1]
        if through >= self._head:
            self._advance(through + 1, delivered=delivered, refused=refused)
        faults.hit("queue.settled")

    def release(self) -> None:
        """What was peeked at goes back: the bounds may take it again."""
        self._held = False

    def note(self, *, delivered: int = 0, refused: int = 0, dropped: int = 0) -> None:
        """Counts entries whose life passed elsewhere, while this disk refused them.

        Raises:
            StorageError: see :meth:`settle`.
        """
        self._delivered += delivered
        self._refused += refused
        self._dropped += dropped
        self._store()

    def _items(self, start: Position) -> Iterator[tuple[QueueItem, Position]]:
        """Entries that wait, oldest first, with the position behind each."""
        for entry in self._journal.read_from(start):
            for number, at, payload in _parsed((entry.line,)):
                if number >= self._head:
                    yield QueueItem(number=number, at=at, payload=payload), entry.end

    # ----------------------------------------------------------------- bounds

    def set_bounds(self, *, max_bytes: int, max_age_s: float) -> None:
        """Other bounds from now on."""
        self._max_bytes = max_bytes
        self._max_age_s = max_age_s

    def trim(self, at: float) -> None:
        """Drops what is too old or too much; nothing while entries are held.

        Raises:
            StorageError: the queue can be neither read nor written.
        """
        if self._unstored:
            self._store()
        if self._held:
            return
        fresh, start = self._head, self._from
        for item, end in self._items(start):
            fresh = item.number
            if item.at >= at - self._max_age_s:
                break
            fresh, start = item.number + 1, end
        parts = self._parts()
        total = sum(part.size_bytes for part in parts)
        while len(parts) > 1 and total > self._max_bytes:
            total -= parts.pop(0).size_bytes
            fresh = max(fresh, next((part.first for part in parts if part.first is not None), fresh))
        self._from = start
        if fresh > self._head:
            self._advance(fresh)

    def _advance(self, head: int, *, delivered: int = 0, refused: int = 0) -> None:
        """Everything before ``head`` is done; written before anything is deleted."""
        lost = head - self._head - delivered - refused
        self._head = head
        self._next = max(self._next, head)
        self._delivered += delivered
        self._refused += refused
        self._dropped += lost
        self._store()
        self._remove_done()

    def _store(self) -> None:
        self._unstored = True
        self._cursor.write({
            "head": self._head, "next": self._next, "delivered": self._delivered,
            "refused": self._refused, "dropped": self._dropped,
        })
        self._unstored = False
        faults.hit("queue.stored")

    def _remove_done(self) -> None:
        """Deletes the segments whose entries are all done; the one appended to stays."""
        parts = self._parts()
        begun = (n for n, part in enumerate(parts) if part.first is not None and part.first <= self._head)
        keep = max(begun, default=0)
        try:
            for part in parts[:keep]:
                part.path.unlink(missing_ok=True)
                self._firsts.pop(part.position.segment, None)
        except OSError as error:
            raise storage_error("delete delivered entries in", self._directory, error) from error
        if keep:
            self._from = max(self._from, parts[keep].position)

    def _parts(self) -> list[_Part]:
        try:
            return [
                _Part(Position(segment=each.first), each.path, _size(each.path), self._first_of(each))
                for each in list_segments(self._directory) if each.regular
            ]
        except OSError as error:
            raise storage_error("read the queue", self._directory, error) from error

    def _first_of(self, segment: Segment) -> int | None:
        known = self._firsts.get(segment.first)
        if known is None:
            lines = (line for _end, line in read_segment(segment.path, 0))
            known = next((number for number, _at, _payload in _parsed(lines)), None)
            if known is not None:
                self._firsts[segment.first] = known
        return known

    # ------------------------------------------------------------------- ends

    def sync(self) -> None:
        """Makes everything so far survive a power failure.

        Raises:
            StorageError: the disk refuses.
        """
        self._journal.sync()
        self._cursor.sync()

    def close(self) -> None:
        """Gives the descriptors back."""
        self._cursor.close()
        self._journal.close()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0  # somebody deleted it while we look


def _parsed(lines: Iterable[bytes]) -> Iterator[tuple[int, float, bytes]]:
    """Number, time and payload of lines; what is none of ours is passed over."""
    for line in lines:
        number, space, rest = line.partition(b" ")
        at, second, payload = rest.partition(b" ")
        if not (space and second and number.isdigit()):
            continue
        try:
            yield int(number), float(at), payload
        except ValueError:
            continue

