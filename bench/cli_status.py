"""``hostctl status`` of a daemon with a hundred agents, from its launch to its end."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from bench.lab import ROOT, Lab, listening, wait_for
from bench.row import Row, ms

AGENTS = 100
AIM = 2.0
FLOOR = [sys.executable, "-c", "import click, rich"]


def measure(quick: bool = False) -> Row:
    """Medians; the first round of each warms the disk. The two take turns."""
    times: dict[str, list[float]] = {"floor": [], "ours": []}
    with Lab() as lab:
        server = lab.ours(agents=AGENTS)
        server.wait_for_marks(AGENTS)
        wait_for("the control socket", listening(str(server.directory / "w/run/control/control.sock")))
        hostctl = str(Path(sys.executable).with_name("hostctl"))
        ours = [hostctl, "--config", str(_usual_form(server.directory)), "status"]
        wait_for("every agent", lambda: subprocess.run(ours, stdout=subprocess.DEVNULL).returncode == 0)
        for number in range(8 if quick else 31):
            for name, command in (("floor", FLOOR), ("ours", ours)):
                seconds, output = _run(command)
                if name == "ours" and output.count(b" running ") != AGENTS:
                    raise SystemExit(f"cli_status: not {AGENTS} running agents in {output[-500:]!r}")
                if number:
                    times[name].append(seconds)
    floor, status = statistics.median(times["floor"]), statistics.median(times["ours"])
    return Row(
        measure=f"hostctl status, {AGENTS} agents", floor=ms(floor), ours=ms(status), ratio=status / floor,
        aim=f"<= {AIM:g} x import of click and rich", holds=status / floor <= AIM,
    )


def _usual_form(directory: Path) -> Path:
    """The lab's configuration with its section ``daemon`` as people and ``hostctl init`` write it."""
    rest = (directory / "daemon.yaml").read_text().partition("agent_defaults:")[2]
    config = directory / "usual.yaml"
    section = f"daemon:\n  work_dir: {directory}/w\n  log_file: {directory}/log\n"
    config.write_text(f"{section}agent_defaults:{rest}")
    return config


def _run(command: list[str]) -> tuple[float, bytes]:
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installation has its bytecode
    begun = time.perf_counter()
    done = subprocess.run(command, capture_output=True, env=environ, check=True)
    return time.perf_counter() - begun, done.stdout
