"""The record of an update: whoever comes first decides, and nobody decides twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.updater.selfupdate import launcher
from daemon.updater.selfupdate.probation import Kind, Phase, Probation, ProbationFile
from tests.fakes.installation import install, put_on_probation


@pytest.fixture
def file(tmp_path: Path) -> ProbationFile:
    root = install(tmp_path / "i", "1", "2", "3")
    put_on_probation(root, argv=("x",), env={"SECRET": "s"}, evidence={"first": 1})
    return ProbationFile(root)


def read(file: ProbationFile) -> Probation:
    found = file.read()
    assert found is not None
    return found


def test_what_is_confirmed_cannot_be_taken_back_by_accident(file: ProbationFile) -> None:
    assert file.confirm("u1")
    found = read(file)
    assert (found.state, found.settled, found.env, found.argv) == (Phase.CONFIRMED, True, {}, ())
    assert not file.take_back("u1", "watcher", "late")
    assert not file.confirm("u1")
    assert launcher.current(file.root) == "2"
    assert file.outcome("u1", "2").kind is Kind.CONFIRMED
    assert (file.root / "probation.json").stat().st_mode & 0o777 == 0o600


def test_what_is_taken_back_cannot_be_confirmed(file: ProbationFile) -> None:
    assert file.take_back("u1", "watcher", "it died", {"code": 3})
    assert not file.confirm("u1")
    assert not file.take_back("u1", "daemon", "again")
    assert not file.note("u1", stopping=True)
    found = read(file)
    assert (found.state, found.settled, found.by, found.reason) == (Phase.ROLLED_BACK, False, "watcher", "it died")
    assert found.env == {"SECRET": "s"}  # the old version is still to be started
    assert launcher.current(file.root) == "1"
    assert file.settle("u1")
    assert read(file).env == {}
    outcome = file.outcome("u1", "1")
    assert (outcome.kind, outcome.reason) == (Kind.ROLLED_BACK, "it died")
    assert outcome.evidence == {"by": "watcher", "first": 1, "code": 3}


def test_a_roll_back_that_is_asked_for_may_undo_what_was_confirmed(file: ProbationFile) -> None:
    file.confirm("u1")
    assert file.take_back("u1", "daemon", "asked for", even_confirmed=True)
    assert launcher.current(file.root) == "1"


def test_another_update_is_not_touched(file: ProbationFile) -> None:
    assert not file.confirm("u2")
    assert not file.take_back("u2", "daemon", "x")
    assert not file.settle("u2")
    assert file.outcome("u2", "2").kind is Kind.NONE
    assert read(file).state is Phase.TRYING


@pytest.mark.parametrize(
    ("running", "kind", "current"),
    [("2", Kind.PENDING, "2"), ("1", Kind.ROLLED_BACK, "1"), ("3", Kind.NONE, "2")],
)
def test_what_a_version_that_starts_is_told_of_an_update_nobody_decided(
    file: ProbationFile, running: str, kind: Kind, current: str
) -> None:
    assert file.outcome("u1", running).kind is kind
    assert launcher.current(file.root) == current


def test_a_record_nobody_understands_is_none(file: ProbationFile) -> None:
    (file.root / "probation.json").write_text('{"state": "trying", "old": "1", "new": "2"}')
    assert file.read() is None
    (file.root / "probation.json").write_text("{")
    assert file.read() is None
    assert not file.confirm("u1")
    (file.root / "probation.json").unlink()
    assert file.read() is None
    assert file.outcome("u1", "2").kind is Kind.NONE


def test_facts_of_a_newer_version_survive_a_change_by_an_older_one(file: ProbationFile) -> None:
    record = launcher.read_record(file.root)
    assert record is not None
    launcher.write_record(file.root, record | {"invented": {"later": 1}})
    assert file.note("u1", stopping=True)
    changed = launcher.read_record(file.root)
    assert changed is not None and (changed["invented"], changed["stopping"]) == ({"later": 1}, True)
