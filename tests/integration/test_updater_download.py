"""Downloads from a real server that does all that servers do to updaters; pauses pass on a clock."""

from __future__ import annotations

import gc
import hashlib
import os
import shutil
import socket
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import TestCase

from daemon import faults
from daemon.aio.threads import ThreadLanes
from daemon.errors import StorageError, UpdateDownloadError
from daemon.httpclient.fetching import Fetcher
from daemon.updater.download.downloader import DISK_TIMEOUT_S, LANE, OVERALL_S, TRIES_MAX, Downloader
from daemon.updater.download.part import ETAG, PACKAGE, PART
from daemon.updater.download.progress import Progress
from tests.fakes import package_server as server
from tests.fakes.package_server import Manner, PackageServer
from tests.fakes.threads import InlineThreads

BODY = os.urandom(1 << 20)
HALF = len(BODY) // 2
STALL_S = 0.2


class Downloads(TestCase):
    """What the tests share: a staging folder, a downloader, and a clock on which its pauses pass."""

    timeout = 60

    def setUp(self) -> None:
        self.reactor: Any = reactor
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.threads = ThreadLanes(self.reactor)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.threads.stop(5.0)))
        self.addCleanup(faults.arm, {})
        self.clock = Clock()
        self.allowed: list[str] = []
        self.told: list[tuple[float, Progress]] = []
        self.begin()

    def begin(self, boot_id: str = "boot-1", threads: Any = None) -> None:
        """A daemon's downloader; once more for the daemon that takes over."""
        self.downloader = Downloader(
            self.clock, Fetcher(self.reactor, self.threads, {}), threads or self.threads, boot_id=boot_id,
            random_unit=lambda: 0.5, stall_s=STALL_S,
        )

    def serve(self, *manners: Manner, body: bytes = BODY) -> tuple[PackageServer, str]:
        site = PackageServer(body, *manners)
        port = self.reactor.listenTCP(0, site, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        root = f"http://127.0.0.1:{port.getHost().port}/pkg/"
        self.allowed.append(root)
        return site, root + "thing.tar.gz"

    def start(self, url: str, *, max_bytes: int = 2 * len(BODY), sized: Any = None) -> Deferred[Path]:
        return Deferred.fromCoroutine(self.downloader.fetch(
            url, self.folder, max_bytes=max_bytes, allowed=lambda: tuple(self.allowed), sized=sized,
            progress=lambda progress: self.told.append((self.clock.seconds(), progress)),
        ))

    async def fetch(self, url: str, **more: Any) -> Path:
        """To its end; whenever it pauses, the clock goes on to the end of the pause."""
        work = self.start(url, **more)
        while not work.called:
            await deferLater(self.reactor, 0.001)
            for call in self.clock.getDelayedCalls():  # none but the one pause
                self.clock.advance(call.getTime() - self.clock.seconds())
        return await work

    async def refused(self, url: str, **more: Any) -> UpdateDownloadError:
        try:
            await self.fetch(url, **more)
        except UpdateDownloadError as error:
            return error
        raise AssertionError("it came")

    async def gone(self, *sites: PackageServer) -> None:
        for _ in range(400):
            if not any(site.open for site in sites):
                return
            await deferLater(self.reactor, 0.005)
        raise AssertionError("connections are left")

    async def until(self, true: Callable[[], object]) -> None:
        for _ in range(5000):
            if true():
                return
            await deferLater(self.reactor, 0.002)
        raise AssertionError("it did not come to that")

    @property
    def left(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}

    def whole(self, path: Path, body: bytes = BODY) -> None:
        """The package is there, complete, and nothing else is."""
        self.assertEqual(path, self.folder / PACKAGE)
        self.assertEqual(path.read_bytes(), body)
        self.assertEqual(self.left, {PACKAGE})


class GoodTest(Downloads):
    async def test_a_package_arrives(self) -> None:
        for manner in (server.well, server.chunked, server.deaf_to_ranges):
            site, url = self.serve(manner)
            self.whole(await self.fetch(url))
            self.assertEqual(site.ranges, [""])
            (self.folder / PACKAGE).unlink()
            await self.gone(site)

    async def test_through_a_redirection(self) -> None:
        target, elsewhere = self.serve()
        site, url = self.serve(server.redirect(elsewhere))
        self.whole(await self.fetch(url))

    async def test_its_size_is_told_before_a_byte_is_written_and_may_be_refused(self) -> None:
        told: list[tuple[int, int]] = []

        async def sized(total: int) -> None:
            told.append((total, (self.folder / PART).stat().st_size))
            raise UpdateDownloadError("no room for it")

        site, url = self.serve()
        error = await self.refused(url, sized=sized)
        self.assertEqual(error.message, "no room for it")
        self.assertEqual(told, [(len(BODY), 0)])
        self.assertEqual((self.folder / PART).stat().st_size, 0)
        self.assertEqual(len(site.requests), 1)
        await self.gone(site)

    async def test_one_that_is_there_already_is_not_asked_for(self) -> None:
        site, url = self.serve()
        await self.fetch(url)
        self.begin("boot-2")
        self.whole(await self.fetch(url))
        self.assertEqual(len(site.requests), 1)

    async def test_an_inline_package(self) -> None:
        path = await self.downloader.inline(BODY, self.folder, max_bytes=len(BODY))
        self.whole(path)
        self.assertEqual(path.stat().st_mode & 0o777, 0o600)
        with self.assertRaises(UpdateDownloadError) as caught:
            await self.downloader.inline(BODY, self.folder, max_bytes=len(BODY) - 1)
        self.assertIn("update.max_inline_size", str(caught.exception))


class ResumeTest(Downloads):
    async def test_a_cut_at_half_goes_on_from_there(self) -> None:
        for manner in (server.cut(HALF), server.cut(HALF, rudely=True), server.stall(HALF)):
            site, url = self.serve(manner, server.well)
            self.whole(await self.fetch(url))
            self.assertEqual(site.ranges, ["", f"bytes={HALF}-"])
            self.assertEqual(site.requests[1].headers["if-range"], '"v1"')
            (self.folder / PACKAGE).unlink()
            await self.gone(site)

    async def test_cut_after_cut_it_arrives_without_a_byte_twice(self) -> None:
        site, url = self.serve(*[server.cut(100_000)] * 9, server.well)
        self.whole(await self.fetch(url))
        self.assertEqual(site.ranges, [""] + [f"bytes={n * 100_000}-" for n in range(1, 10)])

    async def test_by_its_date_where_there_is_no_etag(self) -> None:
        site, url = self.serve(server.cut(HALF), server.well)
        site.etag, site.modified = "", "Sun, 06 Nov 1994 07:00:00 GMT"
        self.whole(await self.fetch(url))
        self.assertEqual(site.requests[1].headers["if-range"], site.modified)
        self.assertEqual(site.ranges[1], f"bytes={HALF}-")

    async def test_without_a_strong_validator_it_begins_anew(self) -> None:
        for etag in ("", 'W/"v1"'):
            site, url = self.serve(server.cut(HALF), server.well)
            site.etag = etag
            self.whole(await self.fetch(url))
            self.assertEqual(site.ranges, ["", ""])
            (self.folder / PACKAGE).unlink()

    async def test_another_package_in_between_begins_anew(self) -> None:
        site, url = self.serve(server.cut(HALF), server.well)
        other = os.urandom(len(BODY) - 1000)

        def published(request: server.Request) -> None:
            if request.range:
                site.body, site.etag = other, '"v2"'

        site.wanted = published
        self.whole(await self.fetch(url), other)
        self.assertEqual(len(site.requests), 2)

    async def test_a_server_that_goes_on_with_another_package_is_not_believed(self) -> None:
        site, url = self.serve(server.cut(HALF), server.altered(etag='"v2"'), server.cut(HALF), server.well)
        self.whole(await self.fetch(url))
        self.assertEqual(site.ranges, ["", f"bytes={HALF}-", "", ""])

    async def test_a_range_that_was_not_asked_for_is_not_believed(self) -> None:
        for wrong in ("bytes 0-9/10", f"bytes {HALF + 1}-{len(BODY) - 1}/{len(BODY)}", "x", None):
            site, url = self.serve(server.cut(HALF), server.altered(content_range=wrong, status=206), server.well)
            self.whole(await self.fetch(url))
            self.assertEqual(site.ranges, ["", f"bytes={HALF}-", ""])
            (self.folder / PACKAGE).unlink()

    async def test_more_than_the_range_says_is_not_believed(self) -> None:
        def overfull(peer: server.Peer, _request: server.Request) -> None:
            peer.head(206, content_range=f"bytes {HALF}-{len(BODY) - 1}/{len(BODY)}", transfer_encoding="chunked")
            peer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (HALF + 5, b"x" * (HALF + 5)))

        site, url = self.serve(server.cut(HALF), overfull, server.well)
        self.whole(await self.fetch(url))
        self.assertEqual(site.ranges[2], "")

    async def test_a_server_that_gives_it_in_slices(self) -> None:
        def sliced(peer: server.Peer, request: server.Request) -> None:
            begin = int(request.range[6:-1])
            piece = BODY[begin:begin + 200_000]
            peer.head(206, etag='"v1"', content_length=len(piece),
                      content_range=f"bytes {begin}-{begin + len(piece) - 1}/{len(BODY)}")
            peer.write(piece)

        site, url = self.serve(server.cut(1000), sliced)
        self.whole(await self.fetch(url))
        self.assertEqual(len(site.requests), 7)

    async def test_416(self) -> None:
        site, url = self.serve(server.raw(b'HTTP/1.1 200 OK\r\nETag: "v1"\r\nTransfer-Encoding: chunked\r\n\r\n'
                                          b"5\r\nhello\r\n"), server.well, body=b"hello")
        self.whole(await self.fetch(url), b"hello")  # all of it had come, but for its end
        self.assertEqual(site.ranges, ["", "bytes=5-"])
        (self.folder / PACKAGE).unlink()
        site, url = self.serve(server.cut(HALF), server.status(416, content_range="bytes */10"), server.well)
        self.whole(await self.fetch(url))
        self.assertEqual(site.ranges, ["", f"bytes={HALF}-", ""])

    async def test_the_next_daemon_goes_on_and_after_a_boot_it_begins_anew(self) -> None:
        for boot, asked in (("boot-1", f"bytes={HALF}-"), ("boot-2", "")):
            site, url = self.serve(server.stall(HALF), server.well)
            work = self.start(url)
            await self.until(lambda: any(progress.received == HALF for _, progress in self.told))
            work.cancel()
            with self.assertRaises(CancelledError):
                await work
            self.assertEqual(self.left, {PART, ETAG})
            self.begin(boot)
            self.told.clear()
            self.whole(await self.fetch(url))
            self.assertEqual(site.ranges, ["", asked])
            (self.folder / PACKAGE).unlink()


