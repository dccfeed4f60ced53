"""All agents together: bursts, operations on all, reload, the directory, the registry, leaving."""

from __future__ import annotations

import os
import signal
import subprocess

from agents_lab import FAILED, LabCase

from daemon.agents.manager import agent_token
from daemon.config.schema import AgentType, RestartConfig
from daemon.errors import RequestError, RequestFault
from daemon.model.agent import AgentState
from daemon.procfs import marks
from tests.fakes.host import Child

TERM = frozenset({int(signal.SIGTERM)})


class Bursts(LabCase):
    def test_fifty_exits_at_once_are_spread_over_turns_and_all_followed(self) -> None:
        for n in range(50):
            self.lab.spec(f"a{n}")
        self.lab.boot()
        self.lab.run(2)
        leaders = [p for p in self.host.alive() if p.parent is self.life.launcher]
        self.assertEqual(len(leaders), 50)
        host_start = self.host.start
        turns: dict[int, int] = {}
        turn = 0

        def start(*args: object, **keys: object) -> object:
            self.lab.cpu_s += 0.003  # what a spawn costs
            turns[turn] = turns.get(turn, 0) + 1
            return host_start(*args, **keys)  # type: ignore[arg-type]

        self.host.start = start  # type: ignore[assignment,method-assign]
        call_later = self.life.clock.callLater

        def counted(delay: float, call: object, *args: object, **keys: object) -> object:
            def run() -> None:
                nonlocal turn
                if call == self.life.world.budget._next_turn:
                    turn += 1
                call(*args, **keys)  # type: ignore[operator]

            return call_later(delay, run)

        self.life.clock.callLater = counted  # type: ignore[assignment,method-assign]
        for leader in leaders:
            leader.die(FAILED)
        self.lab.settle()
        self.assertEqual(sum(turns.values()), 50)
        self.assertLessEqual(max(turns.values()), 4)  # 4 x 3 ms: the fourth ends beyond the budget
        self.lab.run(2)
        self.assertTrue(all(a.state is AgentState.RUNNING for a in self.life.manager.registry.list()))
        self.assertEqual(len(self.host.alive()), 50)

    def test_fifty_exits_share_their_sweeps(self) -> None:
        for n in range(50):
            self.lab.spec(f"a{n}")
        self.lab.boot()
        self.lab.run(2)
        self.life.threads.hang("sweep")
        before = self.life.threads.calls.count("sweep")
        for leader in self.host.alive():
            leader.die(FAILED)
        self.lab.settle()
        self.life.threads.release("sweep")
        self.lab.settle()
        self.assertLessEqual(self.life.threads.calls.count("sweep") - before, 3)
        self.assertEqual(self.host.zombies, [])


class OnAll(LabCase):
    def test_all_are_stopped_started_and_restarted_each_with_its_result(self) -> None:
        for name in ("one", "two"):
            self.lab.spec(name)
        self.lab.spec("off", enabled=False)
        self.lab.boot()
        self.lab.run(2)
        for verb, alive in (("stop_all", 0), ("start_all", 2), ("restart_all", 2)):
            operation = getattr(self.life.manager, verb)()
            self.lab.run(2)
            results = self.successResultOf(operation)
            self.assertEqual(set(results), {"one", "two"})
            self.assertTrue(all(r.success for r in results.values()))
            self.assertEqual(len(self.host.alive()), alive)

    def test_one_that_fails_fails_alone_and_says_why(self) -> None:
        self.lab.spec("good")
        self.lab.spec("bad", missing=True)
        self.lab.boot()
        self.lab.run(2)
        operation = self.life.manager.restart_all()
        self.lab.run(2)
        results = self.successResultOf(operation)
        self.assertTrue(results["good"].success)
        self.assertFalse(results["bad"].success)
        self.assertIn("D3001", results["bad"].error)

    def test_what_is_superseded_says_so(self) -> None:
        self.lab.spec(start_seconds=5.0)
        self.lab.boot()
        starting = self.life.manager.start_all()
        self.life.manager.stop_all()
        self.lab.run(1)
        self.assertIn("superseded", self.successResultOf(starting)["web"].error)

    def test_without_agents_there_are_no_results(self) -> None:
        self.lab.boot()
        self.assertEqual(self.successResultOf(self.life.manager.start_all()), {})

    def test_an_unknown_agent_is_a_fault_of_the_request(self) -> None:
        self.lab.boot()
        for verb in ("start", "stop", "restart"):
            with self.assertRaises(RequestError) as caught:
                getattr(self.life.manager, verb)("nobody")
            self.assertIs(caught.exception.fault, RequestFault.UNKNOWN)


