"""Reads a ``.tar.gz`` from front to back, believing nothing in it.

Formats: gzip (RFC 1952, one member), ustar (POSIX.1-1988) with the ``x`` headers of pax (POSIX.1-2001) and
the ``L`` headers of GNU tar for long names. Members are regular files; everything else ends the reading. The
standard library's ``tarfile`` is not used: it keeps every member, reads headers of any size into memory and
follows chains of them by recursion. Here memory is bounded whatever the archive says.

The bytes of the file are hashed as they are read, so that whoever verified a hash before knows whether what
he unpacked is what was verified.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from daemon.durable.explain import storage_error
from daemon.errors import UpdateVerifyError
from daemon.updater.package.digest import Progress, path_of, unwatched
from daemon.updater.package.manifest import shown

GZIP_MAGIC = b"\x1f\x8b"
BLOCK = 512
PIECE_BYTES = 1 << 18  # read, unpacked and written at once
HEADER_MAX = 64 * 1024  # of a pax header
LONG_NAME_MAX = 4096  # of a GNU one
TRAILER_MAX = 1 << 20  # zeros behind the end; tar fills its last record, 10 KiB unless told otherwise
RATIO_FROM = 64 << 20  # below so many bytes no ratio is too good

_FORBIDDEN = {
    b"1": "a hard link", b"2": "a symbolic link", b"3": "a device", b"4": "a device", b"5": "a directory",
    b"6": "a FIFO", b"7": "a contiguous file", b"g": "a global header", b"K": "a long link name",
    b"S": "a sparse file", b"M": "a part of a file", b"V": "a volume label", b"D": "a directory listing",
}
_RECORD = re.compile(rb"([1-9][0-9]{0,9}) ([^=\0]+)=")
_IGNORED = re.compile(r"mtime|atime|ctime|uid|gid|uname|gname|comment|SCHILY\..*|LIBARCHIVE\..*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One file of the archive.

    Attributes:
        name: not checked in any way but that it is UTF-8.
        size: bytes.
        mtime: Unix seconds, 0 to 2**33.
    """

    name: str
    size: int
    mtime: int


def is_packed(fd: int) -> bool:
    """Whether an open file begins as a package does, rather than as a bare executable.

    Raises:
        StorageError: D1004, it cannot be read.
    """
    try:
        return os.pread(fd, len(GZIP_MAGIC), 0) == GZIP_MAGIC
    except OSError as error:
        raise storage_error("read", path_of(fd), error) from error


def broken(fault: str) -> UpdateVerifyError:
    """The error for an archive that is not as a package has to be."""
    step = "do not use it, have it made again with scripts/bundle"
    return UpdateVerifyError(f"the package's archive: {fault}; {step}")


class _Inflated:
    """The unpacked bytes of a gzip file, at most ``size_max`` of them.

    Attributes:
        digest: of the packed bytes read so far.
        packed: how many those are.
        size: how many were unpacked.
    """

    def __init__(
        self, fd: int, *, packed_max: int, size_max: int, ratio_max: int, progress: Progress
    ) -> None:
        self.digest = hashlib.sha256()
        self.packed = 0
        self.size = 0
        self._fd = fd
        self._packed_max = packed_max
        self._size_max = size_max
        self._ratio_max = ratio_max
        self._progress = progress
        self._inflate = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        self._ready = b""
        self._at = 0

    def _packed_piece(self) -> bytes:
        try:
            piece = os.pread(self._fd, PIECE_BYTES, self.packed)
        except OSError as error:
            raise storage_error("read", path_of(self._fd), error) from error
        self.digest.update(piece)
        self.packed += len(piece)
        if self.packed > self._packed_max:
            raise broken(f"it is larger than {self._packed_max} bytes (update.max_package_size)")
        self._progress(self.packed)
        return piece

    def _fill(self) -> bool:
        """Unpacks the next piece; False at the end of the only gzip member."""
        while not self._inflate.eof:
            pending = self._inflate.unconsumed_tail
            if not pending and len(self._ready) < PIECE_BYTES:  # a full piece may have left something inside
                pending = self._packed_piece()
                if not pending:
                    raise broken("it ends too early")
            try:
                self._ready = self._inflate.decompress(pending, PIECE_BYTES)
            except zlib.error as error:
                raise broken(f"it is damaged or no gzip file ({error})") from error
            self._at = 0
            self.size += len(self._ready)
            if self.size > self._size_max:
                raise broken(f"it unpacks to more than {self._size_max} bytes")
            if self.size > RATIO_FROM and self.size > self.packed * self._ratio_max:
                raise broken(f"it unpacks to more than {self._ratio_max} times its size")
            if self._ready:
                return True
        return False

    def some(self, limit: int) -> bytes:
        """1 to ``limit`` bytes; none at the end."""
        if self._at == len(self._ready) and not self._fill():
            return b""
        part = self._ready[self._at : self._at + limit]
        self._at += len(part)
        return part

    def exactly(self, size: int) -> bytes:
        parts = []
        while size:
            part = self.some(size)
            if not part:
                raise broken("it ends too early")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def finish(self) -> None:
        """Reads to the end, where nothing but zeros may follow."""
        left = TRAILER_MAX
        while part := self.some(left):
            left -= len(part)
            if left <= 0 or part.strip(b"\0"):
                raise broken("something follows its end")
        if self._inflate.unused_data or self._packed_piece():
            raise broken("something follows its end")


