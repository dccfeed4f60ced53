"""From a request to verified files: the steps that are the same for every target, behind one protocol.

The real one is :class:`daemon.updater.fetching.PackageIntake`; nothing here puts anything in place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from daemon.updater.record import UpdateRecord
from daemon.updater.target import UpdateTarget


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """A package whose signature is good.

    Attributes:
        sha256: of all of it, in hex.
        key: fingerprint of the key.
    """

    sha256: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """The files of a package, unpacked and compared with its signed manifest; see
    :class:`daemon.updater.target.Job`."""

    files: Mapping[str, Path]
    sha256: Mapping[str, str]
    modes: Mapping[str, int]
    main: str


class Intake(Protocol):
    """The steps; ``progress`` takes 0 to 1 from any thread."""

    def source(self, record: UpdateRecord) -> None:
        """Whether the package may come from where the request says.

        Raises:
            UpdateDownloadError: D4001, ``allowed_urls`` does not allow it.
        """
        ...

    async def space(self, record: UpdateRecord, folder: Path, target: UpdateTarget) -> None:
        """Whether there is room for three times the package.

        Raises:
            UpdateDownloadError: D4001, which filesystem lacks how much.
        """
        ...

    async def download(
        self, record: UpdateRecord, folder: Path, target: UpdateTarget, progress: Callable[[float], None]
    ) -> None:
        """Brings the package into the folder; what an earlier attempt brought is used again.

        Raises:
            UpdateDownloadError: D4001.
            StorageError: D1004.
        """
        ...

    async def signature(
        self, record: UpdateRecord, folder: Path, progress: Callable[[float], None]
    ) -> Signed:
        """Verifies the signature over the package.

        Raises:
            UpdateVerifyError: D4002.
        """
        ...

    def digest(self, record: UpdateRecord, signed: Signed) -> None:
        """Compares the package's SHA-256 with the request's.

        Raises:
            UpdateVerifyError: D4002.
        """
        ...

    async def manifest(
        self, record: UpdateRecord, folder: Path, target: UpdateTarget, progress: Callable[[float], None]
    ) -> Contents:
        """Unpacks the package, the bytes that were verified, and checks its manifest.

        Args:
            record: with ``package_sha256``.
            folder: of the update.
            target: what it is for.
            progress: see the class.

        Raises:
            UpdateVerifyError: D4002.
            StorageError: D1004.
        """
        ...
