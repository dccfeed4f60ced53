"""What is unpacked is what was signed, and nothing of it leaves its folder."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import stat
import struct
import tarfile
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from daemon import faults
from daemon.errors import StorageError, UpdateVerifyError
from daemon.updater.package.archive import HEADER_MAX, LONG_NAME_MAX, is_packed
from daemon.updater.package.digest import Cancelled
from daemon.updater.package.manifest import SIZE_MAX, Manifest
from daemon.updater.package.unpacking import Limits, Unpacked, bare, unpack
from tests.fakes.packages import archive_of, manifest_of, package_of, packed, part, sha256, tar_of

LIMITS = Limits(packed_bytes=64 << 20)
ELF = b"\x7fELF" + bytes(60)


@contextmanager
def opened(folder: Path, data: bytes) -> Iterator[int]:
    path = folder / "package"
    path.write_bytes(data)
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def at_most(limit: int) -> Iterator[None]:
    """The bytes that Python allocates inside."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < limit


def unpacked(folder: Path, data: bytes, **arguments: Any) -> Unpacked:
    with opened(folder, data) as fd:
        limits = arguments.pop("limits", LIMITS)
        return unpack(fd, arguments.pop("expected", sha256(data)), folder / "files", limits, **arguments)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refused(folder: Path, data: bytes, words: str, **arguments: Any) -> None:
    with pytest.raises(UpdateVerifyError) as caught:
        unpacked(folder, data, **arguments)
    message = caught.value.message
    assert words in message and message.isprintable() and len(message) < 500
    assert set(os.listdir(folder)) <= {"package", "files"}
    for path in (folder / "files").rglob("*"):
        assert path.name == "manifest.json" or not path.lstat().st_mode & 0o111 or path.is_dir()


FILES = {"bin/thing": b"#!/bin/sh\n", "lib/deep/er/data": b"x" * 100_000, "empty": b""}


def test_a_good_package(tmp_path: Path) -> None:
    os.umask(old := os.umask(0o077))
    manifest = manifest_of(FILES)
    manifest["files"]["empty"]["mode"] = "0600"
    parts = [part(name, data, mtime=1_700_000_000, mode=0o777) for name, data in FILES.items()]
    os.umask(0o077)
    try:
        found = unpacked(tmp_path, archive_of(manifest, parts))
    finally:
        os.umask(old)
    into = tmp_path / "files"
    assert found.files == {name: into / name for name in FILES}
    assert found.sha256 == {name: sha256(data) for name, data in FILES.items()}
    assert found.modes == {"bin/thing": 0o755, "lib/deep/er/data": 0o644, "empty": 0o600}
    assert found.main == "bin/thing" and found.manifest is not None and found.manifest.version == "1.1.0"
    assert tree(into) == FILES | {"manifest.json": json.dumps(manifest).encode()}
    for name, path in found.files.items():
        assert stat.S_IMODE(path.stat().st_mode) == found.modes[name] and path.stat().st_mtime == 1_700_000_000
    for path in (into, *(p for p in into.rglob("*") if p.is_dir())):
        assert stat.S_IMODE(path.stat().st_mode) == 0o755


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("name", ["short", "d" * 90 + "/" + "f" * 99, "/".join(["n" * 50] * 4), "é" * 20, "é/" * 20 + "x"])
def test_names_of_every_length_in_every_format(tmp_path: Path, tar_format: int, name: str) -> None:
    text = json.dumps(manifest_of({name: b"data"})).encode()
    parts = [part("manifest.json", text), part(name, b"data", mtime=12)]
    found = unpacked(tmp_path, packed(tar_of(parts, tar_format)))
    assert found.files[name].read_bytes() == b"data"


