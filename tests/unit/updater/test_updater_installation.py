"""Versions in their folders: placed whole or not at all, never removed while they may be needed."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from pathlib import Path

import pytest

from daemon import faults
from daemon.errors import UpdateApplyError
from daemon.updater.selfupdate import launcher
from daemon.updater.selfupdate.installation import Installation
from tests.fakes.installation import add_version, files_of, install


@pytest.fixture
def here(tmp_path: Path) -> Installation:
    return Installation(install(tmp_path / "i", "1", "0.9"), "1")


class Package:
    """An unpacked package."""

    def __init__(self, folder: Path, version: str = "2", **files: bytes) -> None:
        self.files: dict[str, Path] = {}
        self.sha256: dict[str, str] = {}
        self.version = version
        for name, data in (files_of(version) | files).items():
            path = folder / version / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            self.files[name] = path
            self.sha256[name] = hashlib.sha256(data).hexdigest()

    def place(self, here: Installation) -> bool:
        return here.place(
            "u1", self.version, self.files, self.sha256, {"bin/twistd": 0o755}, "bin/twistd"
        )


@pytest.fixture
def package(tmp_path: Path) -> Package:
    return Package(tmp_path / "staging")


class TestFinding:
    def test_a_bundle_is_told_by_its_folders(self, here: Installation) -> None:
        package = here.root / "versions/1/lib/daemon/__init__.py"
        assert Installation.find(package) == here

    @pytest.mark.parametrize(
        "path", ["versions/1/daemon/__init__.py", "versions/2/lib/daemon/__init__.py", "lib/daemon/__init__.py",
                 "current/lib/daemon/__init__.py", "versions/.x/lib/daemon/__init__.py"],
    )
    def test_anything_else_is_none(self, here: Installation, path: str) -> None:
        assert Installation.find(here.root / path) is None

    def test_this_checkout_is_none(self) -> None:
        assert Installation.find() is None


class TestPlacing:
    def test_the_files_lie_there_with_their_modes_and_a_manifest(self, here: Installation, package: Package) -> None:
        assert package.place(here)
        assert here.damage("2") == ""
        assert (here.folder("2") / "bin/twistd").stat().st_mode & 0o7777 == 0o755
        assert (here.folder("2") / "lib/daemon/__init__.py").stat().st_mode & 0o7777 == 0o644
        assert here.current() == "1"
        assert not list(here.versions.glob(".*"))

    def test_a_whole_folder_of_that_version_is_used_again(self, here: Installation, package: Package) -> None:
        package.place(here)
        inode = (here.folder("2") / "bin/twistd").stat().st_ino
        assert not package.place(here)  # its files have been moved away by now
        assert (here.folder("2") / "bin/twistd").stat().st_ino == inode

    def test_a_damaged_one_or_one_of_other_files_is_replaced(self, here: Installation, tmp_path: Path) -> None:
        Package(tmp_path / "first").place(here)
        (here.folder("2") / "lib/daemon/__init__.py").write_text("damaged")
        assert Package(tmp_path / "second").place(here)
        assert here.damage("2") == ""
        assert Package(tmp_path / "third", **{"lib/more.py": b"more"}).place(here)
        assert (here.folder("2") / "lib/more.py").read_bytes() == b"more"

    @pytest.mark.parametrize("which", ["running", "current"])
    def test_what_runs_is_never_replaced(self, here: Installation, tmp_path: Path, which: str) -> None:
        if which == "current":
            add_version(here.root, "2")
            launcher.flip(here.root, "2")
        version = "1" if which == "running" else "2"
        before = (here.folder(version) / "bin/twistd").read_bytes()
        with pytest.raises(UpdateApplyError, match="other files"):
            Package(tmp_path / "p", version, **{"lib/more.py": b"more"}).place(here)
        assert (here.folder(version) / "bin/twistd").read_bytes() == before

    def test_bytes_that_are_not_the_verified_ones_are_refused(self, here: Installation, package: Package) -> None:
        package.files["lib/daemon/__init__.py"].write_text("print('swapped')")
        with pytest.raises(UpdateApplyError, match="not what was verified"):
            package.place(here)
        assert not list(here.versions.glob(".staging-*"))
        assert not here.folder("2").exists()

    def test_a_link_put_in_their_place_is_refused(self, here: Installation, package: Package, tmp_path: Path) -> None:
        outside = tmp_path / "outside"
        path = package.files["lib/daemon/__init__.py"]
        path.rename(outside)
        path.symlink_to(outside)
        with pytest.raises(UpdateApplyError):
            package.place(here)
        assert not here.folder("2").exists()

    def test_a_package_without_a_program_is_refused(self, here: Installation, package: Package) -> None:
        del package.files["bin/twistd"]
        with pytest.raises(UpdateApplyError, match="has no bin/twistd"):
            package.place(here)

    @pytest.mark.parametrize("version", ["", ".", "..", "../x", "a/b", ".hidden", "-x", "a\0b", "x" * 200])
    def test_a_version_that_could_be_a_path_is_refused(self, here: Installation, version: str) -> None:
        with pytest.raises(UpdateApplyError, match="no folder's name"):
            here.folder(version)

    def test_a_full_disk_leaves_nothing_behind(self, here: Installation, package: Package) -> None:
        faults.arm({faults.VARIABLE: "update.daemon.staged:1:enospc"})
        try:
            with pytest.raises(UpdateApplyError, match="No space left"):
                package.place(here)
        finally:
            faults.arm({})
        assert sorted(path.name for path in here.versions.iterdir()) == ["0.9", "1"]

    @pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="a second filesystem is needed")
    def test_from_another_filesystem_it_is_copied(self, here: Installation) -> None:
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            package = Package(Path(folder))
            os.utime(package.files["bin/twistd"], (5, 1234))
            assert package.place(here)
        assert here.damage("2") == ""
        assert (here.folder("2") / "bin/twistd").stat().st_mtime == 1234


class TestPruning:
    def test_the_oldest_go_and_what_is_needed_stays(self, here: Installation) -> None:
        for age, version in enumerate(("5", "4", "3", "2")):
            folder = add_version(here.root, version)
            os.utime(folder, (1000 - age, 1000 - age))
        (here.versions / ".staging-u9").mkdir()
        (here.root / ".current.abc").symlink_to("versions/1")
        os.utime(here.folder("0.9"), (1, 1))
        assert here.prune({"0.9"}, 2) == ("3", "2")
        assert sorted(path.name for path in here.versions.iterdir()) == ["0.9", "1", "4", "5"]
        assert not list(here.root.glob(".current.*"))

    def test_running_and_current_stay_whatever_is_kept(self, here: Installation) -> None:
        launcher.flip(here.root, "0.9")
        add_version(here.root, "2")
        assert here.prune((), 0) == ("2",)
        here.remove("1")
        here.remove("0.9")
        assert sorted(path.name for path in here.versions.iterdir()) == ["0.9", "1"]


class TestLauncherFile:
    def test_another_one_is_refreshed_and_keeps_its_first_line(self, here: Installation) -> None:
        path = here.root / "bin/twistd"
        assert not here.refresh_launcher()
        path.write_text(f"#!{sys.executable} -I\nold\n")
        assert here.refresh_launcher()
        text = path.read_text()
        assert text.startswith(f"#!{sys.executable} -I\n") and "def prepare" in text
        assert path.stat().st_mode & 0o777 == 0o755
        assert [each.name for each in path.parent.iterdir()] == ["twistd"]

    def test_none_is_made(self, here: Installation) -> None:
        (here.root / "bin/twistd").unlink()
        assert not here.refresh_launcher()
        assert not (here.root / "bin/twistd").exists()


def test_what_cannot_be_written_is_a_refusal(here: Installation, tmp_path: Path) -> None:
    assert here.refusal() == ""
    assert "cannot be written" in Installation(tmp_path / "nowhere", "1").refusal()
