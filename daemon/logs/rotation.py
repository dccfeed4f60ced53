"""One log: cut when it is too large, mended after a crash. Everything blocks; one thread at a time.

Lossless: copy whole lines, fsync, remember where the file begins on the disk, take the blocks out of its
head (fallocate(2), FALLOC_FL_COLLAPSE_RANGE), make the copy the newest rotated file. Writers append all the
while. After a crash the place of the first byte tells whether the blocks were taken.

Where the filesystem cannot do that, the file is copied and truncated while its writers are stopped. Where
there is no room for a copy, the head is dropped and counted.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec

from daemon import faults
from daemon.durable.explain import DISK_FULL
from daemon.logs import kernel
from daemon.logs.cutting import Cut, plan_cut
from daemon.logs.holding import NotHeldError, held, identities, let_go
from daemon.logs.layout import COPY, LIVE, RECORD, clear_leftovers, make_first, opened
from daemon.logs.record import REMAINDER_MAX, Pending, RotationRecord, State
from daemon.logs.scanning import CHUNK, count_lines, first_line_end, head_sum, last_line_end
from daemon.model.agent import Identity

NOT_YET = 2**62  # the size of a truncation that has not come to it
HOLD_ROUNDS = 8  # looks for writers that were born while the others were being stopped
COPY_ROUNDS = 8  # copies of what was written during the copy before
REST_BYTES = 256 * 1024  # so little may be left to be copied while the writers stand still
SPLIT_FACTOR = 2  # a file without a line end is cut in the middle of the line at so many times its size


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a rotation came to.

    Attributes:
        way: collapse, truncate or drop.
        taken: bytes that left the live file.
        begin, end: which bytes of it were copied, offsets before the cut; equal for a drop.
        inode: of the new rotated file, 0 for none.
        dropped_bytes, dropped_lines: what was not copied.
        mended: it had broken off, in this daemon or one before, and was finished afterwards.
    """

    way: str
    taken: int
    begin: int
    end: int
    inode: int = 0
    dropped_bytes: int = 0
    dropped_lines: int = 0
    mended: bool = False


