"""An agent of the laboratory as the target of updates: what its binary does depends on the binary's content."""

from __future__ import annotations

import hashlib
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from daemon import faults
from daemon.aio.process import Command
from daemon.config.schema import UpdateConfig
from daemon.errors import DaemonError
from daemon.model.agent import AgentState
from daemon.updater.agent.claims import Claims
from daemon.updater.agent.target import AgentTarget
from daemon.updater.target import Applied, Job
from tests.fakes.host import FakeProcess, Program
from tests.fakes.lab import Lab, Life

OLD, NEW = b"#!old 1.0.0\n", b"#!new 1.1.0\n"
PERIOD_S, TIMEOUT_S = 30.0, 120.0


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class TargetCase(SynchronousTestCase):
    """A laboratory whose agent ``web`` runs version 1.0.0.

    Attributes:
        does: what a binary does, by its content.
    """

    def setUp(self) -> None:
        self.lab = Lab()
        self.addCleanup(self.lab.close)
        self.addCleanup(faults.arm, {})
        self.does: dict[bytes, Program] = {}
        self.lab.host.program_of = self.program_of
        self.binary = self.lab.binary("web")
        self.binary.write_bytes(OLD)
        self.max_backups = 5
        self.claims = Claims()

    def program_of(self, command: Command) -> Program:
        return self.does.setdefault(Path(command.argv[0]).read_bytes(), Program())

    @property
    def life(self) -> Life:
        return self.lab.life

    @property
    def backups(self) -> Path:
        return self.lab.root / "backups"

    def config(self) -> UpdateConfig:
        return UpdateConfig(
            backup_dir=str(self.backups), download_dir=str(self.lab.root / "downloads"),
            verify_period=PERIOD_S, verify_timeout=TIMEOUT_S, max_backups=self.max_backups,
        )

    def target(self, agent_id: str = "web") -> AgentTarget:
        return AgentTarget(
            agent_id, self.life.manager, config=self.config, clock=self.life.clock, wall=self.lab.wall,
            threads=self.life.threads, claims=self.claims,
        )

    def running(self, *agent_ids: str, **keys: Any) -> FakeProcess:
        """The agents run."""
        for agent_id in agent_ids or ("web",):
            self.lab.spec(agent_id, **keys)
        self.lab.boot()
        self.lab.run(2)
        self.assertIs(self.life.agent().state, AgentState.RUNNING)
        return self.life.process()

    def job(self, data: bytes = NEW, version: str = "1.1.0", *, id: str = "u1", **files: bytes) -> Job:
        """An update to a verified package with that program and other files."""
        folder = self.lab.root / "downloads" / id
        (folder / "files").mkdir(parents=True, exist_ok=True)
        contents = {"thing": data, **{name.replace("__", "/"): content for name, content in files.items()}}
        paths = {}
        for n, (name, content) in enumerate(contents.items()):
            paths[name] = folder / "files" / str(n)
            paths[name].write_bytes(content)
        return Job(
            id=id, version=version, old_version="1.0.0", folder=folder, files=paths,
            sha256={name: sha256(content) for name, content in contents.items()},
            modes={name: 0o755 if name == "thing" else 0o640 for name in contents}, main="thing",
        )

    def defer(self, work: Coroutine[Any, Any, Any]) -> Deferred[Any]:
        """A step, begun."""
        return Deferred.fromCoroutine(work)

    def do(self, work: Coroutine[Any, Any, Any], seconds: float = 0.0) -> Any:
        """The result of a step that is over after so many seconds."""
        done = Deferred.fromCoroutine(work)
        self.lab.run(seconds)
        return self.successResultOf(done)

    def fails(self, work: Coroutine[Any, Any, Any], kind: type[DaemonError], seconds: float = 0.0) -> Any:
        """The error of a step that has failed after so many seconds."""
        done = Deferred.fromCoroutine(work)
        self.lab.run(seconds)
        return self.failureResultOf(done, kind).value

    def planned(self, job: Job, target: AgentTarget | None = None) -> Job:
        """As its journal has it: what was planned goes through JSON."""
        applied = self.do((target or self.target()).plan(job))
        copy = msgspec.json.decode(msgspec.json.encode(applied), type=Applied)
        return Job(**{name: getattr(job, name) for name in Job.__slots__} | {"applied": copy})

    def updated(self, target: AgentTarget, job: Job) -> Job:
        """All steps to the end, well."""
        job = self.planned(job, target)
        self.do(target.preflight(job))
        self.do(target.apply(job))
        self.do(target.verify(job), PERIOD_S + 5)
        self.do(target.prune(job, self.max_backups))
        return job

    def nothing_is_left(self) -> None:
        """Neither beside the binary nor half written among the backups."""
        beside = [entry.name for entry in self.binary.parent.iterdir() if "hostdaemon" in entry.name]
        self.assertEqual(beside, [])
        if self.backups.exists():
            self.assertEqual([e.name for e in self.backups.iterdir() if e.name.endswith(".tmp")], [])
