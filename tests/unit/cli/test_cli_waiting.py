"""What ``hostctl update --wait`` says, and what of an update's evidence is for people."""

from __future__ import annotations

import json
from typing import Any

import pytest

from daemon.cli.evidence import LINES_MAX, evidence_text
from daemon.cli.waiting import LATE_S, away, interrupted, under_way

CANCEL, BACK = "--cancel calls it off", "hostctl rollback daemon goes back"


@pytest.mark.parametrize(("step", "silent", "can"), [
    ("", False, CANCEL), ("", True, CANCEL), ("preflight", False, CANCEL), ("preflight", True, BACK), ("apply", False, BACK),
    ("rollback", False, BACK),
])
def test_ctrl_c_names_what_can_still_be_done(step: str, silent: bool, can: str) -> None:
    said = interrupted({"component": "daemon", "step": step} if step else {}, "u1", silent=silent)
    assert "the update goes on" in said and "hostctl updates u1 --wait" in said
    assert can in said and ("--cancel" in said) is (can == CANCEL)


def test_a_daemon_that_is_away_for_long_may_have_to_be_started() -> None:
    assert away(2.4, 360) == "waiting for the daemon (2 s)"
    late = away(LATE_S, 360)
    assert "systemctl start hostdaemon" in late and "up to 360 s" in late


@pytest.mark.parametrize(("state", "success", "goes_on"), [
    ("running", None, True), ("of a later daemon", None, True), ("succeeded", True, False), ("of a later daemon", False, False),
])
def test_a_state_that_is_not_known_is_no_end_by_itself(state: str, success: bool | None, goes_on: bool) -> None:
    assert under_way({"state": state, "success": success}) is goes_on


def test_evidence_says_nothing_twice_and_shows_the_end_of_the_log_as_lines() -> None:
    logged = json.dumps({"timestamp": "2026-11-26T10:00:00.000Z", "level": "info", "message": "giving way", "version": "2"})
    lines = [*(f"line {number}" for number in range(12)), logged, "{ no JSON", '{"message": 1}', "Error: \x1b[31mit"]
    found: dict[str, Any] = {
        "reason": "it died", "by": "watcher", "code": 1, "signal": None, "lost": {}, "last_lines": lines,
    }
    assert evidence_text(found | {"rollback": {**found, "version": "1.0.0"}}, "it died").splitlines() == [
        "evidence:", "  by: watcher", "  code: 1", "  rollback:", "    version: 1.0.0",
        f"last lines, without {len(lines) - LINES_MAX} before them:", *(f"  line {number}" for number in range(6, 12)),
        "  2026-11-26T10:00:00.000Z info giving way", "  { no JSON", '  {"message": 1}', "  Error: \\x1b[31mit",
    ]


@pytest.mark.parametrize("found", [{}, {"lost": {}, "rollback": {}, "last_lines": []}, {"reason": "it died"}])
def test_no_evidence_is_no_text(found: dict[str, Any]) -> None:
    assert evidence_text(found, "it died") == ""


def test_a_roll_back_that_went_another_way_is_shown_in_full() -> None:
    text = evidence_text({"code": 1, "rollback": {"code": 3, "reason": "gone"}, "last_lines": "no list"}, "it died")
    assert text == "evidence:\n  code: 1\n  rollback:\n    code: 3\n    reason: gone\n"