class Reload(LabCase):
    def test_each_agent_follows_its_own_change(self) -> None:
        for name in ("same", "changed", "gone"):
            self.lab.spec(name)
        self.lab.boot()
        self.lab.run(2)
        same, changed, gone = (self.life.process(n) for n in ("same", "changed", "gone"))
        self.lab.spec("changed", args=("-x",))
        self.lab.spec("new")
        del self.lab.specs["gone"]
        self.life.manager.apply(self.lab.specs.values())
        self.lab.run(2)
        self.assertTrue(same.alive)
        self.assertFalse(changed.alive)
        self.assertFalse(gone.alive)
        self.assertEqual(sorted(a.agent_id for a in self.life.manager.registry.list()), ["changed", "new", "same"])
        self.assertEqual(len(self.host.alive()), 3)

    def test_an_agent_that_comes_back_after_it_left_begins_anew(self) -> None:
        self.running()
        token = self.life.agent().metadata.mark
        spec = self.lab.specs["web"]
        self.life.manager.apply([])
        self.lab.settle()
        self.life.manager.apply([spec])
        self.lab.run(2)
        self.assert_state(AgentState.RUNNING)
        self.assertEqual(self.life.agent().metadata.mark, token)
        self.assertEqual(self.life.saved().run, self.life.agent().metadata.run)


class Registry(LabCase):
    def test_an_id_is_taken_once(self) -> None:
        self.running()
        with self.assertRaises(RequestError):
            self.life.manager.registry.register(self.life.agent())

    def test_what_runs_cannot_be_unregistered(self) -> None:
        leader = self.running()
        with self.assertRaisesRegex(RequestError, f"pid {leader.pid}"):
            self.life.manager.registry.unregister("web")
        self.succeeded(self.life.manager.stop("web"))
        self.life.manager.registry.unregister("web")
        self.assertNotIn("web", self.life.manager.registry)
        with self.assertRaises(RequestError):
            self.life.manager.registry.get("web")

    def test_agents_are_listed_in_order_and_by_type(self) -> None:
        self.lab.spec("b", type=AgentType.TELEGRAF)
        self.lab.spec("a")
        self.lab.boot()
        registry = self.life.manager.registry
        self.assertEqual([a.agent_id for a in registry.list()], ["b", "a"])
        self.assertEqual([a.agent_id for a in registry.list_by_type("telegraf")], ["b"])
        self.assertEqual(len(registry), 2)
        self.assertIsNone(registry.find("c"))


class Directory(LabCase):
    """Who a real process belongs to: /proc decides."""

    def real(self, token: str, **keys: object) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(
            ["/bin/sleep", "60"], env={marks.MARK: token, marks.RUN: "r"}, start_new_session=True)
        self.addCleanup(child.wait)
        self.addCleanup(child.kill)
        return child

    def test_a_process_with_the_mark_belongs_to_its_agent(self) -> None:
        self.running()
        agent = self.life.agent()
        ours = self.real(agent.metadata.mark)
        theirs = self.real("0" * 32)
        self.assertIs(self.life.manager.owner_of(ours.pid), agent)
        self.assertTrue(agent.owns(ours.pid))
        self.assertIsNone(self.life.manager.owner_of(theirs.pid))
        self.assertFalse(agent.owns(theirs.pid))

    def test_a_process_in_the_leaders_session_belongs_to_its_agent_without_a_mark(self) -> None:
        self.running()
        agent = self.life.agent()
        leader = self.real("")
        self.host.next_pid = leader.pid  # the fake leader has the number of a real one
        self.life.manager.restart("web")
        self.lab.run(2)
        self.assertEqual(agent.pid, leader.pid)
        self.assertIs(self.life.manager.owner_of(leader.pid), agent)
        self.assertTrue(agent.owns(leader.pid))

    def test_nobody_owns_a_dead_a_strange_or_an_impossible_process(self) -> None:
        self.running()
        agent = self.life.agent()
        dead = self.real(agent.metadata.mark)
        dead.kill()
        os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)
        for pid in (dead.pid, 0, -1, os.getpid(), 2**31 - 1):
            self.assertIsNone(self.life.manager.owner_of(pid), pid)
            self.assertFalse(agent.owns(pid), pid)

    def test_a_token_is_made_of_the_secret_and_the_id_alone(self) -> None:
        self.assertEqual(agent_token(b"s", "a"), agent_token(b"s", "a"))
        self.assertEqual(len({agent_token(b"s", "a"), agent_token(b"t", "a"), agent_token(b"s", "b")}), 3)
        self.assertRegex(agent_token(b"s", "a"), r"\A[0-9a-f]{32}\Z")


