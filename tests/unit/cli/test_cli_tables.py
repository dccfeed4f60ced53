"""Tables, and agents in them."""

from __future__ import annotations

from typing import Any

import pytest

from daemon.cli import agents, alerts, config, events, operate, top, update, waiting
from daemon.cli.screen import drawn
from daemon.cli.table import Cell, Column, pairs, render, widest
from daemon.cli.words import width_of

NOW = 1795168810.0  # 2026-11-20T10:00:10Z


def view(agent_id: str = "web", **keys: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "id": agent_id, "type": "custom", "name": "", "binary_path": "/usr/bin/web", "config_file": "",
        "work_dir": "/w", "socket_path": "/s", "enabled": True, "wanted": "running", "status": "running", "pid": 4711,
        "version": "1.0.0", "start_time": "2026-11-20T10:00:00Z", "uptime_seconds": 10.0, "restart_count": 2,
        "lifetime_restarts": 7, "last_restart": None, "next_try": None, "created_at": None, "updated_at": None,
        "last_heartbeat": "2026-11-20T10:00:05Z", "cpu_percent": 1.25, "memory_bytes": 37498880,
        "health": {"status": "healthy", "reason": "pid 4711 lives", "since": None}, "last_exit": None,
        "why": "wanted running, pid 4711 lives: keep", "log_file": "/l", "adopted": False,
    }
    return found | keys


def dead(agent_id: str, **keys: Any) -> dict[str, Any]:
    return view(agent_id, **{
        "status": "restarting", "pid": None, "uptime_seconds": 0.0, "cpu_percent": None, "memory_bytes": None,
        "health": {"status": "dead", "reason": "no process runs", "since": None},
        "why": "wanted running, no process: wait, because the next try has not come; exit code 1; restarting in 10 s",
        "next_try": "2026-11-20T10:00:20Z", "last_exit": {"code": 1, "signal": None, "reason": "exit code 1", "at": "x"},
    } | keys)


def test_a_row_says_everything_an_operator_asks() -> None:
    head, row = agents.table([view()], NOW).splitlines()
    assert head.split() == ["AGENT", "STATE", "HEALTH", "PID", "UPTIME", "RESTARTS", "CPU", "RSS", "BEAT", "VERSION", "WHY"]
    assert row.split("  ")[0] == "web"
    for word in ("running", "healthy", "10s", "2", "1.2%", "35.8M", "5s", "1.0.0", "wanted running, pid 4711 lives: keep"):
        assert word in row


def test_off_a_terminal_nothing_is_cut_or_painted() -> None:
    text = agents.table([dead("web")], NOW)
    assert "restarting in 10 s" in text
    assert "\x1b" not in text
    assert len(text.splitlines()) == 2


@pytest.mark.parametrize("width", [40, 60, 80, 100, 140, 300])
def test_on_a_terminal_every_line_fits_and_the_reason_is_whole(width: int) -> None:
    text = agents.table([view(), dead("broken")], NOW, width=width)
    assert all(width_of(line) <= width for line in text.splitlines()), text
    assert "running" in text
    assert "restarting in 10 s" in " ".join(text.split())


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 140, 300])
def test_every_table_fits_its_terminal(width: int) -> None:
    long = "a word and another " * 20
    alert = {"timestamp": "2026-11-20T10:00:00Z", "severity": "error", "agent_id": "web", "type": "restarts_given_up",
             "cleared_at": None, "message": f"agent web: {long}what to do"}
    change = {"agent": "web", "key": "args", "effect": "restart_agent", "from": long, "to": "short"}
    asked = {"id": "20261120-1234", "component": "web", "version": "1.0.0", "state": "rolled_back", "step": "done",
             "started_at": None, "old_version": "1", "new_version": None, "code": "D4003", "error": long}
    shown = alerts.alert_table([alert], NOW, width=width, colours=True)
    assert "what to do" in " ".join(shown.split()), "no message is cut"
    for text in (shown, config.plan_table([change], width=width, colours=True), update.table([asked], width=width),
                 top.frame([view(), dead("a-long-name")], {}, width=width, height=20, clock="10:00:00", away=long)):
        assert widest(text) <= width, text


