"""Properties of reload: all or nothing, nothing left to change afterwards, one more reload for all that wait."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from daemon.config.diff import diff
from daemon.config.in_force import planned
from daemon.config.load import load
from daemon.config.schema import Config
from daemon.control.config_manager import LANE, ConfigManager, Step
from daemon.errors import DaemonError
from tests.fakes.directory import FakeEvents
from tests.fakes.supervised import FakeAlerts
from tests.fakes.threads import InlineThreads

hypothesis = pytest.importorskip("hypothesis")
st = pytest.importorskip("hypothesis.strategies")
given = hypothesis.given

FAST = hypothesis.settings(
    derandomize=True, deadline=None, max_examples=60, database=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
KEYS = st.sampled_from([
    "", ", name: x", ", args: [y]", ", args: ['{work_dir}']", ", enabled: false", ", env: {A: b}",
    ", health_check: {interval: 7s}", ", health_check: {http_endpoint: 'https://x/'}", ", work_dir: /own",
])
GOOD = st.builds(
    lambda port, work, webhook, agents: (
        f"daemon: {{work_dir: /{work}, http_port: {port}}}\nresources: {{webhook: '{webhook}'}}\nagents:\n"
        + "".join(f"- {{id: {n}, type: custom, binary_path: /bin/true{more}}}\n" for n, more in agents.items())
    ),
    st.sampled_from([0, 1, 2]), st.sampled_from(["w", "v"]), st.sampled_from(["", "http://h/", "https://h/"]),
    st.dictionaries(st.sampled_from("abcd"), KEYS, max_size=4),
)
BAD = st.sampled_from(["", "agents: [", "agents: [{id: a}]", "nonsense: 1", "daemon: {http_port: -1}", "\0", "- 1"])


def written(path: Path, text: str) -> Config:
    path.write_text(text)
    return load(path).config


@FAST
@given(GOOD, GOOD, GOOD)
def test_after_a_reload_only_what_waits_for_the_daemon_is_left(
    tmp_path: Path, first: str, second: str, third: str
) -> None:
    path = tmp_path / "c.yaml"
    old, new, last = (written(path, text) for text in (first, second, third))
    done = planned(old, new)
    left = planned(done.config, new)
    assert all(change.effect.value == "restart_daemon" for change in left.changes)
    assert left.config == done.config
    assert done.config.daemon.http_port == old.daemon.http_port
    assert done.config.daemon.work_dir == old.daemon.work_dir
    assert {agent.id for agent in done.config.agents} == {agent.id for agent in new.agents}
    # By a detour or straight: what is in force is the same, but for what the detour took away for good.
    assert planned(done.config, last).config.daemon == planned(old, last).config.daemon
    # Nothing waits when the old file comes back, unless TLS was taken away by then.
    back = planned(done.config, old)
    if not any("https" in text for text in (first, second)):
        assert diff(back.config, old) == ()
        assert not [change for change in back.changes if change.effect.value == "restart_daemon"]


@FAST
@given(st.lists(st.one_of(GOOD, BAD), min_size=1, max_size=6))
def test_a_reload_is_all_or_nothing(tmp_path: Path, texts: list[str]) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("daemon: {work_dir: /w}\nagents: []\n")
    alerts = FakeAlerts()
    manager = ConfigManager(
        load(path), load, InlineThreads(Clock()), lambda: 1.0, FakeEvents(), alerts, tmp_path / "keep"
    )
    taken: list[Config] = []
    manager.applied_by([Step(name="all", apply=lambda _old, new: taken.append(new))])
    for text in texts:
        path.write_text(text)
        before, told, good = manager.in_force, len(taken), manager.state().digest
        outcome: list[Any] = []
        manager.reload().addBoth(outcome.append)
        state = manager.state()
        try:
            load(path)
        except DaemonError:
            assert outcome[0].check(DaemonError)
            assert manager.in_force is before
            assert len(taken) == told
            assert (state.ok, state.digest) == (False, good)
            assert list(alerts.standing) == [("", "config_reload")]
        else:
            assert state.ok
            assert alerts.standing == {}
            assert taken[told:] == ([manager.in_force] if manager.in_force != before else [])
            assert not (tmp_path / "keep").exists() or (tmp_path / "keep").read_text() == text


@FAST
@given(st.lists(st.sampled_from(["ask", "ask", "dry", "leave", "read", "apply"]), max_size=30))
def test_whoever_asks_is_answered_by_a_file_read_after_the_question(tmp_path: Path, moves: list[str]) -> None:
    path = tmp_path / "c.yaml"
    head = "daemon: {work_dir: /w}\nagents: [{id: a, type: custom, binary_path: /bin/true, name: "
    path.write_text(f"{head}v-1}}]\n")
    threads = InlineThreads(Clock())
    manager = ConfigManager(load(path), load, threads, lambda: 1.0, FakeEvents(), FakeAlerts(), tmp_path / "keep")
    gates: list[Deferred[None]] = []
    under_way = 0

    def slow(_old: Config, _new: Config) -> Deferred[None]:
        nonlocal under_way
        under_way += 1
        assert under_way == 1, "two reloads at once"
        gates.append(Deferred())
        return gates[-1]

    def done() -> None:
        nonlocal under_way
        under_way -= 1
        gates.pop(0).callback(None)

    manager.applied_by([Step(name="slow", apply=slow)])
    asked: list[tuple[int, Deferred[Any]]] = []
    answers: dict[int, int] = {}

    def answered(number: int) -> None:
        answers[number] = int(manager.in_force.agents[0].name[1:])

    for number, move in enumerate(moves):
        if move == "ask":
            path.write_text(f"{head}v{number}}}]\n")
            threads.hang(LANE)
            answer = manager.reload()
            asked.append((number, answer))
            answer.addCallbacks(lambda _result, n=number: answered(n), lambda _failure: None)
        elif move == "dry":
            manager.reload(dry_run=True).addErrback(lambda _failure: None)
        elif move == "leave" and asked:
            asked[-1][1].cancel()
        elif move == "read":
            threads.release(LANE)
        elif move == "apply" and gates:
            done()
    for _ in range(len(moves) + 1):
        threads.release(LANE)
        while gates:
            done()
    assert all(answer.called for _number, answer in asked)
    assert all(version >= number for number, version in answers.items())
    assert manager.state().reloads_total <= len(asked)
