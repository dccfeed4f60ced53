"""Shared by the tests of daemon.config: files from text, loaded with a PATH of the test's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from daemon.config.fault import Fault
from daemon.config.load import LoadedConfig, load
from daemon.errors import ConfigValidateError


@pytest.fixture
def load_text(tmp_path: Path) -> Callable[..., LoadedConfig]:
    """Writes the text to a file of its own directory and loads it."""

    def call(text: str | bytes, environ: Mapping[str, str] | None = None) -> LoadedConfig:
        file = tmp_path / "daemon.yaml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        file.chmod(0o644)
        return load(
            file, environ=environ if environ is not None else {"PATH": ""}, interpreter="/nowhere/python"
        )

    return call


@pytest.fixture
def faults_of(load_text: Callable[..., LoadedConfig]) -> Callable[[str], dict[str, str]]:
    """The messages of every fault of a text, by path."""

    def call(text: str) -> dict[str, str]:
        with pytest.raises(ConfigValidateError) as caught:
            load_text(text)
        faults = caught.value.details["faults"]
        assert isinstance(faults, tuple) and all(isinstance(fault, Fault) for fault in faults)
        return {fault.path: fault.message for fault in faults}

    return call