def test_what_tar_makes_by_hand_is_accepted(tmp_path: Path) -> None:
    import subprocess

    work = tmp_path / "work"
    (work / "lib" / ("n" * 120)).mkdir(parents=True)
    files = {"thing": ELF, f"lib/{'n' * 120}/data": b"1"}
    for name, data in files.items():
        (work / name).write_bytes(data)
    (work / "manifest.json").write_text(json.dumps(manifest_of(files)))
    for n, form in enumerate(("gnu", "posix", "ustar")):
        subprocess.run(["tar", f"--format={form}", "-czf", "../p.tgz", "manifest.json", *files], cwd=work, check=True)
        (folder := tmp_path / str(n)).mkdir()
        assert unpacked(folder, (tmp_path / "p.tgz").read_bytes()).files["thing"].read_bytes() == ELF


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"type": tarfile.SYMTYPE, "linkname": "/etc/shadow"}, "'thing' is a symbolic link"),
        ({"type": tarfile.LNKTYPE, "linkname": "/etc/shadow"}, "'thing' is a hard link"),
        ({"type": tarfile.CHRTYPE}, "'thing' is a device"),
        ({"type": tarfile.BLKTYPE}, "'thing' is a device"),
        ({"type": tarfile.FIFOTYPE}, "'thing' is a FIFO"),
        ({"type": tarfile.DIRTYPE}, "'thing/' is a directory"),
        ({"type": tarfile.CONTTYPE}, "'thing' is a contiguous file"),
        ({"type": tarfile.GNUTYPE_SPARSE}, "'thing' is a sparse file"),
        ({"type": tarfile.GNUTYPE_LONGLINK}, "is a long link name"),
        ({"type": tarfile.XGLTYPE}, "is a global header"),
        ({"type": b"Z"}, "of type b'Z'"),
        ({"mode": 0o4755}, "set-uid"),
        ({"mode": 0o2755}, "set-gid"),
        ({"mode": 0o1755}, "sticky"),
        ({"pax_headers": {"GNU.sparse.major": "1", "GNU.sparse.name": "x"}}, "pax headers says 'GNU.sparse"),
        ({"pax_headers": {"size": "0"}}, "pax headers says 'size'"),
        ({"pax_headers": {"path": "../thing"}}, "'../thing' is in it and manifest.json does not name it"),
        ({"pax_headers": {"path": "/thing"}}, "'/thing' is in it and"),
        ({"pax_headers": {"comment": "x" * HEADER_MAX}}, f"one of its headers has {HEADER_MAX}"[:24]),
        ({"name": "../thing"}, "'../thing' is in it and"),
        ({"name": "/thing"}, "'/thing' is in it and"),
        ({"name": "thing/"}, "'thing/' is in it and"),
        ({"name": "./thing"}, "'./thing' is in it and"),
        ({"name": "THING"}, "'THING' is in it and"),
    ],
)
def test_members_that_are_refused(tmp_path: Path, attributes: dict[str, Any], words: str) -> None:
    attributes = dict(attributes)
    info, data = part(attributes.pop("name", "thing"), b"data", **attributes)
    if info.type not in (tarfile.REGTYPE, tarfile.CONTTYPE):
        info.size, data = 0, b""
    refused(tmp_path, archive_of(manifest_of({"thing": b"data"}), [(info, data)]), words)


def raw(header_type: bytes, payload: bytes, *more: tuple[Any, bytes]) -> bytes:
    """A package with a header member of this payload before ``thing``."""
    parts = [part("h", payload, type=header_type), *(more or (part("thing", b"data"),))]
    return archive_of(manifest_of({"thing": b"data"}), parts)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (raw(b"x", b"99 path=thing\n"), "pax headers is damaged"),
        (raw(b"x", b"0 path=thing\n"), "pax headers is damaged"),
        (raw(b"x", b"3 \n"), "pax headers is damaged"),
        (raw(b"x", b"99999999999999999999 path=thing\n"), "pax headers is damaged"),
        (raw(b"x", b"14 path=thing\n-6 a=b\n"), "pax headers is damaged"),
        (raw(b"x", b"14 path=thing\n14 path=thing\n"), "no proper path"),
        (raw(b"x", b"11 path=\xff\xfe\n"), "not UTF-8"),
        (raw(b"x", b"8 path=\n"), "no proper path"),
        (raw(b"x", b"15 path=thing\0\n"), "no proper path"),
        (raw(b"x", bytes(HEADER_MAX + 1)), f"one of its headers has {HEADER_MAX + 1} bytes"),
        (raw(b"L", bytes(LONG_NAME_MAX + 1)), f"one of its headers has {LONG_NAME_MAX + 1} bytes"),
        (raw(b"L", b"thing\0evil"), "goes on behind its end"),
        (raw(b"L", b"\xff"), "not UTF-8"),
        (raw(b"L", b"thing\0", part("h", b"thing\0", type=b"L"), part("x", b"data")), "two headers"),
        (raw(b"L", b"thing\0", part("h", b"14 path=thing\n", type=b"x"), part("x", b"data")), "two headers"),
    ],
)
def test_headers_that_are_refused(tmp_path: Path, data: bytes, words: str) -> None:
    refused(tmp_path, data, words)


