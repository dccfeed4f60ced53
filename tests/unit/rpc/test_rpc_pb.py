"""The committed protobuf code is what scripts/protos makes of protos/."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def test_the_committed_code_is_what_the_script_makes(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools", reason="grpcio-tools comes with the extra dev")
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "-I", "daemon/rpc/pb=protos", f"--python_out={tmp_path}",
         f"--pyi_out={tmp_path}", f"--grpc_python_out={tmp_path}",
         *(f"protos/{name}.proto" for name in ("daemon", "manager", "reports"))],
        cwd=ROOT, check=True,
    )
    made = {path.name: path.read_text() for path in (tmp_path / "daemon/rpc/pb").iterdir()}
    committed = {p.name: p.read_text() for p in (ROOT / "daemon/rpc/pb").glob("*_pb2*") if p.suffix != ".pyc"}
    assert made == committed


def test_the_script_names_the_same_files() -> None:
    text = (ROOT / "scripts" / "protos").read_text()
    assert all(f"protos/{name}.proto" in text for name in ("daemon", "manager", "reports"))
    assert "-I daemon/rpc/pb=protos" in text
