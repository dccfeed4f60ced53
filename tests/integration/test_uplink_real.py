"""The gRPC parts as the daemon makes them, in this process: what is served, what is told, how a reload changes it."""

from __future__ import annotations

import shutil
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from daemon.aio.logsink import LogSink, open_log_stream
from daemon.assembly import Parts, make_parts
from daemon.config.load import LoadedConfig, load
from daemon.control.control import Control, NodeSettings
from daemon.control.node import node_facts
from daemon.durable.workdir import WorkDir
from daemon.errors import ListenError
from daemon.rpc.pb import daemon_pb2, daemon_pb2_grpc
from daemon.updater.manager import UpdateManager
from daemon.uplink import Uplink
from tests.fakes.ports import free_port
from tests.fakes.rpc_manager import FakeManager, RealManager
from tests.fakes.updates import FakeTargets, UpdateRoom


def ask(address: str) -> list[str]:
    with grpc.insecure_channel(address) as channel:
        stub = daemon_pb2_grpc.DaemonServiceStub(channel)
        return [agent.id for agent in stub.ListAgents(daemon_pb2.ListAgentsRequest(), timeout=5).agents]


class UplinkCase(TestCase):
    timeout = 30

    def setUp(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="hd-up-"))
        self.addCleanup(shutil.rmtree, self.root)
        self.path = self.root / "daemon.yaml"

    def configured(self, daemon: str = "", manager: str = "") -> LoadedConfig:
        self.path.write_text(
            f"daemon: {{work_dir: {self.root}/w, http_port: 0, grpc_host: 127.0.0.1{daemon}}}\n"
            f"manager: {{{manager}}}\n"
        )
        return load(self.path)

    def made(self, loaded: LoadedConfig) -> Uplink:
        daemon = loaded.config.daemon
        paths = WorkDir(Path(daemon.work_dir))
        paths.make()
        facts = node_facts(paths.root, daemon.id)
        sink = LogSink("error", False, open_log_stream("", "daemon.log_file"))
        self.parts = parts = make_parts(loaded, reactor, sink, facts)
        self.control = Control(
            agents=parts.agents, world=parts.world, collectors=parts.collectors, bus=parts.bus, facts=facts,
            settings=NodeSettings(
                labels={}, work_dir=daemon.work_dir, heartbeat_socket=daemon.socket_path,
                control_socket=daemon.control_socket, manager_address=loaded.config.manager.address,
                started_at=time.time(),
            ),
            records=parts.records, config=parts.config, checks={},
            updates=UpdateManager(UpdateRoom(paths.state / "updates").tools, FakeTargets()),
        )
        uplink = Uplink(reactor, self.control, parts, facts, loaded.config)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.ended(uplink, parts)))
        return uplink

    async def ended(self, uplink: Uplink, parts: Parts) -> None:
        await uplink.stop()
        parts.commands.stop()
        parts.notifier.stop()
        self.assertEqual(await parts.threads.stop(5.0), ())
        if parts.journal is not None:
            parts.journal.close()

    async def until(self, check: Callable[[], Any]) -> None:
        for _ in range(500):
            if check():
                return
            await deferLater(reactor, 0.02)
        self.fail("it did not come")

    def families(self, uplink: Uplink) -> dict[str, float]:
        return {sample.name: sample.value for family in uplink.collect() for sample in family.samples}

    async def test_nothing_is_made_where_nothing_is_configured(self) -> None:
        uplink = self.made(self.configured())
        await uplink.open()
        uplink.start_link()
        uplink.state_changed("a")
        self.assertEqual((uplink.server, uplink.link, uplink.error, uplink.listening), (None, None, "", "off"))
        self.assertFalse(self.control.manager_state().connected)
        self.assertEqual(self.families(uplink), {})

    async def test_a_port_that_is_taken_is_named(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            uplink = self.made(self.configured(f", grpc_port: {port}"))
            self.assertEqual((uplink.error, uplink.listening), ("not listening yet", "off"))
            with self.assertRaises(ListenError) as refused:
                await uplink.open()
        self.assertIn(str(port), str(refused.exception))
        self.assertNotEqual(uplink.error, "")

    async def test_the_server_answers_and_counts(self) -> None:
        address = f"127.0.0.1:{free_port()}"
        uplink = self.made(self.configured(f", grpc_port: {address.rpartition(':')[2]}"))
        await uplink.open()
        self.assertEqual((uplink.error, uplink.listening), ("", f"{address} (plain text)"))
        self.assertEqual(await deferToThread(ask, address), [])
        # A call is counted when its end is known here, a moment after its answer.
        await self.until(lambda: self.families(uplink)["hostdaemon_grpc_calls_in_flight"] == 0)
        found = self.families(uplink)
        self.assertEqual(found["hostdaemon_grpc_calls_total"], 1)
        self.assertNotIn("hostdaemon_manager_connected", found)

    async def test_a_reload_brings_the_first_manager_and_then_another(self) -> None:
        uplink = self.made(self.configured())
        uplink.start_link()
        first, second = FakeManager(), FakeManager()
        for manager in (first, second):
            server = RealManager(manager)
            self.addCleanup(server.stop)
            timing = "reconnect_interval: 100ms, heartbeat_interval: 200ms"
            self.configured(manager=f"address: '127.0.0.1:{server.port}', {timing}")
            await self.parts.config.reload(reason="test")
            uplink.apply(self.parts.config.in_force)
            await self.until(lambda manager=manager: manager.registrations)
            await self.until(lambda: self.control.manager_state().connected)
            state = self.control.manager_state()
            self.assertEqual(state.address, f"127.0.0.1:{server.port}")
            self.assertIsNotNone(state.registered_at)
        uplink.state_changed("nobody")
        found = self.families(uplink)
        self.assertEqual(found["hostdaemon_manager_connected"], 1)
        self.assertEqual(found["hostdaemon_manager_reports_dropped_total"], 0)
        self.assertEqual(found["hostdaemon_manager_reports_refused_total"], 0)
        told = len(first.order)
        await uplink.stop()
        self.assertEqual(len(first.order), told)  # the one it left hears nothing any more
        self.assertEqual(len(first.registrations), 1)
