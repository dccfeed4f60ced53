"""An installation of versions that are a few lines long: what its programs print is which one ran."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from daemon.model.agent import Identity
from daemon.procfs.identity import boot_id
from daemon.updater.selfupdate import launcher
from daemon.updater.selfupdate.probation import Probation, ProbationFile

PROGRAM = "import sys; print('version {version}', *sys.argv[1:])\n"
NOBODY = Identity(boot_id=boot_id(), pid=2**22 - 1, start_ticks=1)


def files_of(version: str, program: str = PROGRAM) -> dict[str, bytes]:
    """The content of a version's files, by name."""
    return {
        "bin/twistd": program.replace("{version}", version).encode(),
        "lib/daemon/__init__.py": f"__version__ = {version!r}\n".encode(),
    }


def add_version(root: Path, version: str, program: str = PROGRAM) -> Path:
    """Installs a whole version."""
    folder = root / "versions" / version
    named = {}
    for name, data in files_of(version, program).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        mode = 0o755 if name == "bin/twistd" else 0o644
        path.chmod(mode)
        named[name] = {"sha256": hashlib.sha256(data).hexdigest(), "mode": f"{mode:04o}"}
    (folder / "manifest.json").write_text(json.dumps({"version": version, "main": "bin/twistd", "files": named}))
    return folder


def install(root: Path, *versions: str) -> Path:
    """Installs versions, the first of which is current, and the launcher."""
    for version in versions:
        add_version(root, version)
    launcher.flip(root, versions[0])
    (root / "bin").mkdir()
    source = Path(launcher.__file__).read_text().partition("\n")[2]
    (root / "bin" / "twistd").write_text(f"#!{sys.executable}\n{source}")
    (root / "bin" / "twistd").chmod(0o755)
    return root


def put_on_probation(root: Path, *, daemon: Identity = NOBODY, **facts: Any) -> Probation:
    """As the old version leaves it: 2 is current and tried, 1 is the way back."""
    given: Mapping[str, Any] = {"id": "u1", "old": "1", "new": "2"} | facts
    probation = Probation(daemon=daemon, **given)
    ProbationFile(root).begin(probation)
    launcher.flip(root, probation.new)
    return probation
