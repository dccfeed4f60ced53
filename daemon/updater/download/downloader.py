"""Brings a package into the staging folder of its update, with patience.

A server that is away, busy or slow never says anything about the version it was asked for: all of that is
D4001, after an hour at most, and nothing on the host was changed by then.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from twisted.logger import Logger

from daemon.aio.backoff import backoff_delay, full_jitter
from daemon.aio.reactor import Clock
from daemon.aio.sleep import sleep
from daemon.aio.threads import LaneBusy, LaneTimeout, Threads
from daemon.durable.atomic import write_atomic
from daemon.errors import StorageError, UpdateDownloadError
from daemon.httpclient import HttpError
from daemon.httpclient.fetching import Fetcher, FetchLimits
from daemon.updater.download.answers import Step, Verdict, too_large
from daemon.updater.download.landing import Landing
from daemon.updater.download.part import PACKAGE, PartFile
from daemon.updater.download.progress import Progress
from daemon.updater.download.urls import BadUrlError, PackageUrl, allowed_url

log = Logger()

LANE = "update-download"
DISK_TIMEOUT_S = 120.0  # for a piece, a sync of 16 MiB or a package that came inline, on a busy disk
OVERALL_S = 3600.0
STALL_S = 60.0
BASE_DELAY_S = 1.0
MAX_DELAY_S = 60.0
TRIES_MAX = 20  # in a row that brought nothing new, about a quarter of an hour; a busy server has the hour


class Downloader:
    """Downloads packages.

    Args:
        clock: monotonic; waits, and measures the hour.
        fetcher: asks.
        threads: writes, on the lane ``update-download``.
        boot_id: of this boot: a part is continued within it alone.
        random_unit: for jitter.
        overall_s: seconds for one package, pauses included; a daemon that takes over begins them anew.
        stall_s: seconds without a byte.
    """

    def __init__(
        self, clock: Clock, fetcher: Fetcher, threads: Threads, *, boot_id: str,
        random_unit: Callable[[], float], overall_s: float = OVERALL_S, stall_s: float = STALL_S,
    ) -> None:
        self._clock = clock
        self._fetcher = fetcher
        self._threads = threads
        self._boot_id = boot_id
        self._random_unit = random_unit
        self._overall_s = overall_s
        self._stall_s = stall_s

    async def fetch(
        self,
        url: str,
        folder: Path,
        *,
        max_bytes: int,
        allowed: Callable[[], tuple[str, ...]],
        progress: Callable[[Progress], None],
        sized: Callable[[int], Awaitable[None]] | None = None,
    ) -> Path:
        """Downloads a package, going on with what an earlier call left in ``folder``.

        Cancelled or failed, it leaves ``package.part`` and ``package.etag``, from which the next call goes
        on; who does not want that removes the folder. When it has ended nothing of it writes there any more.
        One call at a time for a folder.

        Args:
            folder: 0700, exists.
            max_bytes: ``update.max_package_size``.
            allowed: ``update.allowed_urls`` as it is now; asked for every URL, redirections too.
            progress: at most four times a second, and once more at each pause and at the end.
            sized: awaited with the size of the whole package when a server says it, before a byte of it is
                written; what it raises ends the download.

        Returns:
            ``folder/package``, on the platter.

        Raises:
            UpdateDownloadError: D4001 with cause and next step; ``details`` has url, and status where a
                server answered.
            StorageError: D1004, the full disk among others.
        """
        try:
            source = allowed_url(url, allowed())
        except BadUrlError as error:
            raise UpdateDownloadError(f"download_url is refused: {error}") from error
        part = PartFile(folder, source.text, self._boot_id)
        try:
            await self._disk(part.open)
            landing = Landing(
                self._clock, part, self._disk, max_bytes=max_bytes, progress=progress, sized=sized,
                refused=lambda verdict: _error(source, verdict),
            )
            if part.size > max_bytes:
                raise _error(source, too_large(part.size, max_bytes))
            await self._until_whole(source, allowed, part, landing)
            if not part.complete:
                await self._disk(part.finish)
            landing.tell(always=True)
        finally:
            await self._close(part)
        return folder / PACKAGE

    async def inline(self, data: bytes, folder: Path, *, max_bytes: int) -> Path:
        """Writes a package that came with the request.

        Args:
            folder: 0700, exists.
            max_bytes: ``update.max_inline_size``.

        Returns:
            ``folder/package``, on the platter.

        Raises:
            UpdateDownloadError: D4001, it is larger than ``max_bytes``.
            StorageError: D1004.
        """
        if len(data) > max_bytes:
            raise UpdateDownloadError(
                f"update_data has {len(data)} bytes, {max_bytes} are allowed; give a download_url, or raise "
                "update.max_inline_size"
            )
        package = folder / PACKAGE
        await self._disk(write_atomic, package, data)
        return package

    async def _disk(self, call: Callable[..., Any], *args: Any) -> Any:
        """See :class:`daemon.updater.download.landing.Disk`."""
        try:
            return await self._threads.run(LANE, DISK_TIMEOUT_S, call, *args)
        except (LaneTimeout, LaneBusy) as error:
            raise StorageError(
                f"the disk below update.download_dir does not answer: {error}; check that disk", errno=0
            ) from error

    async def _close(self, part: PartFile) -> None:
        """Waits for a write that was cancelled, too: it is on the same lane."""
        try:
            await self._disk(part.close)
        except StorageError as error:
            log.warn("update: {error}", error=str(error))

    async def _until_whole(
        self, source: PackageUrl, allowed: Callable[[], tuple[str, ...]], part: PartFile, landing: Landing
    ) -> None:
        """Asks, and asks again."""
        until = self._clock.seconds() + self._overall_s
        fruitless, furthest = 0, part.size

        def check(url: str) -> str:
            try:
                return allowed_url(url, allowed()).text
            except BadUrlError as error:
                raise HttpError(f"a URL on the way is refused: {error}", final=True) from error

        while not landing.whole:
            verdict = await self._attempt(source, check, landing, until - self._clock.seconds())
            if verdict is None:
                return
            fruitless += 1
            if part.size > furthest:
                fruitless, furthest = 0, part.size
            if verdict.step is Step.FINAL:
                raise _error(source, verdict)
            if verdict.step is Step.DISCARD:
                await self._disk(part.restart, "", None)
            pause_s = self._pause_s(max(0, fruitless - 1), verdict.retry_after_s)
            if pause_s >= until - self._clock.seconds():
                raise _error(source, verdict, f"no success within {self._overall_s:g} s")
            if fruitless >= TRIES_MAX and not verdict.busy:
                raise _error(source, verdict, f"{fruitless} attempts in a row brought nothing new")
            log.info("download of {url}: {why}; next attempt in {pause_s} s",
                     url=source.shown, why=verdict.why, pause_s=round(pause_s, 1))
            landing.tell(f"{verdict.why}; next attempt in {pause_s:.0f} s", always=True)
            await sleep(self._clock, pause_s)

    async def _attempt(
        self, source: PackageUrl, check: Callable[[str], str], landing: Landing, left_s: float
    ) -> Verdict | None:
        """One request; None when the package is whole."""
        try:
            await self._fetcher.fetch(
                source.text, landing, headers=landing.ask(), check=check,
                limits=FetchLimits(timeout_s=left_s, stall_s=self._stall_s),
            )
        except HttpError as error:
            return landing.broken(error)
        return landing.settled()

    def _pause_s(self, earlier: int, asked_s: float | None) -> float:
        """At least what the server asks for; spread, for a whole fleet may be waiting."""
        own_s = backoff_delay(earlier, base_delay=BASE_DELAY_S, max_delay=MAX_DELAY_S, multiplier=2.0)
        if asked_s is not None:
            return asked_s + full_jitter(own_s, self._random_unit)
        return own_s / 2 + full_jitter(own_s / 2, self._random_unit)


def _error(source: PackageUrl, verdict: Verdict, given_up: str = "") -> UpdateDownloadError:
    """The error for a verdict after which nothing more is tried."""
    cause = verdict.why
    if given_up:
        asked = "" if verdict.retry_after_s is None else f", asking for {verdict.retry_after_s:g} s"
        cause = f"{given_up}, the last time {cause}{asked}"
    advice = verdict.advice or "the version is not to blame: check the package server and ask again"
    details = {"status": verdict.status} if verdict.status else {}
    return UpdateDownloadError(f"cannot fetch {source.shown}: {cause}; {advice}", url=source.shown, **details)
