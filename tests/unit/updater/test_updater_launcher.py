"""The stable program in front of the versions: it starts what should run, whatever it finds."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from daemon.procfs.identity import identify
from daemon.updater.selfupdate import launcher
from daemon.updater.selfupdate.probation import ProbationFile
from tests.fakes.installation import add_version, install, put_on_probation

SYSTEM_PYTHON = Path("/usr/bin/python3")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return install(tmp_path / "i", "1", "2")


def start(root: Path, *argv: str, through: str = "bin/twistd") -> tuple[int, str, str]:
    """Runs the launcher as an operator does: status, stdout, stderr."""
    done = subprocess.run([str(root / through), *argv], capture_output=True, text=True, timeout=30, check=False)
    return done.returncode, done.stdout.strip(), done.stderr.strip()


def test_it_becomes_the_current_version_with_all_arguments(root: Path) -> None:
    assert start(root, "-n", "hostdaemon", "--config", "a b") == (0, "version 1 -n hostdaemon --config a b", "")
    launcher.flip(root, "2")
    assert start(root) == (0, "version 2", "")
    (root / "elsewhere").symlink_to("bin/twistd")
    assert start(root, through="elsewhere") == (0, "version 2", "")


@pytest.mark.parametrize(
    ("words", "flags"), [((), "0 0 0 0"), (("-ISB",), "1 1 1 0"), (("-ISBOO",), "1 1 1 2"), (("-O",), "0 0 0 1")]
)
def test_a_version_is_as_isolated_and_as_optimized_as_the_launcher(
    root: Path, words: tuple[str, ...], flags: str
) -> None:
    program = "import sys; f = sys.flags; print(f.isolated, f.no_site, f.dont_write_bytecode, f.optimize)\n"
    add_version(root, "3", program)
    launcher.flip(root, "3")
    done = subprocess.run(
        [sys.executable, *words, root / "bin" / "twistd"], capture_output=True, text=True, timeout=30, check=False,
        env={"PATH": os.defpath},
    )
    assert done.stdout.strip() == flags, done.stderr


def test_it_imports_nothing_but_the_standard_library() -> None:
    text = "import sys; sys.path[:] = [p for p in sys.path if 'site-packages' not in p]; import runpy; " \
           "runpy.run_path(sys.argv[1], run_name='x'); print('fine', 'daemon' in sys.modules, 'msgspec' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-I", "-c", text, launcher.__file__], capture_output=True, text=True, check=False
    )
    assert done.stdout == "fine False False\n", done.stderr


def test_a_start_during_a_probation_whose_daemon_is_dead_goes_back_first(root: Path) -> None:
    put_on_probation(root)
    status, out, err = start(root, "-n")
    assert (status, out) == (0, "version 1 -n")
    assert "back to version 1" in err and "had proven itself" in err
    found = ProbationFile(root).read()
    assert found is not None and (found.state.value, found.by, found.settled) == ("rolled_back", "launcher", False)
    assert start(root, "-n") == (0, "version 1 -n", "")


def test_a_start_beside_a_daemon_that_lives_changes_nothing(root: Path) -> None:
    me = identify(os.getpid())
    assert me is not None
    put_on_probation(root, daemon=me)
    assert start(root, "--version") == (0, "version 2 --version", "")
    found = ProbationFile(root).read()
    assert found is not None and found.state.value == "trying"


@pytest.mark.parametrize("change", [{"boot_id": "another"}, {"start_ticks": 1}, {"pid": "x"}, {"pid": None}])
def test_another_process_on_that_pid_is_not_the_daemon(root: Path, change: dict[str, object]) -> None:
    me = identify(os.getppid())
    assert me is not None
    put_on_probation(root, daemon=me)
    record = launcher.read_record(root)
    assert record is not None and launcher.alive(record)
    record["daemon"].update(change)
    assert not launcher.alive(record)


def test_we_ourselves_are_not_the_daemon_of_the_record() -> None:
    me = identify(os.getpid())
    assert me is not None
    assert not launcher.alive({"daemon": {"boot_id": me.boot_id, "pid": me.pid, "start_ticks": me.start_ticks}})
    assert not launcher.alive({"daemon": None})


@pytest.mark.parametrize("state", ["confirmed", "rolled_back"])
def test_an_update_that_is_over_changes_nothing(root: Path, state: str) -> None:
    put_on_probation(root)
    record = launcher.read_record(root)
    assert record is not None
    launcher.write_record(root, record | {"state": state})
    assert start(root) == (0, "version 2", "")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"state": "odd"}', '{"state": "trying", "old": "../x", "new": "2"}',
             '{"state": "trying", "old": 1, "new": "2"}', "[" * 100_000, "\x00\xff"],
)
def test_a_damaged_record_is_set_aside_and_the_current_version_started(root: Path, text: str) -> None:
    launcher.flip(root, "2")
    (root / "probation.json").write_text(text, encoding="latin-1")
    status, out, err = start(root)
    assert (status, out) == (0, "version 2")
    assert "damaged" in err
    assert (root / "probation.json.corrupt").read_text(encoding="latin-1") == text
    assert start(root) == (0, "version 2", "")


@pytest.mark.parametrize("how", ["no link", "dangling", "no link at all", "outside"])
def test_where_current_names_nothing_the_newest_whole_version_is_started(root: Path, how: str) -> None:
    for version in ("10", "9", "10-rc1", "11"):
        add_version(root, version)
    (root / "versions/11/lib/daemon/__init__.py").write_text("damaged")
    (root / "versions/.staging-u7").mkdir()
    (root / "current").unlink()
    if how == "dangling":
        (root / "current").symlink_to("versions/12")
    elif how == "outside":
        (root / "current").symlink_to("..")
    elif how == "no link":
        (root / "current").write_text("versions/1")
    status, out, err = start(root)
    assert (status, out) == (0, "version 10")
    assert "now it names 10" in err


def test_an_old_version_that_somebody_removed_is_replaced_by_another_whole_one(root: Path) -> None:
    add_version(root, "0.9")
    put_on_probation(root)
    shutil.rmtree(root / "versions" / "1")
    assert start(root)[:2] == (0, "version 0.9")


def test_with_no_other_version_the_new_one_is_better_than_none(root: Path) -> None:
    put_on_probation(root)
    shutil.rmtree(root / "versions" / "1")
    status, out, err = start(root)
    assert (status, out) == (0, "version 2")
    assert "there is no other" in err


def test_without_any_version_it_says_what_to_do(root: Path) -> None:
    shutil.rmtree(root / "versions")
    status, _out, err = start(root)
    assert status == 1
    assert "install a version" in err


def test_a_lock_that_cannot_be_used_is_said_and_the_current_version_started(root: Path) -> None:
    put_on_probation(root)
    (root / "probation.lock").unlink()
    (root / "probation.lock").symlink_to("elsewhere")
    status, out, err = start(root)
    assert (status, out) == (0, "version 2")
    assert "starting current as it is" in err


@pytest.mark.skipif(os.geteuid() != 0 or not SYSTEM_PYTHON.exists(), reason="root, and a python for another user")
def test_a_user_who_may_change_nothing_still_gets_the_current_version() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        root = install(Path(folder) / "i", "1", "2")
        put_on_probation(root)
        done = subprocess.run(
            [str(SYSTEM_PYTHON), str(root / "bin/twistd")], capture_output=True, text=True, check=False,
            user=65534, group=65534, extra_groups=[],
        )
        assert (done.stdout, done.stderr, done.returncode) == ("version 2\n", "", 0)
        found = ProbationFile(root).read()
        assert found is not None and found.state.value == "trying"


@pytest.mark.parametrize(
    ("less", "more"),
    [("1.9", "1.10"), ("1.0-rc1", "1.0"), ("1.0~1", "1.0"), ("1.0", "1.0.1"), ("v1.0", "1.1"), ("1.0", "2"),
     ("1.0-rc1", "1.0-rc2"), ("1.0-alpha", "1.0-beta")],
)
def test_versions_have_an_order(less: str, more: str) -> None:
    assert launcher.order(less) < launcher.order(more)


class TestDamage:
    @pytest.fixture
    def folder(self, root: Path) -> Path:
        return root / "versions" / "1"

    def test_a_whole_version_has_none_whatever_python_writes_beside_it(self, folder: Path) -> None:
        cache = folder / "lib/daemon/__pycache__"
        cache.mkdir()
        (cache / "x.cpython-311.pyc").write_bytes(b"")
        plugins = folder / "lib/twisted/plugins"
        plugins.mkdir(parents=True)
        (plugins / "dropin.cache").write_bytes(b"")
        assert launcher.damage(folder) == ""

    def test_a_plugin_cache_that_twistd_wrote_anew_is_none(self, folder: Path) -> None:
        (folder / "lib/twisted/plugins").mkdir(parents=True)
        (folder / "lib/twisted/plugins/dropin.cache").write_bytes(b"anew")
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["files"]["lib/twisted/plugins/dropin.cache"] = {"sha256": "as it was packed"}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        assert launcher.damage(folder) == ""

    @pytest.mark.parametrize("what", ["changed", "missing", "added", "pyc", "compiled", "mode", "link", "fifo", "set-uid"])
    def test_anything_else_is_damage(self, folder: Path, what: str) -> None:
        path = folder / "lib/daemon/__init__.py"
        if what == "changed":
            path.write_text("print('evil')")
        elif what == "missing":
            path.unlink()
        elif what == "added":
            (folder / "lib/sitecustomize.py").write_text("")
        elif what == "pyc":
            (folder / "lib/sitecustomize.pyc").write_text("")
        elif what == "compiled":  # what the manifest names is compared, also there
            cache = folder / "lib/daemon/__pycache__"
            cache.mkdir()
            (cache / "x.pyc").write_bytes(b"changed")
            manifest = json.loads((folder / "manifest.json").read_text())
            manifest["files"]["lib/daemon/__pycache__/x.pyc"] = {"sha256": "as it was packed"}
            (folder / "manifest.json").write_text(json.dumps(manifest))
        elif what == "mode":
            (folder / "bin/twistd").chmod(0o644)
        elif what == "set-uid":
            (folder / "bin/twistd").chmod(0o4755)
        elif what == "link":
            data = path.read_bytes()
            (folder.parent / "outside").write_bytes(data)
            path.unlink()
            path.symlink_to(folder.parent / "outside")
        else:
            path.unlink()
            os.mkfifo(path)
        assert launcher.damage(folder) != ""

    @pytest.mark.parametrize(
        "manifest", [None, "", "[]", "{}", '{"files": {}}', '{"files": {"lib/x": {"sha256": "x"}}}',
                     '{"files": {"bin/twistd": {}}}', '{"files": {"bin/twistd": {"sha256": "x", "mode": "rwx"}}}'],
    )
    def test_without_a_manifest_it_is_not_whole(self, folder: Path, manifest: str | None) -> None:
        (folder / "manifest.json").unlink()
        if manifest is not None:
            (folder / "manifest.json").write_text(manifest)
        assert launcher.damage(folder) != ""


def test_a_switch_that_is_refused_leaves_the_old_one(root: Path) -> None:
    (root / "current").unlink()
    (root / "current").mkdir()
    with pytest.raises(OSError, match="current"):
        launcher.flip(root, "2")
    assert not list(root.glob(".current.*"))


def test_a_record_that_cannot_be_written_leaves_the_old_one(root: Path) -> None:
    put_on_probation(root)
    before = (root / "probation.json").read_bytes()
    with pytest.raises(TypeError):
        launcher.write_record(root, {"not json": object()})
    assert (root / "probation.json").read_bytes() == before
    assert json.loads(before)["id"] == "u1"
