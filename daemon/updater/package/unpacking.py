"""Unpacks a package: what is on the disk afterwards is what the signed manifest lists, byte for byte.

The caller has checked signature and hash of the open file before. The same descriptor is read here once more,
and the hash is compared again at the end, over the very bytes that were unpacked. Files are written below
a new folder through descriptors of folders, so that no name and no link leads out of it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

from daemon import faults
from daemon.durable.atomic import fsync_directory
from daemon.durable.explain import storage_error
from daemon.errors import UpdateVerifyError
from daemon.updater.package.archive import PIECE_BYTES, Archive, broken
from daemon.updater.package.digest import Progress, path_of, unwatched
from daemon.updater.package.manifest import (
    MAIN_MODE,
    NAME,
    OTHER_MODE,
    SIZE_MAX,
    Manifest,
    fault_of_name,
    parse,
    shown,
)

FOLDER_MODE = 0o755
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PROGRAMS = (b"\x7fELF", b"#!")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a package may cost.

    Attributes:
        packed_bytes: of the archive; ``update.max_package_size``.
        growth: the sum of its files may be so many times ``packed_bytes``.
        ratio: a single archive may unpack to so many times its own size, once that is more than 64 MiB.
            Programs pack to a half or a fifth, zeros to a thousandth.
        files: how many.
    """

    packed_bytes: int
    growth: int = 4
    ratio: int = 100
    files: int = 16384


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpacked:
    """A package on the disk, all of it verified.

    Attributes:
        manifest: None for a bare executable.
        files: name in the package to the file.
        sha256: what each of them holds; whoever copies one compares it again.
        modes: the permission bits of each.
        main: the name of the program.
    """

    manifest: Manifest | None
    files: Mapping[str, Path]
    sha256: Mapping[str, str]
    modes: Mapping[str, int]
    main: str


def unpack(
    fd: int,
    expected_sha256: str,
    into: Path,
    limits: Limits,
    *,
    accept: Callable[[Manifest], None] | None = None,
    progress: Progress = unwatched,
) -> Unpacked:
    """Unpacks an archive into a new folder, ``manifest.json`` included. Blocks for as long as it takes.

    Args:
        fd: the open file; its offset stays where it is.
        expected_sha256: in hex, of the whole file, as its signature was verified over.
        into: the folder to make; its parent exists and is the daemon's alone. After an error it may be
            there with a part of the files: remove it whole.
        accept: sees the manifest before any file is written, and raises to refuse it.
        progress: called with the bytes of the archive done so far.

    Raises:
        UpdateVerifyError: D4002, it is not the archive that was verified, or not one as WIRE.md wants it.
        StorageError: D1004, the disk refuses.
    """
    archive = Archive(
        fd, packed_max=limits.packed_bytes, size_max=limits.packed_bytes * limits.growth,
        ratio_max=limits.ratio, progress=progress,
    )
    with _Tree(into) as tree:
        members = archive.members()
        first = next(members, None)
        if first is None or first.name != NAME:
            raise broken(f"its first file is not {NAME}")
        if first.size > SIZE_MAX:
            raise broken(f"its {NAME} has more than {SIZE_MAX} bytes")
        text = b"".join(archive.read())
        manifest = parse(text)
        if len(manifest.files) > limits.files:
            raise broken(f"it has more than {limits.files} files")
        if accept is not None:
            accept(manifest)
        tree.write(NAME, [text], OTHER_MODE, first.mtime, hashlib.sha256(text).hexdigest())
        missing = set(manifest.files)
        for member in members:
            if member.name not in missing:
                why = "twice" if member.name in manifest.files else f"and {NAME} does not name it"
                raise broken(f"{shown(member.name)} is in it {why}")
            missing.remove(member.name)
            sha256, mode = manifest.files[member.name].sha256, manifest.mode_of(member.name)
            if not tree.write(member.name, archive.read(), mode, member.mtime, sha256):
                raise broken(f"{shown(member.name)} is not the file whose sha256 {NAME} names")
        if missing:
            raise broken(f"{shown(min(missing))} is missing in it")
        if archive.sha256 != expected_sha256:
            raise _changed(fd)
        tree.seal()
    return Unpacked(
        manifest=manifest,
        files=MappingProxyType({name: into / name for name in manifest.files}),
        sha256=MappingProxyType({name: entry.sha256 for name, entry in manifest.files.items()}),
        modes=MappingProxyType({name: manifest.mode_of(name) for name in manifest.files}),
        main=manifest.main,
    )


def bare(
    fd: int, name: str, expected_sha256: str, into: Path, limits: Limits, *, progress: Progress = unwatched
) -> Unpacked:
    """Copies a bare executable (``update.allow_bare``) into a new folder, compared with its hash once more.

    Args:
        name: a plain file name, that of the agent's binary.
        others: see :func:`unpack`.

    Raises:
        UpdateVerifyError: D4002, it is another file, too large, or neither an ELF program nor a script.
        StorageError: D1004, the disk refuses.
    """
    fault = "it is a path" if "/" in name else fault_of_name(name)
    if fault:
        raise UpdateVerifyError(
            f"the program cannot be called {shown(name)}: {fault}; correct binary_path of the agent"
        )
    with _Tree(into) as tree:
        if not tree.write(name, _program(fd, limits, progress), MAIN_MODE, None, expected_sha256):
            raise _changed(fd)
        tree.seal()
    return Unpacked(
        manifest=None,
        files=MappingProxyType({name: into / name}),
        sha256=MappingProxyType({name: expected_sha256}),
        modes=MappingProxyType({name: MAIN_MODE}),
        main=name,
    )


