"""From a request to verified files, for real: allowed URLs, room, download, signature, hash, manifest.

Hashing and unpacking run on a lane of their own; a cancelled update stops them at the next piece.
"""

from __future__ import annotations

import hmac
import os
import shutil
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from threading import Event
from typing import TypeVar

from twisted.internet.defer import CancelledError

from daemon.aio.threads import LaneBusy, LaneTimeout, Threads
from daemon.config.schema import UpdateConfig
from daemon.durable.explain import storage_error
from daemon.errors import StorageError, UpdateDownloadError, UpdateVerifyError
from daemon.interfaces import WallClock
from daemon.model.update import DAEMON
from daemon.updater.download.downloader import Downloader
from daemon.updater.download.space import check_space
from daemon.updater.download.urls import BadUrlError, allowed_url
from daemon.updater.intake import Contents, Signed
from daemon.updater.known import KnownPackages
from daemon.updater.package.digest import Cancelled, Progress, digest_of
from daemon.updater.package.host import Host, this_host
from daemon.updater.package.keys import PublicKeys
from daemon.updater.package.manifest import Manifest, check
from daemon.updater.package.unpacking import Limits, Unpacked, bare, unpack
from daemon.updater.package.version import Version
from daemon.updater.record import UpdateRecord
from daemon.updater.staging import FILES, PACKAGE
from daemon.updater.target import UpdateTarget

LANE = "update-verify"
VERIFY_S = 1800.0  # 512 MiB on a disk that others keep busy
SPACE_S = 30.0
GZIP = b"\x1f\x8b"  # RFC 1952
BARE_NAME = "program"  # it replaces the agent's binary, whatever that is called

T = TypeVar("T")


class PackageIntake:
    """Implements :class:`daemon.updater.intake.Intake`.

    Args:
        threads: hash and unpack.
        downloader: downloads.
        config: the section ``update`` in force.
        known: packages that ran here before.
        wall: for ``expires``.
        host: what a package has to fit to; asked once.
    """

    def __init__(
        self, threads: Threads, downloader: Downloader, config: Callable[[], UpdateConfig],
        known: KnownPackages, wall: WallClock, host: Callable[[], Host] = this_host,
    ) -> None:
        self._threads = threads
        self._downloader = downloader
        self._config = config
        self._known = known
        self._wall = wall
        self._host = host

    def source(self, record: UpdateRecord) -> None:
        """See Intake; a reload may have changed what is allowed since the request was taken."""
        if not record.download_url:
            return
        try:
            allowed_url(record.download_url, self._config().allowed_urls)
        except BadUrlError as error:
            raise UpdateDownloadError(f"download_url is refused: {error}") from error

    async def space(self, record: UpdateRecord, folder: Path, target: UpdateTarget) -> None:
        """See Intake; of a package to be downloaded the size is known when its server says it."""
        size = 0
        if record.inline:
            try:
                size = (folder / PACKAGE).lstat().st_size
            except OSError as error:
                raise storage_error("read", folder / PACKAGE, error) from error
        await self._room(folder, target, size)

    async def _room(self, folder: Path, target: UpdateTarget, size: int) -> None:
        rooms = (folder, *target.rooms())
        try:
            await self._threads.run(LANE, SPACE_S, check_space, rooms, size)
        except (LaneBusy, LaneTimeout) as error:
            raise _stuck(error, rooms) from error

    async def download(
        self, record: UpdateRecord, folder: Path, target: UpdateTarget, progress: Callable[[float], None]
    ) -> None:
        """See Intake."""
        if record.inline:
            return
        await self._downloader.fetch(
            record.download_url, folder, max_bytes=self._config().max_package_size,
            allowed=lambda: self._config().allowed_urls,
            progress=lambda download: progress(download.ratio),
            sized=lambda size: self._room(folder, target, size),
        )

    async def signature(
        self, record: UpdateRecord, folder: Path, progress: Callable[[float], None]
    ) -> Signed:
        """See Intake."""
        keys, most = self._config().public_key_file, self._most(record)

        def verify(watch: Callable[[int], Progress]) -> Signed:
            trusted = PublicKeys.load(Path(keys))  # each time: keys are exchanged without a reload
            fd, size = _open(folder / PACKAGE, most)
            try:
                sha256 = digest_of(fd, watch(size))
            finally:
                os.close(fd)
            return Signed(sha256=sha256, key=trusted.verify(bytes.fromhex(sha256), record.signature))

        return await self._verifying(verify, progress, folder)

    def digest(self, record: UpdateRecord, signed: Signed) -> None:
        """See Intake."""
        if not hmac.compare_digest(signed.sha256, record.hash):
            raise UpdateVerifyError(
                f"the package has SHA-256 {signed.sha256}, the request says {record.hash}; its signature is "
                "good, so it is another package than the one that was asked for: correct hash or download_url"
            )

    async def manifest(
        self, record: UpdateRecord, folder: Path, target: UpdateTarget, progress: Callable[[float], None]
    ) -> Contents:
        """See Intake."""
        config, most = self._config(), self._most(record)
        installed = record.old_version
        before = self._known.version_of(record.target, record.package_sha256)
        components, now = target.components, self._wall()

        def accept(manifest: Manifest) -> None:
            host = self._host()
            check(
                manifest, components=components, version=record.version, installed=installed, os=host.os,
                arch=host.arch, python=host.python, libc=host.libc, now=now,
            )

        def take(watch: Callable[[int], Progress]) -> Unpacked:
            into = folder / FILES
            _clear(into)
            fd, size = _open(folder / PACKAGE, most)
            try:
                limits = Limits(packed_bytes=most)
                if os.pread(fd, len(GZIP), 0) == GZIP:
                    return unpack(
                        fd, record.package_sha256, into, limits, accept=accept, progress=watch(size)
                    )
                _check_bare(record, config, before, installed)
                return bare(
                    fd, BARE_NAME, record.package_sha256, into, limits, progress=watch(size)
                )
            finally:
                os.close(fd)

        found = await self._verifying(take, progress, folder)
        return Contents(files=found.files, sha256=found.sha256, modes=found.modes, main=found.main)

    def _most(self, record: UpdateRecord) -> int:
        config = self._config()
        return config.max_inline_size if record.inline else config.max_package_size

    async def _verifying(
        self, work: Callable[[Callable[[int], Progress]], T], progress: Callable[[float], None], folder: Path
    ) -> T:
        """Runs work that reads a whole package; ``work`` gets what makes its progress of the size."""
        unwanted = Event()

        def watch(size: int) -> Progress:
            def told(count: int) -> None:
                if unwanted.is_set():
                    raise Cancelled
                progress(count / max(1, size))

            return told

        try:
            return await self._threads.run(LANE, VERIFY_S, work, watch)
        except CancelledError:
            unwanted.set()
            raise
        except (LaneBusy, LaneTimeout) as error:
            unwanted.set()
            raise _stuck(error, (folder,)) from error


