"""A daemon per test, and nothing left of it afterwards."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.harness import Daemon


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """In a short path: a socket's must stay under 104 bytes."""
    root = Path(tempfile.mkdtemp(prefix="hd-"))
    root.chmod(0o755)  # agents with a user of their own pass through
    made = Daemon(root)
    try:
        yield made
    finally:
        made.clean_up()
        shutil.rmtree(root, ignore_errors=True)