class Archive:
    """One pass over an open file. Blocks.

    Args:
        packed_max: bytes of the file.
        size_max: bytes of everything in it, headers included.
        ratio_max: how many times its size it may unpack to, once that is more than 64 MiB.
        progress: called with the packed bytes read so far.

    The methods raise UpdateVerifyError (D4002) for what is wrong with the archive and StorageError (D1004)
    where it cannot be read.
    """

    def __init__(
        self, fd: int, *, packed_max: int, size_max: int, ratio_max: int, progress: Progress = unwatched
    ) -> None:
        self._bytes = _Inflated(
            fd, packed_max=packed_max, size_max=size_max, ratio_max=ratio_max, progress=progress
        )
        self._left = 0  # of the member under the head
        self._padding = 0

    def members(self) -> Iterator[Member]:
        """The files in their order. What of each was not read is skipped."""
        name, headers = "", 0  # of the next file, from headers of their own
        while True:
            self._skip()
            block = self._bytes.exactly(BLOCK)
            if not any(block):
                if headers or any(self._bytes.exactly(BLOCK)):
                    raise broken("its end is damaged")
                self._bytes.finish()
                return
            kind, size = _kind(block), _number(block[124:136], "size")
            if kind in (b"x", b"L"):
                headers += 1
                if headers > 1:
                    raise broken("it has two headers for one file")
                if kind == b"x":
                    name = _pax_name(self._header(size, HEADER_MAX))
                else:
                    name = _field(self._header(size, LONG_NAME_MAX))
                continue
            if kind not in (b"0", b"\0"):
                what = _FORBIDDEN.get(kind, f"of type {kind!r}")
                raise broken(f"{shown(_name(block))} is {what}, and only regular files are accepted")
            if _number(block[100:108], "mode") & (stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX):
                raise broken(f"{shown(_name(block))} is set-uid, set-gid or sticky")
            self._left, self._padding = size, -size % BLOCK
            mtime = min(max(0, _number(block[136:148], "mtime")), 2**33)
            yield Member(name=name or _name(block), size=size, mtime=mtime)
            name, headers = "", 0

    def read(self) -> Iterator[bytes]:
        """The content of the member that came last, in pieces of at most 256 KiB."""
        while self._left:
            part = self._bytes.some(self._left)
            if not part:
                raise broken("it ends too early")
            self._left -= len(part)
            yield part

    def _skip(self) -> None:
        for _part in self.read():
            pass
        self._bytes.exactly(self._padding)
        self._padding = 0

    def _header(self, size: int, limit: int) -> bytes:
        if size > limit:
            raise broken(f"one of its headers has {size} bytes")
        data = self._bytes.exactly(size)
        self._bytes.exactly(-size % BLOCK)
        return data

    @property
    def sha256(self) -> str:
        """Of the file, in hex; of all of it once :meth:`members` is exhausted."""
        return self._bytes.digest.hexdigest()


def _kind(block: bytes) -> bytes:
    """The type of the member, after the check that this is a header at all."""
    if block[257:262] != b"ustar":
        raise broken("it is no tar archive of POSIX or GNU format")
    expected = sum(block) - sum(block[148:156]) + 8 * ord(" ")
    if _number(block[148:156], "checksum") != expected:
        raise broken("one of its headers is damaged")
    return block[156:157]


def _number(field: bytes, what: str) -> int:
    """An octal field. GNU's binary form is for more than 8 GiB and years before 1970: not for us."""
    text = field.strip(b" \0")
    if not re.fullmatch(rb"[0-7]*", text):
        raise broken(f"one of its headers has a {what} that is no octal number")
    return int(text or b"0", 8)


def _name(block: bytes) -> str:
    name = _field(block[:100])
    if block[257:263] == b"ustar\0" and block[345]:  # GNU's own format has other things there
        return f"{_field(block[345:500])}/{name}"
    return name


def _field(data: bytes) -> str:
    text, _, rest = data.partition(b"\0")
    if any(rest):
        raise broken("a name in it goes on behind its end")
    return _text(text)


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise broken(f"the name {shown(data)} in it is not UTF-8") from error


def _pax_name(data: bytes) -> str:
    """The ``path`` of a pax header; empty where it has none. What changes the content is refused."""
    name = ""
    at = 0
    while at < len(data):
        found = _RECORD.match(data, at)
        end = at + int(found[1]) if found is not None else 0
        if found is None or not found.end() < end <= len(data) or data[end - 1 : end] != b"\n":
            raise broken("one of its pax headers is damaged")
        key, value = _text(found[2]), data[found.end() : end - 1]
        if key == "path":
            if name or not value or b"\0" in value:
                raise broken("one of its pax headers has no proper path")
            name = _text(value)
        elif not _IGNORED.fullmatch(key):
            raise broken(f"one of its pax headers says {shown(key)}, which is not accepted")
        at = end
    return name
