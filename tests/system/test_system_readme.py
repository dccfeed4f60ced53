"""The README's walk, as a newcomer types it: its own commands, run by a shell in a copy of the checkout."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.system.harness import ROOT, alive, wait_for

STEP_S = 60.0  # patience; each step is meant to take seconds
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXPORTER = "#!/bin/sh\n[ \"$1\" != --version ] || { echo 'node_exporter, version 1.5.0 (branch: x)'; exit; }\nexec sleep 100000\n"


def commands(step: str) -> str:
    """The block of the README with this word behind ``sh``."""
    (found,) = re.findall(rf"^```sh {step}\n(.*?)^```$", README, re.M | re.S)
    return str(found)


class Checkout:
    """A copy of what the walk needs, on a port of its own, with a stand-in for Debian's node_exporter."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("scripts", "configs", "daemon", "twisted"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("setup.py", "pyproject.toml", "tap.cfg"):
            shutil.copy(ROOT / name, folder / name)
        # The environment that runs this test is the one that scripts/test made.
        (folder / ".venv").symlink_to(Path(sys.executable).parents[1])
        config = folder / "configs" / "daemon.dev.yaml"
        text = config.read_text()
        self.ports: dict[str, str] = {}
        for port in ("8084", "8081", "8082"):
            assert port in text
            with socket.create_server(("127.0.0.1", 0)) as probe:
                self.ports[port] = str(probe.getsockname()[1])
            text = text.replace(port, self.ports[port])
        self.port = int(self.ports["8084"])
        # A socket's path must stay short, and pytest's directories are not.
        self.short = Path("/tmp") / f"hd-readme-{os.getpid()}"
        config.write_text(text.replace("../var", str(self.short)))
        exporter = folder / "bin" / "prometheus-node-exporter"
        exporter.parent.mkdir()
        exporter.write_text(EXPORTER)
        exporter.chmod(0o755)
        self.env = {**os.environ, "PYTHONPATH": str(folder), "PATH": f"{exporter.parent}:/usr/bin:/bin"}

    def type(self, text: str) -> str:
        """What a shell says that runs these lines; what they leave in the background runs on."""
        for port, ours in self.ports.items():
            text = text.replace(f"localhost:{port}", f"localhost:{ours}")
        said = self.folder / "said"
        with said.open("wb") as file:
            done = subprocess.run(
                ["bash", "-c", text], cwd=self.folder, env=self.env, stdin=subprocess.DEVNULL, stdout=file,
                stderr=subprocess.STDOUT, timeout=STEP_S,
            )
        found = said.read_text()
        assert "Traceback" not in found and "command not found" not in found, found
        assert done.returncode == 0, found
        return found

    def hostctl(self, *arguments: str) -> Any:
        done = subprocess.run(
            [".venv/bin/hostctl", "-o", "json", *arguments], cwd=self.folder, env=self.env, capture_output=True, timeout=STEP_S,
        )
        return json.loads(done.stdout) if done.returncode in (0, 3) else None

    def get(self, path: str, port: int | None = None) -> Any:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port or self.port}{path}", timeout=5) as answer:
                return json.load(answer)
        except OSError:
            return None

    def pids(self, *options: str) -> dict[str, int]:
        found = self.hostctl(*options, "status")
        agents = found["agents"] if found else []
        return {a["id"]: a["pid"] for a in agents} if all(a["status"] == "running" for a in agents) else {}


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Checkout]:
    """The copy; whatever ran in it is ended afterwards."""
    made = Checkout(tmp_path)
    yield made
    marks = (f"HOSTDAEMON_SOCKET={made.short}/", f"PYTHONPATH={tmp_path}\0")
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                environ = (entry / "environ").read_bytes()
            except OSError:
                continue
            if any(mark.encode() in environ for mark in marks) or f"={tmp_path}/".encode() in environ:
                os.kill(int(entry.name), signal.SIGKILL)
    shutil.rmtree(made.short, ignore_errors=True)


