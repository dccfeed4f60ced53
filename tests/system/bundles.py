"""Installations of the daemon as a bundle makes them, in milliseconds: the packages of this checkout under
``versions/V/lib``, third-party ones from the environment the tests run in; and versions that are ill on purpose.

The plug-in of such a version answers a few calls of its ``DaemonTarget`` by files, see :data:`HOOK`.
"""

from __future__ import annotations

import hashlib
import http.client
import itertools
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from tests.system.harness import ROOT, Daemon, alive, wait_for

PROGRAM = """\
import sys
from pathlib import Path
sys.path[0] = str(Path(__file__).resolve().parents[1] / "lib")
from {module} import {function}
{function}()
"""
TWISTD = PROGRAM.format(module="twisted.scripts.twistd", function="run")
HOSTCTL = PROGRAM.format(module="daemon.cli.entry", function="main")
FOLLOWER = runpy.run_path(str(ROOT / "scripts" / "bundled.py"))["FOLLOWER"]  # ROOT/bin/hostctl

# Asks of the tests come as files ask-N.json {"call", "job", "args"}; the answer is answer-N.json.
HOOK = """\
import inspect, json, os, pathlib
import msgspec
from twisted.internet.defer import Deferred, maybeDeferred
from daemon.tap import Options, makeService as real
from daemon.updater.target import Job

FOLDER = pathlib.Path(os.environ["HOOK"])

def makeService(options):
    service = real(options)
    from twisted.internet import reactor
    def look():
        for ask in sorted(FOLDER.glob("ask-*.json")):
            what = json.loads(ask.read_bytes())
            answer = ask.with_name(ask.name.replace("ask", "answer"))
            ask.unlink()
            carry_out(service.daemon_target, what, answer)
        reactor.callLater(0.02, look)
    reactor.callWhenRunning(look)
    return service

def job(folder, files, **others):
    paths = {name: pathlib.Path(path) for name, path in files.items()}
    return Job(folder=pathlib.Path(folder), files=paths, **others)

def carry_out(target, what, answer):
    jobs = [job(**what["job"])] if what["job"] else []
    def say(**said):
        part = answer.with_suffix(".part")
        part.write_bytes(msgspec.json.encode(said, enc_hook=str))
        part.rename(answer)
    def call():
        result = getattr(target, what["call"])(*jobs, *what["args"])
        return Deferred.fromCoroutine(result) if inspect.iscoroutine(result) else result
    done = maybeDeferred(call)
    done.addCallbacks(lambda r: say(result=r), lambda f: say(error=f.getErrorMessage(), kind=type(f.value).__name__))
"""
PLUGIN = """\
from twisted.application.service import ServiceMaker
hostdaemon = ServiceMaker("hostdaemon", "hook_tap", "under test", "hostdaemon")
"""

# What makes a version ill: file of the package, a line in it, what stands there instead.
GOOD: tuple[tuple[str, str, str], ...] = ()
CRASHES_AT_IMPORT = (("daemon/tap.py", "import os\n", "import os, no_such_library\n"),)
CRASHES_AFTER_CHECK = (("daemon/app.py", "import os\n", "import os, no_such_library\n"),)
HANGS = (("daemon/tap.py", "    reactor: Any = global_reactor\n", "    time.sleep(1000)\n    reactor: Any = global_reactor\n"),)
HANGS_DEAF = (
    ("daemon/tap.py", "    reactor: Any = global_reactor\n",
     "    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n    time.sleep(1000)\n    reactor: Any = global_reactor\n"),
)
CANNOT_LOAD = (
    ("daemon/tap.py", "    if options[\"check\"]:\n", "    if not options[\"check\"]:\n        _refuse(['D1002 it dislikes the configuration'])\n    if options[\"check\"]:\n"),
)
REFUSES_CONFIG = (
    ("daemon/tap.py", "    if options[\"check\"]:\n", "    _refuse(['D1002 it dislikes the configuration'])\n    if options[\"check\"]:\n"),
)
LEAVES_SLOWLY = (
    ("daemon/app.py", "        await self.daemon_target.leaving()\n",
     "        await self.daemon_target.leaving()\n        slow = Deferred()\n"
     "        self._reactor.callLater(1.5, slow.callback, None)\n        await slow\n"),
)
_READY = "        self.daemon_target.ready()\n"
DIES_SOON = (("daemon/app.py", _READY, _READY + "        self._reactor.callLater(0.5, os._exit, 3)\n"),)
NEVER_READY = (("daemon/app.py", '"config": lambda: "",\n', '"config": lambda: "it never is",\n'),)
RESTARTS_AGENTS = (("daemon/agents/decide.py", "if observed.spec_hash != spec.spec_hash:", "if observed.alive:"),)
NEWER_SCHEMA = (
    ("daemon/agents/metadata.py", "SCHEMA = 1\n", "SCHEMA = 2\n"),
    ("daemon/agents/metadata.py", "    version_key: str = \"\"\n", "    version_key: str = \"\"\n    invented: tuple[int, ...] = (1,)\n"),
    ("daemon/app.py", _READY, _READY + "        for agent in self.parts.agents.registry.list():\n            self.parts.world.store.save_soon(__import__('msgspec').structs.replace(agent.metadata, schema=2))\n        self._reactor.callLater(0.7, os._exit, 3)\n"),
)


