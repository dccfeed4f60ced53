"""Backups: checked copies, bounded, and nothing of anybody else's is followed or removed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from daemon import faults
from daemon.errors import ErrorCode, UpdateApplyError, UpdateRollbackError
from daemon.updater.agent.backup import Backup, Backuper
from daemon.updater.agent.copying import sha256_of
from daemon.updater.agent.installed import Installed, load_installed, save_installed

AT = 1_795_172_400.0  # 2026-11-20T11:00:00Z


class Rig:
    """A backup folder and a program to copy."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now = AT
        self.folder = root / "backups"
        self.program = root / "web"
        self.backuper = Backuper(lambda: self.folder, lambda: self.now)

    def make(self, content: bytes = b"one", component: str = "web", **more: Any) -> Backup:
        self.program.write_bytes(content)
        return self.backuper.create(component, "1.0.0", self.program, program=self.program, **more)

    def several(self, count: int) -> list[Backup]:
        made = []
        for n in range(count):
            self.now += 1
            made.append(self.make(b"version %d" % n))
        return made

    def names(self) -> list[str]:
        return sorted(entry.name for entry in self.folder.iterdir())


@pytest.fixture
def rig(tmp_path: Path) -> Any:
    yield Rig(tmp_path)
    faults.arm({})


def test_the_copy_is_named_by_component_and_time_and_is_not_executable(rig: Rig) -> None:
    rig.program.touch()
    rig.program.chmod(0o750)
    backup = rig.make()
    assert backup.path == rig.folder / "web_20261120110000.bak"
    assert backup.path.read_bytes() == b"one"
    assert backup.path.stat().st_mode & 0o777 == 0o600
    assert rig.folder.stat().st_mode & 0o777 == 0o700
    facts = json.loads((rig.folder / "web_20261120110000.bak.json").read_bytes())
    assert facts["main"]["mode"] == 0o750
    assert (facts["version"], facts["path"], facts["main"]["uid"]) == ("1.0.0", str(rig.program), os.getuid())
    assert facts["main"]["sha256"] == sha256_of(rig.program)
    assert rig.backuper.load(str(backup.path), "web") == backup


def test_a_second_one_of_the_same_second_gets_a_suffix_and_is_the_newer_one(rig: Rig) -> None:
    first, second = rig.make(b"one"), rig.make(b"two")
    third = rig.make(b"three")
    assert [b.path.name for b in (second, third)] == ["web_20261120110000-1.bak", "web_20261120110000-2.bak"]
    assert rig.backuper.all_of("web") == [third, second, first]


def test_the_same_again_is_the_same_backup_unless_that_is_damaged(rig: Rig) -> None:
    first = rig.make()
    rig.now += 60
    assert rig.make() == first
    first.path.write_bytes(b"rotten")
    again = rig.make()
    assert again.path != first.path
    rig.now += 60
    rig.program.chmod(0o711)
    assert rig.make().path != again.path  # another mode is not the same


def test_with_other_files_it_is_a_folder(rig: Rig) -> None:
    other = rig.root / "mod.so"
    other.write_bytes(b"so")
    other.chmod(0o604)
    backup = rig.make(others=[other])
    assert sorted(p.name for p in backup.path.iterdir()) == ["1", "main"]
    kept = backup.facts.files[str(other)]
    assert (backup.copy_of(kept).read_bytes(), kept.mode) == (b"so", 0o604)
    assert rig.backuper.load(str(backup.path), "web") == backup
    (backup.path / "1").write_bytes(b"rotten")
    with pytest.raises(UpdateRollbackError, match="damaged"):
        rig.backuper.load(str(backup.path), "web")


def test_components_whose_names_begin_alike_do_not_mix(rig: Rig) -> None:
    rig.make(component="web")
    rig.now += 1
    longer = rig.make(b"two", component="web_20261120110000")
    dotted = rig.make(b"three", component="w.b")
    assert [b.path for b in rig.backuper.all_of("web_20261120110000")] == [longer.path]
    assert len(rig.backuper.all_of("web")) == 1
    assert [b.path for b in rig.backuper.all_of("w.b")] == [dotted.path]


@pytest.mark.parametrize("point", ["update.backup.copy", "atomic.write", "atomic.rename", "update.backup.noted", "update.backup.named"])
@pytest.mark.parametrize("folder", [False, True])
def test_a_full_disk_leaves_nothing_half(rig: Rig, point: str, folder: bool) -> None:
    other = rig.root / "other"
    other.write_bytes(b"x")
    faults.arm({faults.VARIABLE: f"{point}:1:enospc"})
    with pytest.raises(UpdateApplyError, match="No space left") as caught:
        rig.make(others=[other] if folder else [])
    assert caught.value.code is ErrorCode.UPDATE_APPLY
    assert rig.names() == []


def test_what_a_killed_daemon_left_goes_with_the_next_backup(rig: Rig) -> None:
    rig.make()
    half = rig.folder / ".web_20261120105959.bak.0123456789ab.tmp"
    half.write_bytes(b"half")
    tree = rig.folder / ".web_20261120105958.bak.0123456789ab.tmp"
    tree.mkdir()
    (tree / "main").write_bytes(b"half")
    noted = rig.folder / "web_20261120105957.bak.json"
    noted.write_bytes((rig.folder / "web_20261120110000.bak.json").read_bytes())
    (rig.folder / ".web.installed.json.0123456789ab.tmp").write_bytes(b"half")
    others = rig.folder / ".other_20261120105959.bak.0123456789ab.tmp"
    others.write_bytes(b"under way")
    rig.make(b"two")
    assert [name for name in rig.names() if name.endswith(".tmp")] == [others.name]
    assert not noted.exists()


