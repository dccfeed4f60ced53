"""Targets and an intake for updates that keep what they were told and do what they are told, in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from twisted.internet.defer import Deferred

from daemon.config.schema import UpdateConfig
from daemon.errors import RequestError, UpdateApplyError
from daemon.updater.intake import Contents, Signed
from daemon.updater.journal import UpdateJournal
from daemon.updater.known import KnownPackages
from daemon.updater.record import UpdateRecord
from daemon.updater.staging import Staging
from daemon.updater.target import Applied, Job, UpdateTarget
from daemon.updater.targets import Verdict
from daemon.updater.telling import Teller
from daemon.updater.update import Tools
from tests.fakes.directory import FakeEvents
from tests.fakes.supervised import FakeAlerts
from tests.fakes.threads import InlineThreads

HASH = "ab" * 32


class FakeTarget:
    """A version in a variable. Implements :class:`daemon.updater.target.UpdateTarget`.

    Attributes:
        version: what is in place.
        runs: what runs.
        did: the steps that were taken, in order.
        failing: step to the error it ends with.
        held: step to a Deferred it waits for.
        back: the version :meth:`previous` goes back to, empty for one nobody knows; None for nothing.
    """

    hands_over = False

    def __init__(self, name: str = "web", version: str = "1.0.0") -> None:
        self.name = name
        self.components = frozenset({name})
        self.version = self.runs = version
        self.did: list[str] = []
        self.failing: dict[str, Exception] = {}
        self.held: dict[str, Deferred[None]] = {}
        self.refused: RequestError | None = None
        self.back: str | None = None

    async def refusal(self) -> RequestError | None:
        """See UpdateTarget."""
        return self.refused

    async def _step(self, name: str) -> None:
        self.did.append(name)
        waiter = self.held.get(name)
        if waiter is not None:
            await waiter
        if name in self.failing:
            raise self.failing[name]

    async def installed(self) -> str:
        """See UpdateTarget."""
        return self.version

    def rooms(self) -> tuple[Path, ...]:
        """See UpdateTarget."""
        return (Path("/"),)

    async def plan(self, job: Job) -> Applied:
        """See UpdateTarget."""
        await self._step("plan")
        return Applied(target=f"/opt/{self.name}", old_sha256=self.version, ran=(self.name, "twin"))

    async def discard(self, job: Job) -> None:
        """See UpdateTarget."""
        await self._step("discard")

    async def preflight(self, job: Job) -> None:
        """See UpdateTarget."""
        await self._step("preflight")

    async def apply(self, job: Job) -> None:
        """See UpdateTarget."""
        self.version = self.runs = job.version
        await self._step("apply")

    async def verify(self, job: Job) -> Mapping[str, Any]:
        """See UpdateTarget."""
        await self._step("verify")
        return {"healthy_s": 30}

    async def roll_back(self, job: Job) -> Mapping[str, Any]:
        """See UpdateTarget."""
        await self._step("roll_back")
        assert job.applied is not None
        self.version = self.runs = job.applied.old_sha256
        await self._step("prove_old")
        return {"pid": 7}

    def leave(self) -> None:
        """See UpdateTarget."""
        waiter = self.held.get("prove_old")
        if waiter is not None:
            waiter.cancel()

    async def prune(self, job: Job, keep: int) -> None:
        """See UpdateTarget."""
        await self._step("prune")

    async def previous(self) -> Job | None:
        """See UpdateTarget."""
        if self.back is None:
            return None
        return Job(
            id="", version=self.back, old_version=self.version, folder=Path("/nowhere"),
            files={"main": Path("/nowhere/main")}, sha256={"main": "cd" * 32}, modes={"main": 0o755}, main="main",
        )


class FakeTargets:
    """Implements :class:`daemon.updater.manager.Targets`.

    Attributes:
        verdict: what became of an update of the daemon.
        asked: what :meth:`outcome` waits for.
    """

    def __init__(self, *agents: FakeTarget, daemon: FakeTarget | None = None) -> None:
        self.all = list(agents)
        self.own = daemon or FakeTarget("daemon")
        self.verdict = Verdict()
        self.asked: Deferred[None] | None = None
        self.lost: dict[str, FakeTarget] = {}

    def agents(self) -> list[str]:
        """See Targets."""
        return [target.name for target in self.all]

    def agent(self, agent_id: str) -> FakeTarget | None:
        """See Targets."""
        return next((target for target in self.all if target.name == agent_id), None)

    def gone(self, agent_id: str) -> FakeTarget:
        """See Targets; nobody is there to be proven."""
        target = self.lost.setdefault(agent_id, FakeTarget(agent_id))
        target.failing = {"verify": UpdateApplyError(f"agent {agent_id} has left the configuration")}
        return target

    def daemon(self) -> FakeTarget:
        """See Targets."""
        return self.own

    async def outcome(self, update_id: str) -> Verdict:
        """See Targets."""
        if self.asked is not None:
            await self.asked
        return self.verdict


class FakeIntake:
    """Brings one file of the version that was asked for. Implements :class:`daemon.updater.intake.Intake`.

    Attributes:
        did: the steps that were taken.
        failing: step to the error it ends with.
        held: step to a Deferred it waits for.
        progress: what the download tells, in order.
    """

    def __init__(self) -> None:
        self.did: list[str] = []
        self.failing: dict[str, Exception] = {}
        self.held: dict[str, Deferred[None]] = {}
        self.progress: tuple[float, ...] = ()

    def _plain(self, name: str) -> None:
        self.did.append(name)
        if name in self.failing:
            raise self.failing[name]

    async def _step(self, name: str) -> None:
        waiter = self.held.get(name)
        if waiter is not None:
            self.did.append(f"{name}...")
            await waiter
        self._plain(name)

    def source(self, record: UpdateRecord) -> None:
        """See Intake."""
        self._plain("source")

    async def space(self, record: UpdateRecord, folder: Path, target: UpdateTarget) -> None:
        """See Intake."""
        await self._step("space")

    async def download(
        self, record: UpdateRecord, folder: Path, target: UpdateTarget, progress: Callable[[float], None]
    ) -> None:
        """See Intake."""
        for each in self.progress:
            progress(each)
        await self._step("download")

    async def signature(
        self, record: UpdateRecord, folder: Path, progress: Callable[[float], None]
    ) -> Signed:
        """See Intake."""
        await self._step("signature")
        return Signed(sha256=record.hash, key="k1")

    def digest(self, record: UpdateRecord, signed: Signed) -> None:
        """See Intake."""
        self._plain("digest")

    async def manifest(
        self, record: UpdateRecord, folder: Path, target: UpdateTarget, progress: Callable[[float], None]
    ) -> Contents:
        """See Intake."""
        await self._step("manifest")
        return Contents(
            files=MappingProxyType({"thing": folder / "files" / "thing"}),
            sha256=MappingProxyType({"thing": HASH}), modes=MappingProxyType({"thing": 0o755}),
            main="thing",
        )


class UpdateRoom:
    """What updates work with, in a folder that goes with the test; a second room on it is the next daemon."""

    def __init__(
        self, folder: Path, intake: FakeIntake | None = None, wall: Callable[[], float] | None = None
    ) -> None:
        self.folder = folder
        self.downloads = folder / "downloads"
        self.threads = InlineThreads()
        self.events = FakeEvents()
        self.alerts = FakeAlerts()
        self.intake = intake or FakeIntake()
        self.config = UpdateConfig(
            public_key_file="/keys.pem", allowed_urls=("https://updates.example.org/",), max_backups=3
        )
        self.now = 1_800_000_000.0
        self.journal = UpdateJournal(folder / "state")
        self.known = KnownPackages(folder / "state" / "known.json", self.threads)
        self.tools = Tools(
            wall=wall or (lambda: self.now), threads=self.threads, journal=self.journal,
            staging=Staging(lambda: self.downloads), intake=lambda: self.intake, config=lambda: self.config,
            teller=Teller(self.events, self.alerts), known=self.known,
        )

    def on_disk(self) -> tuple[UpdateRecord, ...]:
        """The journal as another daemon would read it."""
        return UpdateJournal(self.folder / "state").load()

    def staged(self) -> list[str]:
        """What is left in the staging folder."""
        downloads = self.downloads
        return sorted(path.name for path in downloads.iterdir()) if downloads.is_dir() else []


