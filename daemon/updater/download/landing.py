"""Where the answers of a package server land: each is judged, and its body written where it belongs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from daemon.aio.reactor import Clock
from daemon.errors import UpdateDownloadError
from daemon.httpclient import HttpError
from daemon.httpclient.sink import Answer
from daemon.updater.download.answers import Step, Verdict, judge, too_large
from daemon.updater.download.part import PartFile
from daemon.updater.download.progress import Progress

PROGRESS_STEP_S = 0.25


class Disk(Protocol):
    """Calls what blocks on a lane."""

    async def __call__(self, call: Callable[..., Any], *args: Any) -> Any:
        """Calls it.

        Raises:
            StorageError: D1004.
        """
        ...


class Landing:
    """The sink of one download, attempt after attempt.

    Args:
        clock: spaces calls of ``progress``.
        part: what is written.
        disk: writes it.
        max_bytes: a larger package ends the download.
        refused: the error to raise for a verdict.
        progress, sized: see :meth:`daemon.updater.download.downloader.Downloader.fetch`.

    Attributes:
        whole: all of it is there.
    """

    def __init__(
        self,
        clock: Clock,
        part: PartFile,
        disk: Disk,
        *,
        max_bytes: int,
        refused: Callable[[Verdict], UpdateDownloadError],
        progress: Callable[[Progress], None],
        sized: Callable[[int], Awaitable[None]] | None,
    ) -> None:
        self.whole = part.complete or (part.total is not None and part.size == part.total)
        self._clock = clock
        self._part = part
        self._disk = disk
        self._max_bytes = max_bytes
        self._refused = refused
        self._progress = progress
        self._sized = sized
        self._told_at: float | None = None
        self._offset = 0  # where the body that was asked for begins
        self._verdict: Verdict | None = None
        self._ranges = True  # the server can be trusted with them
        self._overfull = False

    def ask(self) -> dict[str, str]:
        """The headers of the next request: for the rest of the part, where that can be had for certain."""
        part = self._part
        self._verdict, self._overfull = None, False
        self._offset = part.size if self._ranges and part.validator else 0
        if not self._offset:
            return {}
        return {"Range": f"bytes={self._offset}-", "If-Range": part.validator}

    async def begin(self, answer: Answer) -> bool:
        """See :class:`daemon.httpclient.Sink`."""
        part = self._part
        self._verdict = verdict = judge(
            answer, offset=self._offset, validator=part.validator, total=part.total, max_bytes=self._max_bytes
        )
        if verdict.step is Step.ANEW:
            if self._sized is not None and verdict.total is not None:
                await self._sized(verdict.total)
            await self._disk(part.restart, verdict.validator, verdict.total)
            return True
        if verdict.step is Step.RESUME:
            part.total = verdict.total
            return True
        return False

    async def write(self, piece: bytes) -> None:
        """See :class:`daemon.httpclient.Sink`."""
        part, after = self._part, self._part.size + len(piece)
        if after > self._max_bytes:
            raise self._refused(too_large(after, self._max_bytes))
        end = None if self._verdict is None else self._verdict.end
        if end is not None and after > end:
            self._overfull = True
            raise HttpError("it sends more than its Content-Range says")
        await self._disk(part.append, piece)
        self.tell()

    def broken(self, error: HttpError) -> Verdict:
        """What follows an attempt that failed."""
        if self._overfull:
            self._ranges = False
            return Verdict(step=Step.DISCARD, why=str(error))
        return Verdict(
            step=Step.FINAL if error.final else Step.RETRY, why=str(error),
            advice="check download_url, update.allowed_urls, the proxy and the certificates",
        )

    def settled(self) -> Verdict | None:
        """What follows an attempt that did not fail; None when the package is whole."""
        part, verdict = self._part, self._verdict
        assert verdict is not None  # an attempt without an answer fails
        if verdict.step is Step.RESUME and part.size != (part.total or verdict.end):
            return Verdict(step=Step.RETRY, why=f"it sent no more than the first {part.size} bytes")
        if verdict.step in (Step.ANEW, Step.RESUME, Step.COMPLETE):
            self.whole = True
            return None
        if verdict.step is Step.DISCARD and verdict.range_fault:
            self._ranges = False
        return verdict

    def tell(self, note: str = "", *, always: bool = False) -> None:
        """Tells how far it is, not too often."""
        now = self._clock.seconds()
        if always or self._told_at is None or now - self._told_at >= PROGRESS_STEP_S:
            self._told_at = now
            self._progress(Progress(received=self._part.size, total=self._part.total, note=note))