class PatienceTest(Downloads):
    async def test_429_for_an_hour_is_d4001_after_it_and_blames_nobody(self) -> None:
        site, url = self.serve(server.status(429))
        error = await self.refused(url)
        self.assertEqual(error.code.value, "D4001")
        self.assertIn(f"no success within {OVERALL_S:g} s, the last time it answered 429", str(error))
        self.assertIn("the version is not to blame", str(error))
        self.assertEqual(error.details, {"url": url, "status": 429})
        self.assertTrue(OVERALL_S - 60 <= self.clock.seconds() <= OVERALL_S)
        self.assertTrue(60 <= len(site.requests) <= 120, len(site.requests))

    async def test_429_with_retry_after_is_obeyed_for_an_hour(self) -> None:
        site, url = self.serve(server.status(429, retry_after="300"))
        error = await self.refused(url)
        self.assertIn("it answered 429, asking for 300 s", str(error))
        self.assertTrue(OVERALL_S - 360 <= self.clock.seconds() <= OVERALL_S)
        self.assertTrue(10 <= len(site.requests) <= 12, len(site.requests))

    async def test_who_asks_for_more_than_the_hour_is_not_waited_for(self) -> None:
        site, url = self.serve(server.status(503, retry_after="4000"))
        self.assertIn("asking for 4000 s", str(await self.refused(url)))
        self.assertEqual((len(site.requests), self.clock.seconds()), (1, 0.0))

    async def test_a_server_that_recovers(self) -> None:
        for manner in (server.status(500), server.status(503, retry_after="120"), server.status(408),
                       server.status(429), server.raw(b""), server.mute, server.endless_headers,
                       server.raw(b"SSH-2.0-x\r\n")):
            self.told.clear()
            begun = self.clock.seconds()
            site, url = self.serve(manner, manner, server.well)
            self.whole(await self.fetch(url))
            self.assertEqual(len(site.requests), 3)
            passed = self.clock.seconds() - begun
            self.assertTrue(passed >= (240 if "120" in self.notes else 1.5), passed)
            self.assertIn("next attempt in", self.notes)
            (self.folder / PACKAGE).unlink()
            await self.gone(site)

    @property
    def notes(self) -> str:
        return " | ".join(progress.note for _, progress in self.told if progress.note)

    async def test_a_server_that_is_not_there_is_asked_twenty_times(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as nobody:
            root = f"http://127.0.0.1:{nobody.getsockname()[1]}/"
        self.allowed.append(root)
        error = await self.refused(root + "x")
        self.assertIn(f"{TRIES_MAX} attempts in a row brought nothing new, the last time connection refused", str(error))
        self.assertTrue(300 <= self.clock.seconds() <= 1200, self.clock.seconds())

    async def test_one_that_always_breaks_off_at_the_same_byte_ends_too(self) -> None:
        def stubborn(peer: server.Peer, request: server.Request) -> None:
            server.cut(0 if request.range else HALF)(peer, request)

        for manner in (stubborn, lambda peer, request: server.cut(HALF)(peer, server.Request("", {}))):
            site, url = self.serve(manner)
            error = await self.refused(url)
            self.assertIn("attempts in a row brought nothing new, the last time the connection broke", str(error))
            self.assertEqual(len(site.requests), TRIES_MAX + 1)
            shutil.rmtree(self.folder)
            self.folder.mkdir()

    async def test_a_slow_drip_ends_with_the_hour(self) -> None:
        self.downloader = Downloader(
            self.reactor, Fetcher(self.reactor, self.threads, {}), self.threads, boot_id="b",
            random_unit=lambda: 0.5, overall_s=1.0, stall_s=STALL_S,
        )
        site, url = self.serve(server.drip(0.02))
        begun = self.reactor.seconds()
        with self.assertRaises(UpdateDownloadError) as caught:
            await self.start(url)
        self.assertIn("no success within 1 s", str(caught.exception))
        self.assertTrue(0.9 <= self.reactor.seconds() - begun <= 5.0)
        await self.gone(site)


class FinalTest(Downloads):
    async def test_statuses_that_no_patience_changes(self) -> None:
        for code, text in ((404, "published"), (403, "user and password"), (410, "published"), (400, "package server"),
                           (204, ""), (304, "")):
            site, url = self.serve(server.status(code))
            error = await self.refused(url)
            self.assertIn(f"cannot fetch {url}: it answered {code}; ", str(error))
            self.assertIn(text, str(error))
            self.assertEqual(error.details, {"url": url, "status": code})
            self.assertEqual((len(site.requests), self.clock.seconds()), (1, 0.0))
            await self.gone(site)

    async def test_too_large_as_it_says_and_as_it_turns_out(self) -> None:
        for manner, had in ((server.well, 0), (server.chunked, HALF), (server.endless_body, HALF)):
            site, url = self.serve(manner)
            error = await self.refused(url, max_bytes=HALF)
            self.assertIn(f"{HALF} are allowed; raise update.max_package_size", str(error))
            self.assertEqual(len(site.requests), 1)
            self.assertLessEqual((self.folder / PART).stat().st_size, had)
            await self.gone(site)

    async def test_one_exactly_at_the_limit(self) -> None:
        for manner in (server.well, server.chunked):
            _site, url = self.serve(manner)
            self.whole(await self.fetch(url, max_bytes=len(BODY)))
            (self.folder / PACKAGE).unlink()

    async def test_a_compressed_answer(self) -> None:
        _site, url = self.serve(server.altered(content_encoding="gzip"))
        self.assertIn("Content-Encoding gzip", str(await self.refused(url)))

    async def test_redirections_to_where_they_must_not_lead(self) -> None:
        other, foreign = self.serve()
        self.allowed.pop()
        for place, text in (
            (foreign, "is not below any prefix in update.allowed_urls"),
            ("file:///etc/passwd", "its scheme is file"),
            ("/secret", "is not below any prefix"),
            ("/pkg/%2e%2e/secret", "segment of nothing but dots"),
            ("http://[::1", ""),
            ("/pkg/{n}", "redirects more than 5 times"),
        ):
            site, url = self.serve(server.redirect(place))
            error = await self.refused(url)
            self.assertIn(text, str(error))
            self.assertEqual((len(site.requests), self.clock.seconds()), (6 if "{n}" in place else 1, 0.0))
        self.assertEqual(other.requests, [])

    async def test_a_url_that_is_no_longer_allowed_is_not_asked_for(self) -> None:
        site, url = self.serve()
        self.allowed.clear()
        self.assertIn("download_url is refused", str(await self.refused(url)))
        self.assertEqual((site.requests, self.left), ([], set()))

    async def test_secrets_of_the_url_are_in_no_message(self) -> None:
        site, url = self.serve(server.status(500), server.status(404))
        error = await self.refused(url.replace("//", "//user:hunter2@") + "?X-Signature=hunter3")
        told = " ".join(progress.note for _, progress in self.told)
        self.assertNotIn("hunter", f"{error} {error.details} {told}")
        self.assertIn(url, str(error))
        self.assertIn("X-Signature=hunter3", site.requests[0].line)
        self.assertIn("authorization", site.requests[0].headers)


class DiskTest(Downloads):
    async def test_a_disk_that_fills_is_a_fault_of_the_disk_and_later_it_goes_on(self) -> None:
        site, url = self.serve(body=BODY * 2)
        faults.arm({"HOSTDAEMON_FAULT": "download.write:3:enospc"})
        with self.assertRaises(StorageError) as caught:
            await self.fetch(url, max_bytes=len(BODY) * 2)
        self.assertIn("No space left on device", str(caught.exception))
        await self.gone(site)
        faults.arm({})
        had = (self.folder / PART).stat().st_size
        self.assertGreater(had, 0)
        self.whole(await self.fetch(url, max_bytes=len(BODY) * 2), BODY * 2)
        self.assertEqual(site.ranges, ["", f"bytes={had}-"])

    async def test_a_disk_that_fails_at_every_other_step(self) -> None:
        for point in ("atomic.write", "atomic.rename", "download.fsync", "download.rename"):
            site, url = self.serve()
            faults.arm({"HOSTDAEMON_FAULT": f"{point}:1:eio"})
            with self.assertRaises(StorageError):
                await self.fetch(url)
            faults.arm({})
            self.assertNotIn(PACKAGE, self.left)
            await self.gone(site)

    async def test_a_folder_that_is_not_there(self) -> None:
        site, url = self.serve()
        self.folder.rmdir()
        with self.assertRaises(StorageError):
            await self.fetch(url)
        self.folder.mkdir()
        self.assertEqual(site.requests, [])

    async def test_a_disk_that_hangs_is_given_up_and_pauses_the_server_meanwhile(self) -> None:
        threads = InlineThreads(self.clock)
        self.begin(threads=threads)
        site, url = self.serve(body=BODY * 20)
        site.wanted = lambda _request: threads.hang(LANE)
        work = self.start(url, max_bytes=len(BODY) * 20)
        await self.until(lambda: site.requests)
        await deferLater(self.reactor, 2 * STALL_S)  # our silence, not the server's
        self.assertFalse(work.called)
        self.clock.advance(DISK_TIMEOUT_S)
        with self.assertRaises(StorageError) as caught:
            await work
        self.assertIn("does not answer", str(caught.exception))
        await self.gone(site)


class LeaveTest(Downloads):
    async def test_a_caller_that_leaves_at_every_stage_leaves_a_part_to_go_on_with(self) -> None:
        for manner in (server.mute, server.stall(HALF), server.status(503, retry_after="60")):
            site, url = self.serve(manner)
            work = self.start(url)
            await self.until(lambda site=site: site.requests)
            await deferLater(self.reactor, 0.05)
            work.cancel()
            with self.assertRaises(CancelledError):
                await work
            self.assertEqual(self.clock.getDelayedCalls(), [])
            await self.gone(site)
            site.manners = [server.well]
            self.whole(await self.fetch(url))
            (self.folder / PACKAGE).unlink()

    async def test_when_it_has_ended_nothing_of_it_writes_any_more(self) -> None:
        entered, release = threading.Event(), threading.Event()
        real = os.pwrite

        def slow(fd: int, data: Any, offset: int) -> int:
            entered.set()
            release.wait(10)
            return real(fd, data, offset)

        self.patch(os, "pwrite", slow)
        site, url = self.serve()
        work = self.start(url)
        await self.until(entered.is_set)
        ended: list[object] = []
        work.addBoth(ended.append)
        work.cancel()
        await self.gone(site)
        self.assertEqual(ended, [])  # the write is still on the disk's thread
        release.set()
        await self.until(lambda: ended)
        shutil.rmtree(self.folder)
        await deferLater(self.reactor, 0.05)
        self.assertFalse(self.folder.exists())
        self.folder.mkdir()


class ProgressTest(Downloads):
    async def test_it_is_told_at_most_four_times_a_second_and_at_the_end(self) -> None:
        site, url = self.serve(body=BODY * 8)
        work = self.start(url, max_bytes=len(BODY) * 8)
        while not work.called:
            await deferLater(self.reactor, 0)
            self.clock.advance(0.01)
        await work
        times = [at for at, _ in self.told]
        for earlier, later in pairwise(times[:-1]):
            self.assertGreaterEqual(later - earlier, 0.25 - 1e-9)
        self.assertEqual(self.told[-1][1], Progress(received=len(BODY) * 8, total=len(BODY) * 8))
        received = [progress.received for _, progress in self.told]
        self.assertEqual(received, sorted(received))
        self.assertLessEqual(len(self.told), self.clock.seconds() * 4 + 2)


class BigServer:
    """Sends zeros from a thread of its own, as fast as they are taken."""

    def __init__(self, size: int) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self._size = size
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        line, _ = self.listener.accept()
        with line:
            while b"\r\n\r\n" not in line.recv(65536):
                pass
            line.sendall(b'HTTP/1.1 200 OK\r\nETag: "big"\r\nContent-Length: %d\r\n\r\n' % self._size)
            piece, left = bytes(1 << 20), self._size
            while left > 0:
                line.sendall(piece[:left])
                left -= len(piece)

    def close(self) -> None:
        self.listener.close()
        self.thread.join(5)


class BigTest(Downloads):
    timeout = 300

    async def download(self, size: int) -> tuple[float, int]:
        """Its longest stall of the loop, seconds, and how often the loop turned meanwhile."""
        site = BigServer(size)
        self.addCleanup(site.close)
        self.downloader = Downloader(
            self.reactor, Fetcher(self.reactor, self.threads, {}), self.threads, boot_id="b", random_unit=lambda: 0.5)
        root = f"http://127.0.0.1:{site.port}/"
        self.allowed.append(root)
        longest, turns, last = 0.0, 0, time.perf_counter()

        def visit() -> None:
            nonlocal longest, turns, last
            now = time.perf_counter()
            longest, turns, last = max(longest, now - last - 0.001), turns + 1, now
            if not work.called:
                self.reactor.callLater(0.001, visit)

        gc.collect()
        work = self.start(root + "big", max_bytes=size)
        last = time.perf_counter()
        visit()
        path = await work
        await deferLater(self.reactor, 0.01)
        self.assertEqual(path.stat().st_size, size)
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").digest()
        zeros = hashlib.sha256()
        for _ in range(size >> 20):
            zeros.update(bytes(1 << 20))
        self.assertEqual(found, zeros.digest())
        return longest, turns

    async def test_fifty_megabytes_leave_the_loop_its_turns_and_stay_out_of_memory(self) -> None:
        tracemalloc.start()
        try:
            _longest, turns = await self.download(50 << 20)
            _now, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        self.assertGreater(turns, 50)
        self.assertLess(peak, 8 << 20)

    @pytest.mark.slow
    async def test_half_a_gigabyte_never_holds_the_loop_for_fifty_milliseconds(self) -> None:
        longest, turns = await self.download(500 << 20)
        self.assertLess(longest, 0.050)
        self.assertGreater(turns, 500)
