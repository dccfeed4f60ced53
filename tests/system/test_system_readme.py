"""The README's first command, as a newcomer types it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.harness import ROOT, alive, wait_for

READY_WITHIN_S = 5.0


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Path]:
    """A copy of what the first command needs, on ports of its own; its agents are ended afterwards."""
    for name in ("scripts", "configs", "daemon", "twisted"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "tap.cfg"):
        shutil.copy(ROOT / name, tmp_path / name)
    # The environment that runs this test is the one that scripts/test made.
    (tmp_path / ".venv").symlink_to(Path(sys.executable).parents[1])
    config = tmp_path / "configs" / "daemon.dev.yaml"
    text = config.read_text()
    for port in (8084, 8081, 8082):
        assert str(port) in text
        with socket.create_server(("127.0.0.1", 0)) as probe:
            text = text.replace(str(port), str(probe.getsockname()[1]))
    # A socket's path must stay short, and pytest's directories are not.
    short = Path("/tmp") / f"hd-readme-{os.getpid()}"
    config.write_text(text.replace("../var", str(short)))
    yield tmp_path
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                environ = (entry / "environ").read_bytes()
            except OSError:
                continue
            if f"HOSTDAEMON_SOCKET={short}/".encode() in environ:
                os.kill(int(entry.name), signal.SIGKILL)
    shutil.rmtree(short, ignore_errors=True)


def test_the_first_command_is_ready_in_seconds_with_both_agents_and_leaves_them_running(checkout: Path) -> None:
    config = (checkout / "configs/daemon.dev.yaml").read_text()
    port = int(next(line for line in config.splitlines() if "http_port" in line).split()[-1])
    begun = time.monotonic()
    run = subprocess.Popen(
        ["./scripts/run"], cwd=checkout, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": str(checkout)},
    )

    def get(path: str) -> Any:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
                return json.load(answer)
        except OSError:
            return None

    try:
        wait_for("readyz", lambda: get("/readyz"))
        assert time.monotonic() - begun < READY_WITHIN_S

        def both() -> list[dict[str, Any]]:
            agents = get("/v1/agents")["agents"]
            well = [a for a in agents if a["status"] == "running" and a["last_heartbeat"]]
            return well if len(well) == len(agents) == 2 else []

        agents = wait_for("both agents running with heartbeats", both)
        assert {a["id"] for a in agents} == {"hostagent-1", "hostagent-2"}
        assert set(wait_for("host metrics", lambda: get("/v1/metrics"))) == {"cpu", "memory", "disk", "network"}
    finally:
        run.terminate()
        assert run.stdout is not None
        output = run.stdout.read().decode()
        run.wait(20)
    assert "/readyz" in output.splitlines()[0]
    assert "Traceback" not in output
    assert all(alive(a["pid"]) for a in agents)
