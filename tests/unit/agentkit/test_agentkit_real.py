"""Real sockets and the real program: hostagent as a process, daemons that come, go and do not read."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, ProcessProtocol, Protocol
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from daemon.agentkit.sender import HeartbeatSender, SenderSettings

ROOT = Path(__file__).parents[3]


class _Line(Protocol):
    factory: Any

    def connectionMade(self) -> None:
        self.factory.lines.append(self)
        if self.factory.mute:
            self.transport.pauseProducing()

    def dataReceived(self, data: bytes) -> None:
        self.factory.received += data
        self.factory.tell()

    def connectionLost(self, reason: Any = None) -> None:
        self.factory.lines.remove(self)
        self.factory.tell()


class Daemon(Factory):
    """A heartbeat socket made in the test."""

    noisy = False
    protocol = _Line

    def __init__(self, *, mute: bool = False) -> None:
        self.mute = mute
        self.received = b""
        self.lines: list[_Line] = []
        self.waiting: list[tuple[Any, Deferred[None]]] = []
        self.port: Any = None

    def listen(self, path: Path) -> None:
        self.port = reactor.listenUNIX(str(path), self)

    @property
    def statuses(self) -> list[str]:
        return [json.loads(line)["status"] for line in self.received.splitlines()]

    def tell(self) -> None:
        for condition, deferred in tuple(self.waiting):
            if condition():
                self.waiting.remove((condition, deferred))
                deferred.callback(None)

    def until(self, condition: Any) -> Deferred[None]:
        """Fires once the condition holds; looked at whenever something arrives or ends."""
        deferred: Deferred[None] = Deferred()
        self.waiting.append((condition, deferred))
        self.tell()
        return deferred

    async def close(self) -> None:
        """Stops as a killed daemon does: connections break, the socket stays in its directory or not."""
        await self.port.stopListening()
        for line in tuple(self.lines):
            line.transport.abortConnection()
        await self.until(lambda: not self.lines)


class _Program(ProcessProtocol):
    def __init__(self) -> None:
        self.out = self.err = b""
        self.ended: Deferred[int | None] = Deferred()
        self._waiting: list[tuple[bytes, Deferred[None]]] = []

    def says(self, text: bytes) -> Deferred[None]:
        """Fires once that is on its stderr."""
        waiter: Deferred[None] = Deferred()
        self._waiting.append((text, waiter))
        self._tell()
        return waiter

    def _tell(self) -> None:
        for text, waiter in tuple(self._waiting):
            if text in self.err:
                self._waiting.remove((text, waiter))
                waiter.callback(None)

    def outReceived(self, data: bytes) -> None:
        self.out += data

    def errReceived(self, data: bytes) -> None:
        self.err += data
        self._tell()

    def processEnded(self, reason: Any) -> None:
        self.ended.callback(reason.value.exitCode)


class RealTests(TestCase):
    """Everything here is real but the daemon."""

    timeout = 30

    def setUp(self) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="ak"))
        self.addCleanup(shutil.rmtree, self.dir)
        self.path = self.dir / "h.sock"
        self.config = self.dir / "agent.yaml"
        self.config.write_text("heartbeat: {interval: 100ms}\nhttp: {port: 0}\n")

    def run_program(self, *arguments: str, module: str = "daemon.agentkit", **environ: str) -> _Program:
        program = _Program()
        env = {
            "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOSTDAEMON_SOCKET": str(self.path),
            "HOSTDAEMON_AGENT_ID": "a", "PYTHONDONTWRITEBYTECODE": "1", **environ,
        }
        for name in ("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG", "COVERAGE_FILE"):
            if name in os.environ:
                env[name] = os.environ[name]
        process: Any = reactor.spawnProcess(
            program, sys.executable, [sys.executable, "-m", module, *arguments], env=env, path=str(self.dir)
        )

        def kill() -> Any:
            if not program.ended.called:
                with contextlib.suppress(Exception):
                    process.signalProcess("KILL")
            return program.ended

        self.addCleanup(kill)
        program.process = process  # type: ignore[attr-defined]  # for the tests that send signals
        return program

    async def ends(self, program: Any) -> int | None:
        """The exit code; the Deferred itself is left to the clean-up."""
        code: Deferred[int | None] = Deferred()
        program.ended.addCallback(lambda value: (code.callback(value), value)[1])
        return await code

    async def test_the_program_beats_at_once_and_says_stopping_when_it_is_ended(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            daemon = Daemon()
            daemon.listen(self.path)
            program: Any = self.run_program("-config", str(self.config), AGENT_HEARTBEAT_INTERVAL="1h")
            await daemon.until(lambda daemon=daemon: b"\n" in daemon.received)
            first = json.loads(daemon.received)
            self.assertEqual(first["pid"], program.process.pid)
            self.assertEqual((first["status"], first["agent_id"]), ("running", "a"))
            self.assertGreater(first["memory"], 10_000_000)
            began = time.monotonic()
            program.process.signalProcess(number)
            self.assertEqual(await self.ends(program), 0)
            self.assertLess(time.monotonic() - began, 3.0)
            await daemon.until(lambda daemon=daemon: not daemon.lines)
            self.assertEqual(daemon.statuses, ["running", "stopping"])
            self.assertNotIn(b"Traceback", program.err)
            await daemon.close()

    async def test_the_program_finds_a_daemon_that_was_gone(self) -> None:
        program: Any = self.run_program("--config", str(self.config))
        daemon = Daemon()
        daemon.listen(self.path)
        await daemon.until(lambda: daemon.statuses.count("running") > 2)
        await daemon.close()
        await deferLater(reactor, 0.3)
        successor = Daemon()
        successor.listen(self.path)
        await successor.until(lambda: len(successor.statuses) > 2)
        program.process.signalProcess("TERM")
        self.assertEqual(await self.ends(program), 0)
        await successor.until(lambda: not successor.lines)
        self.assertEqual(successor.statuses[-1], "stopping")
        await successor.close()

    async def test_a_hangup_signal_reads_the_file_anew(self) -> None:
        daemon = Daemon()
        daemon.listen(self.path)
        program: Any = self.run_program("--config", str(self.config))
        await daemon.until(lambda: b"1.0.0" in daemon.received)
        self.config.write_text('version: "7.7"\nheartbeat: {interval: 100ms}\nhttp: {port: 0}\n')
        program.process.signalProcess("HUP")
        await daemon.until(lambda: b"7.7" in daemon.received)
        self.config.write_text("rubbish: 1\n")
        program.process.signalProcess("HUP")
        while b"D1002" not in program.err:
            await deferLater(reactor, 0.02)
        program.process.signalProcess("TERM")
        self.assertEqual(await self.ends(program), 0)
        await daemon.close()

    async def test_the_page_of_the_program_answers(self) -> None:
        probe: Any = reactor.listenTCP(0, Factory(), interface="127.0.0.1")
        port = probe.getHost().port
        await probe.stopListening()
        program: Any = self.run_program(
            "--config", str(self.config), AGENT_HTTP_PORT=str(port), AGENT_LOG_FORMAT="text"
        )
        while b"the page is on" not in program.err:
            await deferLater(reactor, 0.02)
        url = f"http://127.0.0.1:{port}"

        def get(path: str, data: bytes | None = None) -> tuple[int, Any]:
            try:
                with urllib.request.urlopen(url + path, data=data, timeout=10) as answer:
                    return answer.status, json.load(answer)
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, json.load(error)

        code, health = await deferToThread(get, "/health")
        self.assertEqual((code, health["status"], health["last_heartbeat"]), (200, "healthy", None))
        code, metrics = await deferToThread(get, "/metrics")
        self.assertEqual((metrics["heartbeat_count"], metrics["agent_id"]), (0, "a"))
        self.assertGreater(metrics["heartbeat_failures"], 0)
        code, reload = await deferToThread(get, "/reload", b"{}")
        self.assertEqual((code, reload["success"]), (200, True))
        self.config.write_text("version: 1\n")
        code, reload = await deferToThread(get, "/reload", b"")
        self.assertEqual((code, reload["success"]), (500, False))
        self.assertIn("D1002", reload["message"])
        program.process.signalProcess("TERM")
        self.assertEqual(await self.ends(program), 0)

    async def test_a_taken_port_costs_the_page_and_no_heartbeat(self) -> None:
        taken: Any = reactor.listenTCP(0, Factory(), interface="127.0.0.1")
        daemon = Daemon()
        daemon.listen(self.path)
        port = str(taken.getHost().port)
        program: Any = self.run_program("--config", str(self.config), AGENT_HTTP_PORT=port)
        await daemon.until(lambda: len(daemon.statuses) > 3)
        while b"D1003" not in program.err:
            await deferLater(reactor, 0.02)
        self.assertEqual(program.err.count(b"D1003 cannot listen"), 2)  # one line: in message and field
        self.assertEqual(program.err.count(b'"level":"warn"'), 1)
        program.process.signalProcess("TERM")
        self.assertEqual(await self.ends(program), 0)
        await daemon.close()
        await taken.stopListening()

    async def test_usage_and_configuration_faults_end_with_two_and_one_and_one_line(self) -> None:
        program = self.run_program("--nonsense")
        self.assertEqual(await self.ends(program), 2)
        program = self.run_program("--config", str(self.dir / "gone.yaml"))
        self.assertEqual(await self.ends(program), 1)
        self.assertEqual(program.err.count(b"\n"), 1)
        self.assertTrue(program.err.startswith(b"hostagent: D1001 "), program.err)
        program = self.run_program("--config", str(self.config), AGENT_LOG_FILE=str(self.dir / "no" / "log"))
        self.assertEqual(await self.ends(program), 1)
        self.assertTrue(program.err.startswith(b"hostagent: D1004 "), program.err)
        self.assertEqual(program.err.count(b"\n"), 1)

    async def test_an_https_url_loads_tls_and_nothing_else_does(self) -> None:
        for scheme, want in (("https", b"True"), ("http", b"False")):
            url = f"{scheme}://127.0.0.1:1/heartbeat"
            code = (
                "import sys\n"
                "from daemon.agentkit import tap\n"
                "try:\n    tap.main(['--config', sys.argv[1]])\n"
                "finally:\n    print(sys.modules.get('OpenSSL') is not None)\n"
            )
            script = self.dir / "run.py"
            script.write_text(code)
            program: Any = self.run_program(
                str(self.config), module="run", AGENT_HEARTBEAT_URL=url, AGENT_HEARTBEAT_INTERVAL="30s"
            )
            await program.says(b"refused")
            program.process.signalProcess("TERM")
            self.assertEqual(await self.ends(program), 0, program.err)
            self.assertEqual(program.out.strip(), want)
            self.assertNotIn(b"Traceback", program.err)

    async def test_it_runs_under_twistd(self) -> None:
        daemon = Daemon()
        daemon.listen(self.path)
        (self.dir / "run.py").write_text("from twisted.scripts.twistd import run\nrun()\n")
        program: Any = self.run_program("-n", "hostagent", "--config", str(self.config), module="run")
        await daemon.until(lambda: len(daemon.statuses) > 1)
        self.assertFalse((self.dir / "twistd.pid").exists())
        program.process.signalProcess("TERM")
        await self.ends(program)  # twistd ends by the signal it got
        await daemon.until(lambda: not daemon.lines)
        self.assertEqual(daemon.statuses[-1], "stopping")
        lines = [json.loads(line) for line in (program.out + program.err).splitlines()]
        said = [line["message"] for line in lines]
        self.assertIn(f"the first heartbeat got through to {self.path}", said)
        await daemon.close()
        program = self.run_program("-n", "hostagent", "--config", "/gone.yaml", module="run")
        self.assertEqual(await self.ends(program), 1)
        self.assertIn(b"hostagent: D1001 /gone.yaml", program.err)

    async def test_a_daemon_that_never_reads_does_not_make_the_memory_of_the_sender_grow(self) -> None:
        daemon = Daemon(mute=True)
        daemon.listen(self.path)
        settings = SenderSettings(socket_path=str(self.path), interval_s=0.001, agent_id="a")
        sender = HeartbeatSender(reactor, time.time, settings)
        sender.start()
        while sender.stats.skipped_total < 300:
            await deferLater(reactor, 0.05)
        transport: Any = sender._channel._line.transport
        waiting = len(transport.dataBuffer) - transport.offset + transport._tempDataLen
        self.assertLess(waiting, 400)
        self.assertLess(sender.stats.delivered_total, 2000)
        began = time.monotonic()
        await sender.stop()
        self.assertLess(time.monotonic() - began, 1.5)
        for line in daemon.lines:
            line.transport.resumeProducing()
        await daemon.until(lambda: not daemon.lines)
        self.assertGreaterEqual(len(daemon.statuses), sender.stats.delivered_total)
        await daemon.close()