def build(into: Path, version: str, changes: tuple[tuple[str, str, str], ...] = GOOD) -> dict[str, tuple[str, int]]:
    """Makes a version's files; the SHA-256 and mode of each by name."""
    lib = into / "lib"
    shutil.copytree(ROOT / "daemon", lib / "daemon")
    plugins = lib / "twisted" / "plugins"
    plugins.mkdir(parents=True)
    (plugins / "hostdaemon_plugin.py").write_text(PLUGIN)
    (lib / "hook_tap.py").write_text(HOOK)
    (into / "bin").mkdir()
    (into / "bin" / "twistd").write_text(f"#!{sys.executable}\n{TWISTD}")
    (into / "bin" / "hostctl").write_text(f"#!{sys.executable}\n{HOSTCTL}")
    for name, old, new in (*changes, ("daemon/__init__.py", '__version__ = "0.1.0"', f'__version__ = "{version}"')):
        path = lib / name
        text = path.read_text()
        assert text.count(old) >= 1, f"{name} has no {old!r} any more"
        path.write_text(text.replace(old, new, 1))
    files = {}
    for path in sorted(into.rglob("*")):
        if path.is_file() and path.parent.name != "__pycache__":
            name = str(path.relative_to(into))
            mode = 0o755 if path.parent.name == "bin" else 0o644
            path.chmod(mode)
            files[name] = (hashlib.sha256(path.read_bytes()).hexdigest(), mode)
    return files