def _check_bare(record: UpdateRecord, config: UpdateConfig, before: str, installed: str) -> None:
    """What stands against a bare executable, whose version nobody signed.

    Raises:
        UpdateVerifyError: D4002.
    """
    if record.target == DAEMON or not config.allow_bare:
        raise UpdateVerifyError(
            "the package is no .tar.gz; make one with scripts/bundle"
            + ("" if record.target == DAEMON else ", or set update.allow_bare for bare executables")
        )
    if before and before != record.version:
        raise UpdateVerifyError(
            f"these very bytes ran here as version {before}: they are sent again as {record.version}; "
            "send the program you mean"
        )
    try:
        newer = Version.parse(record.version) > Version.parse(installed)
    except UpdateVerifyError:
        newer = True  # nobody knows what is installed
    if not newer:
        raise UpdateVerifyError(
            f"version {record.version} is not newer than {installed}, the one installed; send a newer one, "
            "or use the roll-back to go back"
        )


def _open(path: Path, most: int) -> tuple[int, int]:
    """A package and its size; never a link, a FIFO, or more than ``most`` bytes.

    Raises:
        StorageError: D1004.
        UpdateVerifyError: D4002, it is too large.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise storage_error("read", path, error) from error
    found = os.fstat(fd)
    if stat.S_ISREG(found.st_mode) and found.st_size <= most:
        return fd, found.st_size
    os.close(fd)
    if stat.S_ISREG(found.st_mode):
        raise UpdateVerifyError(f"the package has {found.st_size} bytes; {most} are allowed")
    raise StorageError(f"{path} is no regular file; look who put it there", errno=0, path=str(path))


def _clear(folder: Path) -> None:
    """What an attempt before left of the unpacked files.

    Raises:
        StorageError: D1004, something of it stays.
    """
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        raise storage_error("remove", folder, error) from error


def _stuck(error: Exception, rooms: Iterable[Path]) -> StorageError:
    return StorageError(
        f"the disk of {', '.join(map(str, rooms))} does not answer ({error}); check that disk", errno=0
    )
