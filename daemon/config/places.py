"""Where things are unless the configuration says otherwise; hostctl knows them without the schema."""

from __future__ import annotations

from pathlib import Path

DEFAULT_PATH = Path("/etc/hostdaemon/daemon.yaml")
DEFAULT_WORK_DIR = "/var/lib/daemon"
CONTROL_SOCKET = "run/control/control.sock"
"""In ``daemon.work_dir``."""
