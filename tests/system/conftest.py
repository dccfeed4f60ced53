"""A daemon per test, and nothing left of it afterwards."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.bundles import Installed
from tests.system.harness import Daemon


@pytest.fixture
def root() -> Iterator[Path]:
    """In a short path: a socket's must stay under 104 bytes."""
    made = Path(tempfile.mkdtemp(prefix="hd-"))
    made.chmod(0o755)  # agents with a user of their own pass through
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def installed(root: Path) -> Iterator[Installed]:
    """A daemon that runs from a bundle, version 1.0.0."""
    made = Installed(root)
    made.install()
    try:
        yield made
    finally:
        made.clean_up()


@pytest.fixture
def daemon(root: Path) -> Iterator[Daemon]:
    """A daemon that runs from this checkout."""
    made = Daemon(root)
    try:
        yield made
    finally:
        made.clean_up()
