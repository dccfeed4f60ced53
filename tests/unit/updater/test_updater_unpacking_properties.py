"""Whatever an archive holds: nothing outside of the folder is touched, and success means the signed bytes."""

from __future__ import annotations

import gzip
import os
import stat
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pytest

from daemon.errors import StorageError, UpdateVerifyError
from daemon.updater.package.unpacking import Limits, unpack
from tests.fakes.packages import archive_of, manifest_of, package_of, packed, part, sha256

pytest.importorskip("hypothesis")
from hypothesis import event, given, settings
from hypothesis import strategies as st

SETTINGS = settings(derandomize=True, deadline=None, max_examples=300, database=None)
LIMITS = Limits(packed_bytes=1 << 20)

PARTS = st.sampled_from(["a", "b", "..", ".", "", "A", "out", "manifest.json", "\u00e9", "x" * 120])
NAMES = st.one_of(
    st.lists(PARTS, min_size=1, max_size=4).map("/".join),
    st.sampled_from(["/out/file", "../out/file", "../../out", "a/../../out/file", "link/file"]),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12),
)
PLAIN = st.lists(st.sampled_from(["a", "b", "c", "\u00e9", "y" * 120]), min_size=1, max_size=3).map("/".join)
CONTENTS = st.sampled_from([b"", b"data", b"x" * 512, b"y" * 1500])
TYPES = st.sampled_from([tarfile.REGTYPE] * 8 + [
    tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE,
    tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME,
])
TARGETS = st.sampled_from(["", "/", "..", "../out", "/etc/passwd"])


def snapshot(folder: Path) -> dict[str, Any]:
    return {
        str(path): (path.lstat().st_mode, path.lstat().st_mtime_ns, path.lstat().st_ino)
        for path in (folder, *folder.rglob("*"))
    }


def outcome(data: bytes, files: dict[str, bytes]) -> str:
    """Unpacks beside a folder that must stay as it is."""
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        (top / "out").mkdir()
        (top / "out" / "file").write_bytes(b"mine")
        (top / "stage").mkdir()
        before, here = snapshot(top / "out"), sorted(os.listdir(top))
        try:
            with tempfile.TemporaryFile() as file:
                file.write(data)
                file.flush()
                found = unpack(file.fileno(), sha256(data), top / "stage" / "files", LIMITS)
        except (UpdateVerifyError, StorageError) as error:
            result = type(error).__name__
        else:
            result = "unpacked"
            assert {n: path.read_bytes() for n, path in found.files.items()} == files
        assert snapshot(top / "out") == before and sorted(os.listdir(top)) == here
        assert os.listdir(top / "stage") == ["files"]
        for path in (top / "stage" / "files").rglob("*"):
            mode = path.lstat().st_mode
            assert stat.S_ISREG(mode) or stat.S_ISDIR(mode)
            assert not mode & (stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX)
            if result != "unpacked" and stat.S_ISREG(mode):
                assert not mode & 0o111
        return result


@SETTINGS
@given(
    members=st.lists(st.tuples(NAMES, CONTENTS, TYPES, TARGETS), max_size=5),
    listed=st.lists(st.integers(0, 4), max_size=5),
    main=st.integers(0, 4),
)
def test_random_members(members: list[tuple[str, bytes, bytes, str]], listed: list[int], main: int) -> None:
    files = {members[n][0]: members[n][1] for n in listed if n < len(members)}
    names = list(files) or ["none"]
    manifest = manifest_of(files, main=names[main % len(names)])
    parts = [part(name, data, type=kind, linkname=target) for name, data, kind, target in members]
    event(outcome(archive_of(manifest, parts), files))


@settings(SETTINGS, max_examples=100)
@given(files=st.dictionaries(PLAIN, CONTENTS, min_size=1, max_size=5), order=st.randoms(use_true_random=False))
def test_good_packages_in_any_order(files: dict[str, bytes], order: Any) -> None:
    parts = [part(name, data) for name, data in files.items()]
    order.shuffle(parts)
    result = outcome(archive_of(manifest_of(files), parts), files)
    folders = {"/".join(name.split("/")[:n]) for name in files for n in range(1, name.count("/") + 1)}
    assert result == ("UpdateVerifyError" if folders & set(files) else "unpacked")


@SETTINGS
@given(cut=st.integers(0, 4000), junk=st.binary(max_size=40), at=st.integers(0, 4000), repack=st.booleans())
def test_damaged_bytes(cut: int, junk: bytes, at: int, repack: bool) -> None:
    """Of the archive, or of the tar in it under a sound gzip: its hash is taken as verified all the same."""
    files = {"thing": b"x" * 700, "d/e": b"data"}
    good = package_of(files)
    data = bytearray(gzip.decompress(good) if repack else good)
    at %= len(data)
    data[at : at + len(junk)] = junk
    del data[len(data) - cut % len(data) :]
    event(outcome(packed(bytes(data)) if repack else bytes(data), files))