def test_the_room_is_shared_by_the_columns_that_may_be_cut() -> None:
    columns = (Column(heading="KEY"), Column(heading="FROM", elastic=True), Column(heading="TO", elastic=True))
    text = render(columns, [["k", "x" * 50, "y" * 5], ["k", "x" * 50, "y" * 18]], width=60)
    assert [len(word) for word in text.splitlines()[2].split()] == [1, 35, 18]


def test_what_is_spared_first_goes_first() -> None:
    columns = (Column(heading="NAME", spare=9), Column(heading="B", spare=2), Column(heading="CC", spare=1))
    assert render(columns, [["name", "b", "cc"]], width=8) == "NAME  CC\nname  cc\n"
    assert render(columns, [["name", "b", "cc"]], width=3) == "NA…\nna…\n"


def test_top_at_80_columns_has_a_sparkline_and_at_40_what_is_used() -> None:
    points = {"a-name-of-14-c": [{"cpu": 1.0, "memory_rss": 5}]}
    assert "█" in top.frame([view("a-name-of-14-c")], points, width=80)
    assert "1.2%" in top.frame([view("a-name-of-14-c")], points, width=40)


def test_what_is_drawn_fits_the_screen_and_says_what_it_left_out() -> None:
    text = drawn("".join(f"line {i}\n" for i in range(50)), 80, 10)
    assert text.count("\n") == 9
    assert "... and 42 more lines" in text
    assert drawn("a\n\nb\n", 80, 10) == "\x1b[Ha\x1b[K\n\x1b[K\nb\x1b[K\n\x1b[J"
    assert "x" * 90 not in drawn("x" * 90 + "\nb\n", 30, 3), "a long line takes several"
    assert "b" in drawn("\x1b[32m" + "x" * 30 + "\x1b[0m\nb\n", 30, 3), "and its colours none"


def test_an_unhealthy_agent_shows_the_verdict_as_its_reason() -> None:
    sick = view(health={"status": "over_threshold", "reason": "CPU 180 % above 50 %", "since": None})
    assert "CPU 180 % above 50 %" in agents.table([sick], NOW)
    assert not agents.is_well(sick)


@pytest.mark.parametrize(
    ("found", "named", "listed"),
    [
        (view(), False, []),
        (view(health={"status": "starting", "reason": "", "since": None}), False, []),
        (view(status="starting"), False, ["web"]),
        (dead("web"), False, ["web"]),
        (dead("web", status="stopped", wanted="stopped"), False, ["web"]),
        (dead("web", status="stopped", enabled=False), False, []),
        (dead("web", status="stopped", enabled=False), True, ["web"]),
        (view(health={"status": "no_heartbeat", "reason": "", "since": None}), False, ["web"]),
    ],
)
def test_who_is_not_well(found: dict[str, Any], named: bool, listed: list[str]) -> None:
    assert agents.unwell([found], named=named) == listed


HOSTILE = "\x1b]0;pwned\x07\x1b[2Jweb\n\u202e"