def test_a_header_at_the_end_is_refused(tmp_path: Path) -> None:
    parts = [part("thing", b"data"), part("h", b"other\0", type=b"L")]
    refused(tmp_path, archive_of(manifest_of({"thing": b"data"}), parts), "its end is damaged")


def test_a_header_size_that_is_absurd_takes_no_memory(tmp_path: Path) -> None:
    info, _data = part("h", b"", type=b"x")
    info.size = 8 * 2**30 - 1
    tar = tar_of([part("manifest.json", json.dumps(manifest_of({"thing": b""})).encode())])[: 2 * 512]
    data = packed(tar + info.tobuf(tarfile.USTAR_FORMAT) + bytes(2048))
    with at_most(4 << 20):
        refused(tmp_path, data, "one of its headers has 8589934591")


THING = manifest_of({"thing": b"data"})
GOOD = [part("thing", b"data")]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "ends too early"),
        (b"\x1f\x8b", "ends too early"),
        (b"no gzip at all", "damaged or no gzip file"),
        (b"PK\x03\x04" + bytes(100), "damaged or no gzip file"),
        (packed(b""), "ends too early"),
        (packed(bytes(10240)), "its first file is not manifest.json"),
        (packed(b"x" * 10240), "no tar archive"),
        (packed(tar_of(GOOD)), "its first file is not manifest.json"),
        (packed(tar_of([*GOOD, part("manifest.json", json.dumps(THING).encode())])), "first file is not manifest.json"),
        (packed(tar_of([part("./manifest.json", json.dumps(THING).encode()), *GOOD])), "first file is not manifest.json"),
        (archive_of(b" " * (SIZE_MAX + 1), GOOD), f"its manifest.json has more than {SIZE_MAX} bytes"),
        (archive_of(b"{}", GOOD), "component"),
        (archive_of(THING, []), "'thing' is missing"),
        (archive_of(THING, [*GOOD, *GOOD]), "'thing' is in it twice"),
        (archive_of(THING, [*GOOD, part("other")]), "'other' is in it and manifest.json does not name it"),
        (archive_of(THING, [part(f"e{n}") for n in range(1_000)]), "'e0' is in it and"),
        (archive_of(THING, [*GOOD, part("manifest.json", json.dumps(THING).encode())]), "'manifest.json' is in it and"),
        (archive_of(THING, [part("thing", b"dat")]), "'thing' is not the file whose sha256"),
        (archive_of(THING, [part("thing", b"data!")]), "'thing' is not the file whose sha256"),
        (archive_of(manifest_of({"a": b"", "A": b""}), [part("a"), part("A")]), "cannot both be"),
        (archive_of(manifest_of({"a": b"", "a/b": b""}), [part("a"), part("a/b")]), "cannot both be"),
        (archive_of(manifest_of({"../x": b""}), [part("../x")]), "not a plain path"),
        (archive_of(THING, GOOD) + b"x", "something follows its end"),
        (archive_of(THING, GOOD) + bytes(10), "something follows its end"),
        (archive_of(THING, GOOD) + packed(b""), "something follows its end"),
        (archive_of(THING, GOOD) + archive_of(THING, GOOD), "something follows its end"),
        (packed(gzip.decompress(archive_of(THING, GOOD)) + b"x"), "something follows its end"),
        (packed(gzip.decompress(archive_of(THING, GOOD)) + bytes(2 << 20)), "something follows its end"),
        (packed(gzip.decompress(archive_of(THING, GOOD))[: 5 * 512]), "ends too early"),
        (packed(gzip.decompress(archive_of(THING, GOOD))[: 3 * 512 + 2]), "ends too early"),
        (packed(gzip.decompress(archive_of(THING, GOOD))[: 4 * 512] + bytes(512)), "ends too early"),
        (packed(gzip.decompress(archive_of(THING, GOOD))[: 4 * 512] + bytes(512) + b"x" * 512), "its end is damaged"),
    ],
)
def test_archives_that_are_refused(tmp_path: Path, data: bytes, words: str) -> None:
    refused(tmp_path, data, words)


@pytest.mark.parametrize(
    ("at", "value"),
    [(124, b"9999"), (124, b"\x80"), (124, b"-1"), (100, b"rwx"), (136, b"\xff"), (148, b"000000"), (257, b"Xstar"), (0, b"X")],
)
def test_headers_that_are_damaged(tmp_path: Path, at: int, value: bytes) -> None:
    tar = bytearray(gzip.decompress(archive_of(THING, GOOD)))
    header = 2 * 512
    tar[header + at : header + at + len(value)] = value
    if at not in (148, 0):  # a checksum that is right, so that the field itself is looked at
        block = tar[header : header + 512]
        block[148:156] = b" " * 8
        tar[header + 148 : header + 156] = b"%06o\0 " % sum(block)
    refused(tmp_path, packed(bytes(tar)), "archive: ")