class Leaving(LabCase):
    def test_agents_run_on_and_nothing_is_left_open(self) -> None:
        self.lab.program().children = (Child(),)
        leader = self.running()
        leaving = self.life.leave()
        self.lab.settle()
        self.successResultOf(leaving)
        self.assertEqual(leader.signals, [])
        self.assertEqual(len(self.host.alive()), 2)
        self.assertEqual(self.life.launcher.handles, [])
        self.assertEqual(self.life.clock.pending, 0)
        self.assertEqual(self.life.saved().identity, self.host.identity_of(leader))
        self.lab.next_daemon()
        self.assertEqual(self.life.agent().pid, leader.pid)

    def test_a_spawn_of_this_moment_is_saved_before_it_goes(self) -> None:
        self.lab.spec()
        self.lab.boot()
        leader = self.life.process()
        self.assertFalse(self.life.metadata_path().exists())
        self.successResultOf(self.life.leave())
        self.assertEqual(self.life.saved().identity, self.host.identity_of(leader))

    def test_a_stop_under_way_may_end(self) -> None:
        self.lab.program().stop_takes_s = 5.0
        leader = self.running()
        stopping = self.life.manager.stop("web")
        leaving = self.life.leave()
        self.lab.run(4)
        self.assertNoResult(leaving)
        self.lab.run(2)
        self.successResultOf(leaving)
        self.successResultOf(stopping)
        self.assertFalse(leader.alive)
        self.assertIsNone(self.life.saved().identity)

    def test_a_stop_that_takes_too_long_is_left_to_the_next_daemon(self) -> None:
        self.lab.program().ignores = TERM
        leader = self.running(stop_timeout=60.0)
        stopping = self.life.manager.stop("web")
        leaving = self.life.leave()
        self.lab.run(29)
        self.assertNoResult(leaving)
        self.lab.run(2)
        self.successResultOf(leaving)
        error = self.failureResultOf(stopping, RequestError).value
        self.assertIs(error.fault, RequestFault.STOPPING)
        self.assertTrue(leader.alive)
        self.assertEqual(self.life.launcher.handles, [])
        self.lab.next_daemon()
        self.lab.run(62)
        self.assertFalse(leader.alive)
        self.assert_state(AgentState.STOPPED)

    def test_an_exit_while_it_leaves_is_followed_by_the_next_daemon(self) -> None:
        self.lab.spec("slow")
        self.lab.program("slow").stop_takes_s = 5.0
        leader = self.running()
        self.life.manager.stop("slow")
        leaving = self.life.leave()
        leader.die(FAILED)
        self.lab.run(6)
        self.successResultOf(leaving)
        self.assertEqual(self.spawns(), 2)
        self.lab.next_daemon()
        self.lab.run(2)
        self.assert_state(AgentState.RUNNING)
        self.assert_state(AgentState.STOPPED, "slow")

    def test_whoever_waits_is_told(self) -> None:
        self.lab.spec(start_seconds=60.0)
        self.lab.boot()
        starting = self.life.manager.start("web")
        self.successResultOf(self.life.leave())
        error = self.failureResultOf(starting, RequestError).value
        self.assertIs(error.fault, RequestFault.STOPPING)

    def test_a_next_try_is_left_to_the_next_daemon(self) -> None:
        self.running(restart=RestartConfig(max_restarts_per_hour=0))
        for _ in range(2):
            self.life.process().die(FAILED)
            self.lab.settle()
        self.successResultOf(self.life.leave())
        self.lab.run(60)
        self.assertEqual(self.spawns(), 2)

    def test_the_service_leaves_when_it_is_stopped(self) -> None:
        leader = self.running()
        self.life.manager.startService()
        self.successResultOf(self.life.manager.stopService())
        self.assertTrue(leader.alive)
        self.assertEqual(self.life.launcher.handles, [])