def test_the_first_command_is_ready_with_both_agents_and_leaves_them_running(checkout: Checkout) -> None:
    run = subprocess.Popen(
        ["./scripts/run"], cwd=checkout.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=checkout.env
    )
    try:
        wait_for("readyz", lambda: checkout.get("/readyz"))

        def both() -> list[dict[str, Any]]:
            agents = checkout.get("/v1/agents")["agents"]
            well = [a for a in agents if a["status"] == "running" and a["last_heartbeat"]]
            return well if len(well) == len(agents) == 2 else []

        agents = wait_for("both agents running with heartbeats", both)
        assert {a["id"] for a in agents} == {"hostagent-1", "hostagent-2"}
        metrics = wait_for("host metrics", lambda: checkout.get("/v1/metrics"))
        assert set(metrics) == {"cpu", "memory", "disk", "network"}
    finally:
        run.terminate()
        assert run.stdout is not None
        output = run.stdout.read().decode()
        run.wait(20)
    assert "/readyz" in output.splitlines()[0]
    assert "Traceback" not in output
    assert all(alive(a["pid"]) for a in agents)


def test_the_walk_kills_the_daemon_and_an_agent_and_ends_with_ones_own(checkout: Checkout) -> None:
    checkout.type("./scripts/run &")
    wait_for("readyz", lambda: checkout.get("/readyz"))
    dev = ("--config", "configs/daemon.dev.yaml")
    before = wait_for("both agents", lambda: len(checkout.pids(*dev)) == 2 and checkout.pids(*dev))

    said = checkout.type(commands("try"))
    (shown,) = re.findall(r"^```text\n(.*?)^```$", README, re.M | re.S)
    assert said.splitlines()[0].split() == shown.splitlines()[0].split()
    for agent, pid in before.items():
        assert re.search(rf"^{agent} +running +(healthy|starting) +{pid} ", said, re.M)
    assert said.splitlines()[-2:] == shown.splitlines()[-2:]

    environment = commands("try").splitlines()[0] + "\n"
    daemon = checkout.hostctl(*dev, "pid")["pid"]
    said = checkout.type(environment + commands("kill"))
    assert not alive(daemon)
    assert "2 agents, 2 taken back" in said
    for agent, pid in before.items():
        assert re.search(rf"^{agent} +running +\w+ +{pid} ", said, re.M), said
    assert "killed by SIGKILL; restarting at once" in said.splitlines()[-2]
    after = checkout.pids(*dev)
    assert after["hostagent-2"] == before["hostagent-2"]
    assert f"agent hostagent-1: runs, pid {after['hostagent-1']}" in said.splitlines()[-1]

    checkout.type(environment + commands("end"))
    assert not any(alive(pid) for pid in after.values())
    wait_for("the end of the daemon", lambda: checkout.hostctl(*dev, "node") is None)

    init, rest = commands("own").split("\n", 1)
    said = checkout.type(environment + init)
    assert f"node-exporter: {checkout.folder}/bin/prometheus-node-exporter" in said
    file = checkout.folder / "daemon.yaml"
    written = yaml.safe_load(file.read_text())
    # This host may have more of them, and a node_exporter of its own.
    written["agents"] = [agent | {"enabled": True} for agent in written["agents"] if agent["id"] == "node-exporter"]
    # Root's would be /var/lib/daemon, and the path of a socket must stay short.
    written["daemon"] |= {"work_dir": str(checkout.short / "own"), "log_file": ""}
    file.write_text(yaml.safe_dump(written))
    port = written["daemon"]["http_port"]
    assert f"http://localhost:{port}/ in a browser" in said
    said = checkout.type(environment + rest)
    own = ("--config", "daemon.yaml")
    exporter = checkout.pids(*own)["node-exporter"]
    assert re.search(rf"^node-exporter +running +(healthy|starting) +{exporter} .* 1\.5\.0 ", said, re.M), said

    def drawn() -> bool:
        host = checkout.get("/v1/metrics", port)
        points = checkout.get("/v1/agents/node-exporter/metrics?duration=1h", port)["data_points"]
        return len(points) >= 2 and host.keys() >= {"cpu", "memory", "disk", "network"}

    wait_for("two points of the charts", drawn, 45.0)  # the first within half a minute
    checkout.type(environment + 'export HOSTDAEMON_CONFIG=daemon.yaml; kill -9 "$(hostctl pid)"; sleep 1\n'
                  "./scripts/run --config daemon.yaml & sleep 5")
    assert checkout.pids(*own)["node-exporter"] == exporter
    assert drawn(), "the charts of before are gone"
    checkout.type(environment + "export HOSTDAEMON_CONFIG=daemon.yaml; " + commands("end"))
    assert not alive(exporter)
