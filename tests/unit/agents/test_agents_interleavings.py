"""Whatever operators, exits, reloads, disks and daemons do in whatever order: one agent, one leader."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest
from agents_lab import LabCase
from twisted.internet.defer import Deferred

from daemon import faults
from daemon.agents.states import may_follow
from daemon.aio.threads import LaneBusy, LaneTimeout
from daemon.config.schema import RestartConfig
from daemon.model.agent import AgentState, ExitStatus, Wanted
from tests.fakes.host import Child, FakeProcess
from tests.fakes.lab import Lab, Life

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies

RESTART = RestartConfig(max_retries=3, slow_retry=40.0, max_restarts_per_hour=0)
TERM = frozenset({int(signal.SIGTERM)})

ACTIONS = st.one_of(
    st.tuples(st.just("start")),
    st.tuples(st.just("stop"), st.booleans()),
    st.tuples(st.just("restart"), st.booleans()),
    st.tuples(st.just("exit"), st.sampled_from([0, 1, 9])),
    st.tuples(st.just("wait"), st.sampled_from([0.0, 0.05, 0.5, 3.0, 12.0, 45.0])),
    st.tuples(st.just("crash")),
    st.tuples(st.just("leave")),
    st.tuples(st.just("disk"), st.sampled_from(["", "enospc", "eio"])),
    st.tuples(st.just("hang"), st.sampled_from(["sweep", "metadata", "log-tail"])),
    st.tuples(st.just("release"), st.sampled_from(["sweep", "metadata", "log-tail"])),
    st.tuples(st.just("reload"), st.sampled_from(["a", "b"])),
    st.tuples(st.just("enable"), st.booleans()),
    st.tuples(st.just("remove")),
    st.tuples(st.just("fork"), st.booleans(), st.booleans()),
    st.tuples(st.just("stubborn"), st.booleans()),
    st.tuples(st.just("broken"), st.booleans()),
    st.tuples(st.just("corrupt")),
    st.tuples(st.just("hold")),
    st.tuples(st.just("unhold")),
)


class World:
    """A laboratory under random orders."""

    def __init__(self, case: LabCase) -> None:
        self.case = case
        self.lab = Lab()
        self.lives: list[Life] = []
        self.asked: list[tuple[Life, Deferred[Any]]] = []
        self.corrupted = False
        self.held: Any = None  # the agent that is down because it is held
        self.spawned_before = 0
        self.configure()
        self.born(self.lab.boot())

    def configure(self, **keys: object) -> None:
        self.lab.spec(restart=RESTART, stop_timeout=2.0, **keys)

    def born(self, life: Life) -> None:
        self.lives.append(life)

    @property
    def leaders(self) -> list[FakeProcess]:
        """Every live process a daemon ever spawned."""
        return [p for life in self.lives for p in life.launcher.spawned if p.alive]

    # ---------------------------------------------------------------- actions

    def start(self) -> None:
        self.ask(lambda m: m.start("web"))

    def stop(self, graceful: bool) -> None:
        self.ask(lambda m: m.stop("web", graceful=graceful))

    def restart(self, graceful: bool) -> None:
        self.ask(lambda m: m.restart("web", graceful=graceful))

    def ask(self, verb: Callable[[Any], Deferred[Any]]) -> None:
        if self.lab.life.manager.find("web") is not None:
            asked = verb(self.lab.life.manager)
            asked.addErrback(lambda _refused: None)
            self.asked.append((self.lab.life, asked))

    def exit(self, code: int) -> None:
        for leader in self.leaders:
            leader.die(ExitStatus(signal=9) if code == 9 else ExitStatus(code=code))

    def wait(self, seconds: float) -> None:
        self.lab.run(seconds, step=max(0.25, seconds / 20))

    def crash(self) -> None:
        self.held = None
        self.lab.crash()
        self.born(self.lab.boot())

    def leave(self) -> None:
        self.held = None
        self.lab.life.leave()
        self.lab.run(31, step=1.0)
        self.crash()

    def disk(self, kind: str) -> None:
        faults.arm({faults.VARIABLE: f"metadata.save:1:{kind}"} if kind else {})

    def hang(self, lane: str) -> None:
        self.lab.life.threads.hang(lane)

    def release(self, lane: str) -> None:
        self.lab.life.threads.release(lane)

    def reload(self, word: str) -> None:
        self.configure(args=(word,))
        self.apply()

    def enable(self, enabled: bool) -> None:
        self.configure(enabled=enabled)
        self.apply()

    def remove(self) -> None:
        self.lab.specs.clear()
        self.apply()
        self.configure()

    def apply(self) -> None:
        self.lab.life.manager.apply(self.lab.specs.values())

    def fork(self, setsid: bool, stubborn: bool) -> None:
        for leader in self.leaders:
            self.lab.host.fork(leader, Child(setsid=setsid, ignores=TERM if stubborn else frozenset()))

    def stubborn(self, yes: bool) -> None:
        self.lab.program().ignores = TERM if yes else frozenset()

    def broken(self, yes: bool) -> None:
        self.lab.program().lives_s = 0.3 if yes else float("inf")

    def corrupt(self) -> None:
        path = self.lab.life.metadata_path()
        if path.exists():
            path.write_bytes(b"{")
            self.corrupted = True

    def hold(self) -> None:
        agent = self.lab.life.manager.find("web")
        if agent is not None:
            self.held = None
            holding = agent.hold("being updated")
            holding.addCallback(self.is_held, agent)
            holding.addErrback(lambda _failed: None)

    def is_held(self, _down: None, agent: Any) -> None:
        assert agent.pid == 0
        assert agent.book.state in (AgentState.RESTARTING, AgentState.STOPPED)
        self.held, self.spawned_before = agent, len(self.lab.life.launcher.spawned)

    def unhold(self) -> None:
        agent = self.lab.life.manager.find("web")
        self.held = None
        if agent is not None:
            agent.release()

    # ------------------------------------------------------------- judgements

    def check(self) -> None:
        assert len(self.leaders) <= 1, [p.pid for p in self.leaders]
        for life in self.lives:
            assert all(may_follow(c.old, c.new) for c in life.changes)
        assert self.lab.host.untouched()
        if self.held is not None and self.lab.life.manager.find("web") is self.held:
            assert self.held.pid == 0 and len(self.lab.life.launcher.spawned) == self.spawned_before
        logged = self.case.flushLoggedErrors()
        assert all(f.check(LaneTimeout, LaneBusy) for f in logged), logged  # a sweep that hung

    def leave_alone(self) -> None:
        """No more disturbances; a healthy binary."""
        self.disk("")
        for lane in ("sweep", "metadata", "log-tail"):
            self.lab.life.threads.release(lane)
        self.broken(False)
        self.unhold()
        self.configure()
        self.apply()
        self.lab.run(150, step=1.0)
        self.check()
        agent = self.lab.life.agent()
        wanted = agent.metadata.wanted is Wanted.RUNNING
        assert (agent.pid != 0) is wanted, (agent.state, agent.book.reason, agent.decision)
        assert agent.state is (AgentState.RUNNING if wanted else AgentState.STOPPED)
        assert self.lab.host.zombies == []
        for life, asked in self.asked:
            assert asked.called or life is not self.lab.life
        self.stop(True)
        self.lab.run(20, step=1.0)
        mine = [p for p in self.lab.host.alive() if p not in self.lab.host.bystanders]
        assert mine == [], [(p.pid, p.environ) for p in mine]
        assert self.lab.life.launcher.handles == []
        self.check()

    def close(self) -> None:
        faults.arm({})
        self.lab.close()


class Interleavings(LabCase):
    def test_there_is_never_a_second_leader_and_rest_is_what_is_wanted(self) -> None:
        @hypothesis.settings(max_examples=200, deadline=None, derandomize=True, database=None)
        @hypothesis.given(st.lists(ACTIONS, min_size=6, max_size=24))
        def property(actions: list[tuple[Any, ...]]) -> None:
            world = World(self)
            try:
                world.lab.host.stranger()
                world.wait(2.0)
                for name, *args in actions:
                    getattr(world, name)(*args)
                    world.check()
                world.leave_alone()
            finally:
                world.close()

        property()