class Installed(Daemon):
    """A work_dir whose daemon is started from an installation at ``root/i``."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.at = root / "i"
        self.hook = root / "hook"
        self._asks = itertools.count()

    def install(self, version: str = "1.0.0", changes: tuple[tuple[str, str, str], ...] = GOOD) -> None:
        """The first version, as ``scripts/bundle install`` puts it there."""
        self.hook.mkdir()
        folder = self.at / "versions" / version
        folder.mkdir(parents=True)
        self.write_manifest(folder, build(folder, version, changes), version)
        (self.at / "current").symlink_to(f"versions/{version}")
        (self.at / "bin").mkdir()
        source = (ROOT / "daemon" / "updater" / "selfupdate" / "launcher.py").read_text().partition("\n")[2]
        (self.at / "bin" / "twistd").write_text(f"#!{sys.executable}\n{source}")
        (self.at / "bin" / "hostctl").write_text(f"#!{sys.executable}\n{FOLLOWER}")
        for program in (self.at / "bin").iterdir():
            program.chmod(0o755)

    @staticmethod
    def write_manifest(folder: Path, files: Mapping[str, tuple[str, int]], version: str) -> None:
        named = {name: {"sha256": sha256, "mode": f"{mode:04o}"} for name, (sha256, mode) in files.items()}
        manifest = {"component": "daemon", "version": version, "main": "bin/twistd", "files": named}
        (folder / "manifest.json").write_text(json.dumps(manifest))

    def package(self, update_id: str, version: str, changes: tuple[tuple[str, str, str], ...] = GOOD) -> dict[str, Any]:
        """An update's staging folder, unpacked and verified; the job."""
        folder = self.root / update_id
        unpacked = folder / "files"
        unpacked.mkdir(parents=True)
        files = build(unpacked, version, changes)
        return {
            "id": update_id, "version": version, "old_version": "", "folder": str(folder), "main": "bin/twistd",
            "files": {name: str(unpacked / name) for name in files},
            "sha256": {name: sha256 for name, (sha256, _mode) in files.items()},
            "modes": {name: mode for name, (_sha256, mode) in files.items()},
        }

    def spawn(self, *, fault: str = "", options: tuple[str, ...] = ("-n",), **environ: str) -> None:
        """Starts ``bin/twistd`` of the installation without waiting."""
        env = {**os.environ, "HOOK": str(self.hook)} | environ
        for name in ("HOSTDAEMON_FAULT", "PYTHONPATH"):
            env.pop(name, None)
        if fault:
            env["HOSTDAEMON_FAULT"] = fault
        self.started_at = time.monotonic()
        output = (self.root / "terminal").open("ab")
        self.process = subprocess.Popen(
            [str(self.at / "bin" / "twistd"), *options, "hostdaemon", "--config", str(self.config)],
            env=env, cwd=self.root, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
        )
        output.close()
        self.pid = self.process.pid

    def output(self) -> str:
        return (self.root / "terminal").read_text()

    def signal(self, number: int) -> None:
        """Signals whichever daemon runs and waits until it is gone."""
        os.kill(self.pid, number)
        if self.process is not None and self.process.pid == self.pid:
            self.process.wait(20)
            self.process = None
        wait_for("the daemon's end", lambda: not alive(self.pid))

    def ask(self, call: str, job: Mapping[str, Any] | None = None, *args: Any) -> Path:
        """Has the running daemon call its target; where the answer will be."""
        number = next(self._asks)
        part = self.hook / f"part-{number}"
        part.write_text(json.dumps({"call": call, "job": job, "args": args}))
        part.rename(self.hook / f"ask-{number}.json")
        return self.hook / f"answer-{number}.json"

    def answer(self, call: str, job: Mapping[str, Any] | None = None, *args: Any) -> Any:
        """Calls and waits for the result."""
        path = self.ask(call, job, *args)
        said = json.loads(wait_for(f"the answer to {call}", lambda: path.exists() and path.read_bytes()))
        assert "error" not in said, said
        return said["result"]

    def refused(self, call: str, job: Mapping[str, Any] | None = None, *args: Any) -> str:
        """Calls what must fail; the message."""
        path = self.ask(call, job, *args)
        said = json.loads(wait_for(f"the answer to {call}", lambda: path.exists() and path.read_bytes()))
        assert "error" in said, said
        return f"{said['kind']}: {said['error']}"

    def update(self, job: Mapping[str, Any]) -> None:
        """Everything up to the switch, which is under way afterwards."""
        self.answer("plan", job)
        self.answer("preflight", job)
        self.ask("apply", job)

    def record(self) -> dict[str, Any]:
        """The record of the last update; empty for none."""
        try:
            found: dict[str, Any] = json.loads((self.at / "probation.json").read_bytes())
        except FileNotFoundError:
            return {}
        return found

    def settled(self, patience_s: float = 25.0) -> dict[str, Any]:
        """Waits until the update is over: confirmed, or the old version is back and ready."""
        found: dict[str, Any] = wait_for(
            "the end of the update", lambda: self.record() if self.record().get("settled") else None, patience_s
        )
        return found

    def version(self) -> str:
        """What runs and answers; sets ``pid``."""
        node = self.get("/v1/node")
        self.pid = node["pid"]
        return str(node["daemon_version"])

    def current(self) -> str:
        return os.readlink(self.at / "current")

    def watchers(self) -> set[int]:
        """The live watchers of this installation."""
        found = set()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    line = (entry / "cmdline").read_bytes()
                except OSError:
                    continue
                if b"daemon.updater.selfupdate.watcher" in line and str(self.at).encode() in line and alive(int(entry.name)):
                    found.add(int(entry.name))
        return found

    def clean_up(self) -> None:
        for pid in self.watchers():
            os.kill(pid, signal.SIGKILL)
        super().clean_up()


class Endless:
    """Something that goes on in a thread for as long as a block lasts."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        self._thread.join(20)

    def _run(self) -> None:
        """Until ``_stop`` is set."""
        raise AssertionError(f"{type(self).__name__} does nothing")


class Traffic(Endless):
    """Requests without end, to the control socket and to a port; what was refused is asked again, as a client
    would."""

    def __init__(self, daemon: Daemon, port: int = 0) -> None:
        self.answered = self.answered_on_port = 0
        self._port = port
        self.odd: list[Any] = []
        self._daemon = daemon
        super().__init__()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                status, body = self._daemon.request("GET", "/v1/agents", timeout=5)
            except (OSError, ValueError):  # closed, or not there yet
                time.sleep(0.01)
                continue
            self.answered += status == 200
            if status not in (200, 503):
                self.odd.append((status, body))
            if self._port:
                self._ask_port()

    def _ask_port(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)
        try:
            connection.request("GET", "/livez")
            status = connection.getresponse().status
            self.answered_on_port += status == 200
            if status not in (200, 503):
                self.odd.append((status, "/livez"))
        except (OSError, http.client.HTTPException):  # closed, or not there yet
            return
        finally:
            connection.close()