def test_a_folder_others_may_write_to_is_refused(rig: Rig) -> None:
    rig.folder.mkdir()
    rig.folder.chmod(0o777)
    with pytest.raises(UpdateApplyError, match="chmod go-w"):
        rig.make()


def test_a_folder_that_cannot_be_made_is_told(rig: Rig) -> None:
    rig.folder.write_bytes(b"a file")
    with pytest.raises(UpdateApplyError):
        rig.make()


@pytest.mark.parametrize("damage", [b"", b"longer than before", b"owo"])
def test_a_damaged_one_is_refused_with_the_next_step(rig: Rig, damage: bytes) -> None:
    backup = rig.make()
    backup.path.write_bytes(damage)
    with pytest.raises(UpdateRollbackError, match=r"damaged .* by hand") as caught:
        rig.backuper.load(str(backup.path), "web")
    assert caught.value.code is ErrorCode.UPDATE_ROLLBACK


@pytest.mark.parametrize("facts", [b"", b"{", b"[" * 10_000, b'{"component":"web","path":"/x","schema":99}', b'{"component":"other","path":"/x"}', b'{"component":"web","path":"/x","main":{"name":"../../etc/passwd","sha256":"","mode":0,"uid":0,"gid":0}}'])
def test_one_without_readable_facts_is_none(rig: Rig, facts: bytes) -> None:
    backup = rig.make()
    (rig.folder / (backup.path.name + ".json")).write_bytes(facts)
    assert rig.backuper.all_of("web") == []
    with pytest.raises(UpdateRollbackError, match="gone or unreadable"):
        rig.backuper.load(str(backup.path), "web")
    assert rig.backuper.prune("web", 1, running="") == []
    assert backup.path.exists()  # none of ours, as far as we can tell


def test_the_oldest_go_first(rig: Rig) -> None:
    made = rig.several(6)
    removed = rig.backuper.prune("web", 3, running="")
    assert sorted(removed) == sorted(str(b.path) for b in made[:3])
    assert len(rig.names()) == 6  # three, each with its facts


def test_what_runs_and_what_was_replaced_last_stay_within_the_bound(rig: Rig) -> None:
    made = rig.several(6)
    running = made[0].facts.main
    assert running is not None
    rig.backuper.prune("web", 3, running=running.sha256, protect={str(made[1].path)})
    assert [b.path for b in rig.backuper.all_of("web")] == [made[5].path, made[1].path, made[0].path]
    rig.backuper.prune("web", 1, running=running.sha256, protect={str(made[1].path)})
    assert [b.path for b in rig.backuper.all_of("web")] == [made[1].path, made[0].path]


def test_nothing_hostile_is_followed_or_removed(rig: Rig) -> None:
    made = rig.several(3)
    victim = rig.root / "victim"
    victim.mkdir()
    (victim / "precious").write_bytes(b"precious")
    for n, target in enumerate((victim / "precious", victim)):
        name = f"web_2020010100000{n}.bak"
        (rig.folder / name).symlink_to(target)
        (rig.folder / f"{name}.json").write_bytes((rig.folder / f"{made[0].path.name}.json").read_bytes())
    (rig.folder / "notes.txt").write_bytes(b"mine")
    (rig.folder / "web_20200101000009.bak").mkdir()  # a folder without facts
    (rig.folder / ".web_20261120105959.bak.0123456789ab.tmp").symlink_to(victim)
    linked_facts = rig.folder / "web_20200101000008.bak"
    linked_facts.write_bytes(b"foreign")
    (rig.folder / "web_20200101000008.bak.json").symlink_to(rig.folder / f"{made[0].path.name}.json")
    before = set(rig.names())
    rig.now += 1
    rig.make(b"four")
    assert rig.backuper.prune("web", 1, running="") == [str(b.path) for b in reversed(made)]
    assert before - set(rig.names()) == {n for b in made for n in (b.path.name, b.path.name + ".json")}
    assert (victim / "precious").read_bytes() == b"precious"


def test_a_name_that_is_taken_is_not_written_over(rig: Rig) -> None:
    rig.folder.mkdir(mode=0o700)
    taken = rig.folder / "web_20261120110000.bak"
    taken.symlink_to("/nowhere")
    assert rig.make().path.name == "web_20261120110000-1.bak"
    assert taken.is_symlink()


def test_the_record_of_what_is_installed_survives_and_rubbish_is_none(rig: Rig) -> None:
    rig.folder.mkdir()
    assert load_installed(rig.folder, "web") == Installed()
    record = Installed(version="1.1.0", sha256="ab", files={"/x": "cd"}, previous="/b")
    save_installed(rig.folder, "web", record)
    assert load_installed(rig.folder, "web") == record
    for rubbish in (b"", b"[", b'{"schema":99}', b'{"files":3}'):
        (rig.folder / "web.installed.json").write_bytes(rubbish)
        assert load_installed(rig.folder, "web") == Installed()
