"""``python -m daemon.agentkit`` is ``hostagent``."""

from __future__ import annotations

from daemon.agentkit.tap import main

main()