def test_every_truncation_and_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    good = archive_of(THING, GOOD)
    cases = [good[:n] for n in range(len(good))]
    cases += [good[:n] + bytes([good[n] ^ 1]) + good[n + 1 :] for n in range(len(good))]
    for n, data in enumerate(cases):
        (folder := tmp_path / str(n)).mkdir()
        with pytest.raises(UpdateVerifyError):
            unpacked(folder, data, expected=sha256(good))


def test_what_changed_since_it_was_verified_is_not_used(tmp_path: Path) -> None:
    refused(tmp_path, archive_of(THING, GOOD), "not any more what was verified", expected=sha256(b"other"))


def test_what_is_replaced_while_it_is_unpacked_is_not_used(tmp_path: Path) -> None:
    """The time-of-check gap: other content of the same length comes in after the hash was verified."""
    good = package_of({"thing": os.urandom(1 << 20)})
    evil = package_of({"thing": os.urandom(1 << 20)})
    size = max(len(good), len(evil))

    def swap(_manifest: Manifest) -> None:
        with (tmp_path / "package").open("r+b") as file:
            file.truncate(size)
            file.write(evil)

    with pytest.raises(UpdateVerifyError):
        unpacked(tmp_path, good, accept=swap)


def test_a_file_that_grows_is_refused_at_its_limit(tmp_path: Path) -> None:
    data = package_of({"thing": os.urandom(1 << 20)})
    refused(tmp_path, data, "larger than 1048576 bytes (update.max_package_size)", limits=Limits(packed_bytes=1 << 20))


def test_a_bomb_is_refused_early_and_takes_no_memory(tmp_path: Path) -> None:
    thing = bytes(200 << 20)
    manifest = manifest_of({"thing": b""})
    manifest["files"]["thing"]["sha256"] = hashlib.sha256(thing).hexdigest()
    data = archive_of(manifest, [part("thing", thing)])
    del thing
    with at_most(6 << 20):
        refused(tmp_path, data, "unpacks to more than 100 times its size")
    assert (tmp_path / "files" / "thing").stat().st_size <= 65 << 20


def test_the_sum_of_its_files_is_bounded(tmp_path: Path) -> None:
    data = package_of({"thing": bytes(1 << 20)})
    refused(tmp_path, data, "unpacks to more than 400000 bytes", limits=Limits(packed_bytes=100_000))


def test_the_number_of_files_is_bounded(tmp_path: Path) -> None:
    data = package_of({f"f{n}": b"" for n in range(11)})
    refused(tmp_path, data, "more than 10 files", limits=Limits(packed_bytes=1 << 20, files=10))
    assert os.listdir(tmp_path / "files") == []


def test_memory_does_not_grow_with_the_package(tmp_path: Path) -> None:
    data = package_of({"thing": os.urandom(24 << 20)})
    digest = sha256(data)
    with at_most(6 << 20):
        unpacked(tmp_path, data, expected=digest)


def stored(data: bytes) -> bytes:
    """gzip with flushes in between: output and input end together at odd places."""
    pack = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = b"".join(pack.compress(data[n : n + 65536]) + pack.flush(zlib.Z_FULL_FLUSH) for n in range(0, len(data), 65536))
    body += pack.flush()
    return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + body + struct.pack("<II", zlib.crc32(data), len(data))


@pytest.mark.parametrize("size", [(1 << 18) - 1536, 1 << 18, (1 << 20) + 1, 5 << 20])
@pytest.mark.parametrize("pack", [packed, stored], ids=["gzip", "flushed"])
def test_files_that_end_with_a_piece(tmp_path: Path, size: int, pack: Callable[[bytes], bytes]) -> None:
    files = {"thing": bytes(size)}
    tar = tar_of([part("manifest.json", json.dumps(manifest_of(files)).encode()), part("thing", files["thing"])])
    assert unpacked(tmp_path, pack(tar)).files["thing"].stat().st_size == size


def test_the_manifest_is_accepted_before_a_file_is_written(tmp_path: Path) -> None:
    def no(manifest: Manifest) -> None:
        assert manifest.version == "1.1.0" and os.listdir(tmp_path / "files") == []
        raise UpdateVerifyError("not this one")

    refused(tmp_path, package_of({"thing": b"data"}), "not this one", accept=no)
    assert os.listdir(tmp_path / "files") == []


