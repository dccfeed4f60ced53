"""The whole agent on a host in memory."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
from agentkit_fakes import FakeDaemon, FakeHost
from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.trial.unittest import SynchronousTestCase

import daemon.agentkit
from daemon.agentkit.agent import Agent
from daemon.agentkit.config import AgentConfig, LogConfig, build_config
from daemon.agentkit.views import ReloadView
from daemon.aio.threads import LaneTimeout
from daemon.errors import ConfigLoadError, StorageError

PATH = "/run/h.sock"


class InPlace:
    """Threads that run calls at once."""

    stuck = False

    def run(self, lane: str, deadline_s: float, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self.stuck:
            return fail(LaneTimeout(f"{lane}: no answer within {deadline_s:g} s"))
        return maybeDeferred(call, *args, **kwargs)


class Sink:
    """The log's settings, noted."""

    def __init__(self) -> None:
        self.applied: list[tuple[str, BinaryIO]] = []

    def apply(self, level: str, json: bool, stream: BinaryIO) -> None:
        self.applied.append((level, stream))


class AgentTests(SynchronousTestCase):
    """Start, page, reload, end."""

    def setUp(self) -> None:
        self.host = FakeHost()
        self.daemon = self.host.daemons[PATH] = FakeDaemon()
        self.threads = InPlace()
        self.sink = Sink()
        self.streams: list[io.BytesIO] = []
        self.file: AgentConfig | Exception = self.config()
        self.agent = Agent(
            self.host, lambda: 1000.0 + self.host.seconds(), self.config(), load=self.load,
            threads=self.threads, log_sink=self.sink, open_log=self.open_log, pid=7,
        )
        self.agent.start()
        self.host.settle()
        self.addCleanup(self.end)

    def config(self, **environ: str) -> AgentConfig:
        given = {"AGENT_ID": "a", "AGENT_HEARTBEAT_SOCKET_PATH": PATH, **environ}
        return build_config({}, given, base=Path("/"), cwd=Path("/"))

    def load(self) -> AgentConfig:
        if isinstance(self.file, Exception):
            raise self.file
        return self.file

    def open_log(self, config: LogConfig) -> BinaryIO:
        if config.file == "/bad":
            raise StorageError("log.file /bad: Permission denied")
        self.streams.append(io.BytesIO())
        return self.streams[-1]

    def end(self) -> None:
        done = Deferred.fromCoroutine(self.agent.stop())
        self.host.settle(1.2)
        self.successResultOf(done)
        self.assertEqual((self.host.listening, self.host.getDelayedCalls()), ({}, []))

    def reload(self) -> ReloadView:
        return self.successResultOf(self.agent.reload())

    def test_it_says_what_it_does(self) -> None:
        self.host.settle(40)
        health = self.agent.health()
        self.assertEqual((health.status, health.agent_id), ("healthy", "a"))
        self.assertEqual(health.last_heartbeat, "1970-01-01T00:17:10.000Z")
        metrics = self.agent.metrics()
        self.assertEqual((metrics.heartbeat_count, metrics.heartbeat_failures), (2, 0))
        self.assertEqual(metrics.status, "running")
        self.assertGreater(metrics.memory_bytes, 1_000_000)
        self.assertIn("hostagent_heartbeats_total 2\n", self.agent.metrics_text())

    def test_health_ends_ninety_seconds_after_the_daemon_and_returns_with_it(self) -> None:
        del self.host.daemons[PATH]
        self.daemon.hang_up()
        self.host.settle(89)
        self.assertTrue(self.agent.health().healthy)
        self.host.settle(2)
        self.assertFalse(self.agent.health().healthy)
        self.assertGreater(self.agent.metrics().heartbeat_failures, 3)
        self.host.daemons[PATH] = FakeDaemon()
        self.host.settle(31)
        self.assertTrue(self.agent.health().healthy)

    def test_stopping_is_said_while_the_page_is_still_there(self) -> None:
        order: list[str] = []
        line = self.daemon.connections[0]
        write = line.write

        def noting(data: bytes) -> None:
            order.append(f"stopping, {len(self.host.listening)} port")
            write(data)

        line.write = noting  # type: ignore[method-assign]  # the fake's own line, to see the moment
        self.end()
        self.assertEqual(order, ["stopping, 1 port"])
        self.assertEqual(self.daemon.messages[-1]["status"], "stopping")

    def test_a_reload_applies_everything(self) -> None:
        other = self.host.daemons["/other"] = FakeDaemon()
        self.file = self.config(
            AGENT_ID="b", AGENT_VERSION="9", AGENT_HEARTBEAT_SOCKET_PATH="/other", AGENT_HTTP_PORT="9000",
            AGENT_HEARTBEAT_INTERVAL="5s", AGENT_LOG_LEVEL="debug",
        )
        view = self.reload()
        self.assertTrue(view.success)
        self.assertEqual(view.reloaded_at, "1970-01-01T00:16:40.000Z")
        self.host.settle(5.1)
        self.assertEqual([(m["agent_id"], m["version"]) for m in other.messages], [("b", "9")] * 2)
        self.assertEqual(list(self.host.listening), [("127.0.0.1", 9000)])
        self.assertEqual(self.sink.applied[0][0], "debug")
        self.assertEqual(self.agent.health().agent_id, "b")

    def test_a_refused_reload_changes_nothing_and_says_why(self) -> None:
        self.assertTrue(self.reload().success)
        self.host.settle(1)
        self.host.taken.add(9000)
        before = msgspec.structs.asdict(self.agent.config)
        for bad, says in (
            (ConfigLoadError("agent.yaml: gone"), "D1001 agent.yaml: gone"),
            (self.config(AGENT_HEARTBEAT_URL="https://h/heartbeat", AGENT_HTTP_PORT="9001"), "restart"),
            (self.config(AGENT_HTTP_PORT="9000", AGENT_VERSION="9"), "D1003"),
            (self.config(AGENT_LOG_FILE="/bad", AGENT_HTTP_PORT="9001"), "D1004"),
        ):
            self.file = bad
            view = self.reload()
            self.assertFalse(view.success)
            self.assertIn(says, view.message)
            self.assertEqual(view.reloaded_at, "1970-01-01T00:16:40.000Z")
            self.assertEqual(msgspec.structs.asdict(self.agent.config), before)
            self.assertEqual(list(self.host.listening), [("127.0.0.1", 8081)])
        self.assertEqual(len(self.sink.applied), 1)
        self.assertTrue(all(stream.closed for stream in self.streams[1:]))

    def test_a_disk_that_hangs_fails_the_reload_only(self) -> None:
        self.threads.stuck = True
        view = self.reload()
        self.assertFalse(view.success)
        self.assertIn("no answer within 10 s", view.message)

    def test_a_bug_during_a_reload_is_logged_and_answered(self) -> None:
        self.file = ZeroDivisionError()
        view = self.reload()
        self.assertEqual((view.success, view.message), (False, "internal error, see the agent's log"))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_a_reload_during_the_end_is_refused(self) -> None:
        self.end()
        self.file = self.config(AGENT_HTTP_PORT="9000")
        self.assertIn("stopping", self.reload().message)
        self.assertEqual(self.host.listening, {})


class FacadeTests(SynchronousTestCase):
    """What ``daemon.agentkit`` promises in its docstring."""

    def test_every_public_name_is_there(self) -> None:
        for name in daemon.agentkit.__all__:
            self.assertIn(name, daemon.agentkit.__doc__ or "")
            self.assertEqual(getattr(daemon.agentkit, name).__name__, name)
        with self.assertRaises(AttributeError):
            daemon.agentkit.nothing  # noqa: B018 - the access is the test