def _program(fd: int, limits: Limits, progress: Progress) -> Iterator[bytes]:
    """The pieces of a file that looks like a program."""
    done = 0
    while True:
        try:
            piece = os.pread(fd, PIECE_BYTES, done)
        except OSError as error:
            raise storage_error("read", path_of(fd), error) from error
        if not done and not piece.startswith(_PROGRAMS):
            raise UpdateVerifyError(
                "the package is neither a .tar.gz nor an executable for Linux (ELF or a script that begins "
                "with #!); make one with scripts/bundle"
            )
        if not piece:
            return
        done += len(piece)
        if done > limits.packed_bytes:
            raise UpdateVerifyError(
                f"the package is larger than {limits.packed_bytes} bytes; raise update.max_package_size"
            )
        progress(done)
        yield piece


def _changed(fd: int) -> UpdateVerifyError:
    return UpdateVerifyError(
        f"{path_of(fd)} is not any more what was verified; find out who else writes there, then send the "
        "update again"
    )


class _Tree:
    """A new folder and what is written below it, through descriptors alone.

    Raises:
        StorageError: D1004, from every method.
    """

    def __init__(self, into: Path) -> None:
        self._into = into
        self._files: dict[str, int] = {}
        self._folders: dict[str, None] = {}
        self._parent, self._parent_fd = "", -1  # the folder written to last: archives go folder by folder
        try:
            os.mkdir(into, 0o700)  # noqa: PTH102 - the system calls of this class side by side
            self._fd = os.open(into, _FOLDER_FLAGS)
        except OSError as error:
            raise storage_error("make", into, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._leave()
        os.close(self._fd)

    def write(self, name: str, pieces: Iterable[bytes], mode: int, mtime: int | None, sha256: str) -> bool:
        """Writes a new file, which is nobody's but ours until :meth:`seal`.

        Args:
            name: checked by the caller.
            mode: its permission bits once it is sealed.
            mtime: Unix seconds; None leaves it. All files of a package have the one its maker gave them: what
                compares them (Twisted's dropin.cache with the plug-ins) finds what the maker found.
            sha256: in hex, what should have been written.

        Returns:
            whether it was.
        """
        digest = hashlib.sha256()
        folder, _, base = name.rpartition("/")
        try:
            faults.hit("package.write")
            fd = os.open(base, _NEW_FLAGS, 0o600, dir_fd=self._folder(folder))
            try:
                for piece in pieces:
                    digest.update(piece)
                    view = memoryview(piece)
                    while view:
                        view = view[os.write(fd, view) :]
                if digest.hexdigest() != sha256:
                    return False
                if mtime is not None:
                    os.utime(fd, (mtime, mtime))
            finally:
                os.close(fd)
        except OSError as error:
            raise storage_error("write", self._into / name, error) from error
        self._files[name] = mode
        return True

    def _folder(self, path: str) -> int:
        """The open folder, made where it is missing; valid until the next call."""
        if not path:
            return self._fd
        if path == self._parent:
            return self._parent_fd
        self._leave()
        fd, done = os.dup(self._fd), ""
        try:
            for part in path.split("/"):
                done = f"{done}/{part}" if done else part
                if done not in self._folders:
                    os.mkdir(part, 0o700, dir_fd=fd)
                    self._folders[done] = None
                inner = os.open(part, _FOLDER_FLAGS, dir_fd=fd)
                os.close(fd)
                fd = inner
        except OSError:
            os.close(fd)
            raise
        self._parent, self._parent_fd = path, fd
        return fd

    def _leave(self) -> None:
        if self._parent_fd >= 0:
            os.close(self._parent_fd)
        self._parent, self._parent_fd = "", -1

    def seal(self) -> None:
        """Gives the files their modes and makes everything survive a power failure.

        Only now, when all of it is known to be what was signed, can anything be executed. The disk is waited
        for after the last write rather than after each: 3000 small files took 0.6 s instead of 6 s on ext4,
        where each fsync in between commits the journal.
        """
        try:
            for name, mode in self._files.items():
                self._finish(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
            for folder in self._folders:
                self._finish(folder, _FOLDER_FLAGS, FOLDER_MODE)
            os.fchmod(self._fd, FOLDER_MODE)
            os.fsync(self._fd)
            fsync_directory(self._into.parent)
        except OSError as error:
            raise storage_error("finish", self._into, error) from error

    def _finish(self, name: str, flags: int, mode: int) -> None:
        fd = os.open(name, flags, dir_fd=self._fd)
        try:
            os.fchmod(fd, mode)  # whatever the umask
            os.fsync(fd)
        finally:
            os.close(fd)