def test_it_can_be_cancelled_and_says_how_far_it_is(tmp_path: Path) -> None:
    data = package_of({"thing": os.urandom(3 << 20)})
    seen: list[int] = []

    def progress(done: int) -> None:
        seen.append(done)
        if done > 1 << 20:
            raise Cancelled

    with pytest.raises(Cancelled):
        unpacked(tmp_path, data, progress=progress)
    assert seen == sorted(seen) and len(seen) == 5
    seen.clear()
    (tmp_path / "again").mkdir()
    unpacked(tmp_path / "again", data, progress=seen.append)
    assert seen[-1] == len(data)


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    unpacked(tmp_path, package_of(FILES))
    (tmp_path / "bad").mkdir()
    refused(tmp_path / "bad", archive_of(manifest_of(FILES), [part("bin/thing", b"other")]), "'bin/thing' is not")
    assert os.listdir("/proc/self/fd") == before


def test_what_is_in_the_way_is_not_written_to(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "files").symlink_to(outside)
    with pytest.raises(StorageError, match="cannot make .*/files: File exists"):
        unpacked(tmp_path, package_of(FILES))
    assert os.listdir(outside) == []


def test_a_link_that_appears_meanwhile_leads_nowhere(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()

    def plant(_manifest: Manifest) -> None:
        (tmp_path / "files" / "lib").symlink_to(outside)
        (tmp_path / "files" / "empty").symlink_to(outside / "empty")

    for name in ("lib/data", "empty"):
        with pytest.raises(StorageError, match=f"cannot write .*/files/{name}: File exists"):
            unpacked(tmp_path, package_of({name: b"data"}), accept=plant)
        for path in sorted((tmp_path / "files").iterdir()):
            path.unlink()
        (tmp_path / "files").rmdir()
    assert os.listdir(outside) == []


def test_a_full_disk_is_a_storage_error(tmp_path: Path) -> None:
    faults.arm({faults.VARIABLE: "package.write:2:enospc"})
    try:
        with pytest.raises(StorageError, match="cannot write .*/bin/thing: No space left on device; free space"):
            unpacked(tmp_path, package_of(FILES))
    finally:
        faults.arm({})


# ---------------------------------------------------------------- bare executables

@pytest.mark.parametrize("data", [ELF + os.urandom(1 << 20), b"#!/bin/sh\nexit 0\n"])
def test_a_bare_executable_is_copied(tmp_path: Path, data: bytes) -> None:
    with opened(tmp_path, data) as fd:
        assert not is_packed(fd)
        found = bare(fd, "thing", sha256(data), tmp_path / "files", LIMITS)
    assert tree(tmp_path / "files") == {"thing": data}
    assert stat.S_IMODE(found.files["thing"].stat().st_mode) == found.modes["thing"] == 0o755
    assert (found.manifest, found.main, found.sha256) == (None, "thing", {"thing": sha256(data)})


@pytest.mark.parametrize(
    ("data", "name", "words"),
    [(b"", "thing", "neither a .tar.gz nor an executable"), (b"MZ\x90", "thing", "neither a .tar.gz nor"),
     (package_of({"thing": b""}), "thing", "neither a .tar.gz nor"), (ELF * 2000, "thing", "larger than 100000 bytes"),
     (ELF, "a/b", "it is a path"), (ELF, "..", "not a plain path"), (ELF, "", "is empty")],
)
def test_what_is_no_bare_executable(tmp_path: Path, data: bytes, name: str, words: str) -> None:
    with opened(tmp_path, data) as fd, pytest.raises(UpdateVerifyError, match=words):
        bare(fd, name, sha256(data), tmp_path / "files", Limits(packed_bytes=100_000))


def test_a_bare_executable_that_changed_gets_no_execute_bit(tmp_path: Path) -> None:
    with opened(tmp_path, ELF) as fd, pytest.raises(UpdateVerifyError, match="not any more what was verified"):
        bare(fd, "thing", sha256(b"other"), tmp_path / "files", LIMITS)
    assert stat.S_IMODE((tmp_path / "files" / "thing").stat().st_mode) == 0o600


def test_a_package_begins_like_one(tmp_path: Path) -> None:
    with opened(tmp_path, package_of({"thing": b""})) as fd:
        assert is_packed(fd)
    with opened(tmp_path, b"") as fd:
        assert not is_packed(fd)
    fd = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(StorageError, match="cannot read"):
        is_packed(fd)
    os.close(fd)
