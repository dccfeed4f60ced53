"""Configurations of agents for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from daemon.config.schema import AgentConfig, AgentType


def spec_of(root: Path, **changes: Any) -> AgentConfig:
    """An agent whose binary exists, with its own folder below ``root``."""
    said: dict[str, Any] = {
        "id": "a", "type": AgentType.CUSTOM, "binary_path": "/bin/true", "work_dir": str(root / "agents" / "a"),
    }
    return AgentConfig(**(said | changes))