@pytest.mark.parametrize("width", [None, 120])
def test_hostile_names_reasons_and_versions_stay_in_their_line_and_move_no_cursor(width: int | None) -> None:
    evil = dead(HOSTILE, why=HOSTILE, version=HOSTILE, health={"status": HOSTILE, "reason": HOSTILE, "since": HOSTILE},
                status=HOSTILE)
    problem = {"id": HOSTILE, "at": HOSTILE, "type": HOSTILE, "severity": HOSTILE, "agent_id": HOSTILE, "message": HOSTILE}
    alert = problem | {"timestamp": HOSTILE, "cleared_at": HOSTILE}
    change = {"agent": HOSTILE, "key": HOSTILE, "effect": HOSTILE, "from": HOSTILE, "to": HOSTILE}
    asked = {"id": HOSTILE, "component": HOSTILE, "version": HOSTILE, "state": HOSTILE, "step": HOSTILE, "progress": 0.5,
             "started_at": HOSTILE, "finished_at": HOSTILE, "old_version": HOSTILE, "new_version": HOSTILE,
             "success": None, "code": HOSTILE, "error": HOSTILE,
             "evidence": {HOSTILE: HOSTILE, "last_lines": [HOSTILE], "rollback": {HOSTILE: HOSTILE + "x"}}}
    for text in (
        agents.table([evil], NOW, width=width),
        agents.detail(evil, NOW, [HOSTILE]),
        agents.summary([evil]) if width else "",
        top.frame([evil], {}, width=width, away=HOSTILE) if width else "",
        events.line(problem),
        alerts.alert_table([alert], NOW, width=width),
        config.plan_table([change], width=width),
        update.table([asked], width=width),
        update.detail(asked),
        operate.outcome(HOSTILE, {"success": True, "agent": evil, "message": HOSTILE}),
    ):
        assert "\x1b" not in text
        assert "\x07" not in text
        assert "\u202e" not in text


def test_an_optional_column_without_content_is_left_out() -> None:
    columns = (Column(heading="A"), Column(heading="B", optional=True), Column(heading="C"))
    assert render(columns, [["1", "-", "x"], ["2", "", "y"]]) == "A  C\n1  x\n2  y\n"
    assert render(columns, [["1", "z", "x"]]) == "A  B  C\n1  z  x\n"


def test_colours_do_not_shift_columns() -> None:
    columns = (Column(heading="STATE"), Column(heading="X", right=True), Column(heading="Y"))
    text = render(columns, [[Cell(text="ok", colour="green"), "1", "z"]], colours=True)
    assert "\x1b[32mok\x1b[0m" in text
    plain = text.replace("\x1b[32m", "").replace("\x1b[1m", "").replace("\x1b[0m", "")
    assert plain == render(columns, [["ok", "1", "z"]])


def test_pairs_leave_out_what_is_not_there() -> None:
    assert pairs([("a", 1), ("long", "x"), ("none", None), ("empty", "")]) == "a     1\nlong  x\n"


def test_an_unknown_agent_is_told_which_there_are_and_which_is_near() -> None:
    fault = agents.unknown_agent("wbe", ["web", "db"])
    assert (fault.status, fault.message, fault.hint) == (4, "no agent 'wbe'; did you mean web?", "agents here: web, db")
    assert "3 more" in agents.unknown_agent("x", [str(i) for i in range(15)]).hint
    assert "hostctl init" in agents.unknown_agent("x", []).hint


def test_the_worst_outcome_is_the_exit_status() -> None:
    good = {"success": True}
    assert operate.worst({"a": good}) == 0
    assert operate.worst({"a": good, "b": {"success": False, "status": 4}}) == 4
    assert operate.worst({"a": {"success": False}, "b": {"success": False, "status": 4}}) == 1


def test_top_cuts_to_the_screen_and_says_when_it_is_not_live() -> None:
    many = [view(f"a{i}") for i in range(50)]
    text = top.frame(many, {"a0": [{"cpu": 1.0, "memory_rss": 5}]}, width=120, height=20, away="it went away")
    assert len(text.splitlines()) <= 20
    assert "35 more" in text
    assert "it went away" in text


def test_events_are_chosen_by_agent_and_by_type_or_its_first_part() -> None:
    event = {"agent_id": "web", "type": "agent.exited"}
    assert events.wanted(event, None, None)
    assert events.wanted(event, "web", "agent")
    assert events.wanted(event, "web", "agent.exited")
    assert not events.wanted(event, "db", None)
    assert not events.wanted(event, None, "agent.exit")


def test_progress_shows_a_share_only_in_the_middle_of_a_step() -> None:
    asked = {"component": "web", "version": "2", "step": "download", "progress": 0.45}
    assert waiting.progress(asked) == "web 2: download (45%)"
    assert waiting.progress(asked | {"progress": 1.0, "step": "done"}) == "web 2: over"