class LogRotation:
    """The log of one agent.

    Args:
        folder: ``work_dir/logs/{id}``.
        writers: the pids that may write to it now; asked only by the fallback.
    """

    __slots__ = ("_finished", "_lossless", "_record", "_writers", "folder")

    def __init__(self, folder: Path, writers: Callable[[], Sequence[int]]) -> None:
        self.folder = folder
        self._writers = writers
        self._record: RotationRecord | None = None
        self._finished: Outcome | None = None
        self._lossless = True  # until this filesystem says no

    @property
    def live(self) -> Path:
        """The file agents write to. Made anew each time: a hundred quiet logs keep no paths."""
        return self.folder / LIVE

    @property
    def _copy(self) -> Path:
        return self.folder / COPY

    def close(self) -> None:
        """Gives descriptors back."""
        if self._record is not None:
            self._record.close()
            self._record = None

    @property
    def skip(self) -> int:
        """Bytes at the head of the live file that are copied already."""
        return self._record.state.skip if self._record is not None else 0

    @property
    def broken_off(self) -> bool:
        """Whether a rotation is half done: :meth:`mend` comes before anything else.

        Raises:
            OSError: the disk does not say.
        """
        try:
            return self._opened_record().state.pending is not None
        except FileNotFoundError:  # no folder, no log
            return False

    # ---------------------------------------------------------------- recovery

    def recover(self) -> None:
        """Finishes or undoes what a daemon that died had begun. Only when nobody compresses.

        Raises:
            OSError: the disk refuses; it is tried again with the next look.
        """
        self._opened_record()
        clear_leftovers(self.folder)
        self.mend()

    def mend(self) -> None:
        """Finishes or undoes a rotation that broke off.

        Raises:
            OSError: the disk refuses; nothing is forgotten.
        """
        record = self._opened_record()
        pending = record.state.pending
        if pending is None:
            self._copy.unlink(missing_ok=True)
            return
        try:
            state, finished = self._finish_or_undo(record.state, pending)
            if pending.held:  # remembered until they go on
                record.write(_to_resume(state, pending.inode, pending.held))
        finally:
            let_go(pending.held)
        record.write(state)
        self._finished = finished

    def _finish_or_undo(self, state: State, pending: Pending) -> tuple[State, Outcome | None]:
        before = msgspec.structs.replace(state, pending=None)
        if pending.kind == "resume":
            return before, None
        after = State(inode=pending.inode, skip=pending.skip, head=pending.head)
        try:
            with opened(self.live, os.O_RDWR | os.O_APPEND) as fd:
                same = os.fstat(fd).st_ino == pending.inode
                happened = same and _happened(fd, pending)
                if happened and pending.kind == "truncate":
                    _write_back(fd, pending.remainder)
        except FileNotFoundError:
            same = happened = False
        whole = pending.kind == "collapse" or (pending.kind == "truncate" and pending.size < NOT_YET)
        if whole and self._copy.exists() and (happened or not same):
            make_first(self.folder, self._copy)  # without its live file the copy is all there is
        if happened:
            return after, self._outcome_of(pending, before.skip)
        self._copy.unlink(missing_ok=True)
        return before, None

    def _outcome_of(self, pending: Pending, begin: int) -> Outcome:
        taken = pending.length or pending.size - len(pending.remainder)
        end = taken + pending.skip
        if pending.kind == "drop":
            return Outcome(
                way="drop", taken=taken, begin=begin, end=end, dropped_bytes=end - begin,
                dropped_lines=pending.lines, mended=True,
            )
        first = self.folder / f"{LIVE}.1"
        inode = first.stat().st_ino if first.exists() else 0
        return Outcome(way=pending.kind, taken=taken, begin=begin, end=end, inode=inode, mended=True)

    def take_finished(self) -> Outcome | None:
        """What was finished by :meth:`mend`, or by a rotation that failed at its very end; once."""
        finished, self._finished = self._finished, None
        return finished

    def _opened_record(self) -> RotationRecord:
        if self._record is None:
            self._record = RotationRecord(self.folder / RECORD)
        return self._record

    # ---------------------------------------------------------------- rotation

    def changed_hands(self, fd: int) -> bool:
        """Whether somebody else truncated or replaced the live file; what was remembered of it goes then.

        Never while a rotation is half done: its own cut looks like somebody else's, and its note would go.

        Raises:
            OSError: the disk refuses to remember.
        """
        record = self._opened_record()
        state, facts = record.state, os.fstat(fd)
        if state.inode == facts.st_ino and (
            not state.skip or (facts.st_size >= state.skip and head_sum(fd, 0, state.skip) == state.head)
        ):
            return False
        record.write(State(inode=facts.st_ino))
        return state.inode != 0

    def forget(self, fd: int) -> None:
        """Nothing at the head of the live file is copied: somebody else truncated it.

        Raises:
            OSError: the disk refuses to remember.
        """
        record = self._opened_record()
        if record.state.skip:
            record.write(State(inode=os.fstat(fd).st_ino))

    def rotate(self, max_size: int) -> Outcome | None:
        """Cuts the live file; None where there is nothing to cut yet.

        Args:
            max_size: bytes of the live file; one without any line end is cut at twice that.

        Raises:
            OSError: the disk refuses; nothing is lost, the live file grows on.
            NotHeldError: the fallback could not hold a writer.
        """
        record = self._opened_record()
        if self.broken_off:
            self.mend()
            if (finished := self.take_finished()) is not None:
                return finished
        with opened(self.live, os.O_RDWR | os.O_APPEND) as fd:
            self.changed_hands(fd)
            facts = os.fstat(fd)
            if self._lossless:
                try:
                    place = kernel.first_block(fd)
                    return self._collapse(fd, facts.st_ino, facts.st_size, place, max_size)
                except kernel.Unsupported:
                    if record.state.pending is not None:  # it tells places, but does not collapse
                        self._lossless = False
                        self.mend()
            return self._truncate(fd, facts.st_ino)

    def _plan(self, fd: int, size: int, max_size: int) -> Cut | None:
        return plan_cut(
            size, self.skip, kernel.block_size(fd),
            lambda begin, end: first_line_end(fd, begin, end),
            lambda begin, end: last_line_end(fd, begin, end),
            may_split=size >= SPLIT_FACTOR * max_size,
        )

    def _collapse(self, fd: int, inode: int, size: int, place: int, max_size: int) -> Outcome | None:
        record = self._opened_record()
        cut = self._plan(fd, size, max_size)
        if cut is None:
            return None
        kind, lines = "collapse", 0
        try:
            self._copy_out(fd, cut.begin, cut.end)
        except OSError as error:
            self._copy.unlink(missing_ok=True)
            if error.errno not in DISK_FULL:
                raise
            kind, lines = "drop", count_lines(fd, cut.begin, cut.end)
        before = record.state
        faults.hit("logs.journal")
        head = head_sum(fd, cut.collapse, cut.skip)
        record.write(msgspec.structs.replace(before, pending=Pending(
            kind=kind, inode=inode, length=cut.collapse, skip=cut.skip, head=head, place=place, lines=lines,
        )))
        faults.hit("logs.collapse")
        kernel.collapse(fd, cut.collapse)
        faults.hit("logs.collapsed")
        new_inode = 0
        if kind == "collapse":
            new_inode = self._copy.stat().st_ino
            faults.hit("logs.rename")
            make_first(self.folder, self._copy)
            faults.hit("logs.renamed")
        record.write(State(inode=inode, skip=cut.skip, head=head))
        dropped = cut.end - cut.begin if kind == "drop" else 0
        return Outcome(
            way=kind, taken=cut.collapse, begin=cut.begin, end=cut.end, inode=new_inode,
            dropped_bytes=dropped, dropped_lines=lines,
        )

    def _truncate(self, fd: int, inode: int) -> Outcome | None:
        """The fallback: most is copied while writers run, the rest while they stand still."""
        begin = self.skip
        if os.fstat(fd).st_size <= begin:
            return None
        try:
            copied = self._copy_most(fd, begin)
            return self._while_held(inode, lambda writers: self._cut_held(fd, inode, begin, copied, writers))
        except OSError as error:
            if self.broken_off:
                raise
            self._copy.unlink(missing_ok=True)
            if error.errno not in DISK_FULL:
                raise
        try:
            return self._while_held(inode, lambda writers: self._drop_held(fd, inode, begin, writers))
        except NotHeldError:  # what they write just now may be dropped uncounted; a full disk is worse
            return self._drop_held(fd, inode, begin, ())

    def _copy_most(self, fd: int, begin: int) -> int:
        """Copies until little is left; returns up to where."""
        at = begin
        for _ in range(COPY_ROUNDS):
            size = os.fstat(fd).st_size
            self._copy_out(fd, at, size, behind=at - begin)
            at, written = size, size - at
            if written <= REST_BYTES:
                break
        return at

    def _while_held(self, inode: int, act: Callable[[tuple[Identity, ...]], Outcome]) -> Outcome:
        """Does something while all writers stand still; they are remembered for as long as that lasts."""
        record = self._opened_record()
        before = record.state
        holding: tuple[Identity, ...] = ()
        try:
            with ExitStack() as stack:
                for _ in range(HOLD_ROUNDS):
                    fresh = tuple(each for each in identities(self._writers()) if each not in holding)
                    if not fresh:
                        break
                    holding += fresh
                    record.write(msgspec.structs.replace(before, pending=Pending(
                        kind="truncate", inode=inode, size=NOT_YET, held=holding,
                    )))
                    stack.enter_context(held(fresh))
                else:
                    raise NotHeldError("its processes start others faster than they can be stopped")
                outcome = act(holding)
        except BaseException:
            if self.broken_off:
                self.mend()
            raise
        self._finished = outcome  # it is done, even if the disk refuses to hear of it now
        record.write(msgspec.structs.replace(record.state, pending=None))
        self._finished = None
        return outcome

    def _cut_held(
        self, fd: int, inode: int, begin: int, copied: int, writers: tuple[Identity, ...]
    ) -> Outcome:
        record = self._opened_record()
        size = os.fstat(fd).st_size
        if size < copied:
            raise OSError(errno.EIO, "the log became shorter while it was copied")
        end = max(last_line_end(fd, begin, size), 0)
        if end <= begin or size - end > REMAINDER_MAX:
            end = size  # one line that is longer than can be kept apart: it is cut
        if end > copied:
            self._copy_out(fd, copied, end, behind=copied - begin)
        else:
            with opened(self._copy, os.O_RDWR) as out:
                os.ftruncate(out, end - begin)
                os.fsync(out)
        remainder = os.pread(fd, size - end, end)
        faults.hit("logs.journal")
        record.write(msgspec.structs.replace(record.state, pending=Pending(
            kind="truncate", inode=inode, size=size, before=head_sum(fd, 0, size), remainder=remainder,
            held=writers,
        )))
        faults.hit("logs.collapse")
        os.ftruncate(fd, 0)
        faults.hit("logs.collapsed")
        _write_back(fd, remainder)
        new_inode = self._copy.stat().st_ino
        faults.hit("logs.rename")
        make_first(self.folder, self._copy)
        faults.hit("logs.renamed")
        record.write(_to_resume(State(inode=inode), inode, writers))
        return Outcome(way="truncate", taken=end, begin=begin, end=end, inode=new_inode)

    def _drop_held(self, fd: int, inode: int, begin: int, writers: tuple[Identity, ...]) -> Outcome:
        """No room and no way to cut: what is there goes, counted."""
        record = self._opened_record()
        size = os.fstat(fd).st_size
        lines = count_lines(fd, begin, size)
        record.write(msgspec.structs.replace(record.state, pending=Pending(
            kind="drop", inode=inode, size=size, before=head_sum(fd, 0, size), lines=lines, held=writers,
        )))
        os.ftruncate(fd, 0)
        record.write(_to_resume(State(inode=inode), inode, writers))
        return Outcome(
            way="drop", taken=size, begin=begin, end=size, dropped_bytes=size - begin, dropped_lines=lines
        )

    def _copy_out(self, fd: int, begin: int, end: int, *, behind: int = 0) -> None:
        """Appends a part of the live file to the copy, durably; ``behind`` bytes of the copy stay."""
        flags = os.O_WRONLY | os.O_CREAT | (0 if behind else os.O_TRUNC)
        with opened(self._copy, flags) as out:
            faults.hit("logs.copy")
            os.lseek(out, behind, os.SEEK_SET)  # sendfile(2) takes no O_APPEND
            at = begin
            while at < end:
                sent = os.sendfile(out, fd, at, min(CHUNK, end - at))
                if sent == 0:
                    raise OSError(errno.EIO, "the log became shorter while it was copied")
                at += sent
            os.fchmod(out, 0o640)
            os.fsync(out)


def _to_resume(state: State, inode: int, writers: tuple[Identity, ...]) -> State:
    """A state in which all is done but that the writers go on."""
    if not writers:
        return state
    return msgspec.structs.replace(state, pending=Pending(kind="resume", inode=inode, held=writers))


def _happened(fd: int, pending: Pending) -> bool:
    """Whether the head had left the live file when the rotation broke off."""
    size = os.fstat(fd).st_size
    if pending.size:  # a truncation; writers may have gone on since
        if pending.size == NOT_YET:
            return False
        return size < pending.size or head_sum(fd, 0, pending.size) != pending.before
    if size == 0:  # somebody truncated it since; whatever was in it is in the copy alone
        return True
    try:
        return kernel.first_block(fd) != pending.place
    except kernel.Unsupported:
        return False


def _write_back(fd: int, remainder: bytes) -> None:
    """The unfinished line is the new head; done once, also after a crash."""
    if remainder and os.pread(fd, len(remainder), 0) != remainder:
        os.write(fd, remainder)
