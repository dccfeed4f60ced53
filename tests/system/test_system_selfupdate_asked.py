"""The daemon is asked over HTTP to update itself, as operators and the Manager do."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from daemon.updater.package.host import this_host
from tests.fakes.packages import Signer, package_of, sha256
from tests.system import bundles
from tests.system.bundles import Installed
from tests.system.harness import Daemon, sleeper, wait_for
from tests.system.test_system_selfupdate import pids, reachable, same_as_before

UPDATE = "update: {{verify_period: 1s, verify_timeout: 15s, public_key_file: {keys}}}\n"


def begun(daemon: Installed) -> tuple[Signer, dict[str, int]]:
    """Version 1.0.0 runs two agents and knows a key."""
    signer = Signer(daemon.root)
    daemon.configure(sleeper("a") + sleeper("b"), rest=UPDATE.format(keys=signer.public))
    daemon.start()
    return signer, pids(daemon)


def package(folder: Path, version: str, changes: Any = bundles.GOOD, **keys: Any) -> bytes:
    """A version of the daemon, packed as scripts/bundle packs one."""
    made = folder / f"package-{version}"
    files = {name: (made / name).read_bytes() for name in bundles.build(made, version, changes)}
    host = this_host()
    return package_of(files, **({
        "component": "daemon", "version": version, "arch": host.arch, "python": host.python, "libc": host.libc,
        "main": "bin/twistd",
    } | keys))


def push(daemon: Daemon, signer: Signer, version: str, data: bytes) -> dict[str, Any]:
    """Asks for it; what came of it."""
    asked = {"component": "daemon", "version": version, "hash": sha256(data), "signature": signer.sign(data),
             "update_data": base64.b64encode(data).decode()}
    status, body = daemon.request("POST", "/v1/updates", json.dumps(asked).encode())
    assert status == 202, (status, body)
    return over(daemon, body["id"])


def over(daemon: Daemon, update_id: str) -> dict[str, Any]:
    """Waits for its end, over the restarts that belong to it."""

    def ended() -> dict[str, Any] | None:
        try:
            status, found = daemon.request("GET", f"/v1/updates/{update_id}")
        except OSError:
            return None
        return found if status == 200 and found["success"] is not None else None

    found: dict[str, Any] = wait_for(f"the end of {update_id}", ended, 40)
    return found


def test_it_updates_itself_and_goes_back_on_request(installed: Installed) -> None:
    signer, before = begun(installed)
    found = push(installed, signer, "2.0.0", package(installed.root, "2.0.0"))
    assert (found["state"], found["old_version"], found["new_version"]) == ("succeeded", "1.0.0", "2.0.0"), found
    same_as_before(installed, before, "2.0.0")
    assert list((installed.work_dir / "downloads").iterdir()) == []
    assert [event["data"]["new"] if "new" in event["data"] else event["data"]["version"]
            for event in installed.events("update.succeeded")] == ["2.0.0"]
    status, body = installed.post("/v1/rollback/daemon")
    assert status == 202
    assert over(installed, body["id"])["state"] == "succeeded"
    same_as_before(installed, before, "1.0.0")
    assert "Traceback" not in installed.log_text()


@pytest.mark.parametrize(("ill", "part"), [
    ("CRASHES_AFTER_CHECK", "exited with status 1"),
    pytest.param("NEVER_READY", "it never is", marks=pytest.mark.slow),
    pytest.param("DIES_SOON", "exited with status 3", marks=pytest.mark.slow),
    pytest.param("HANGS", "not proven itself in time", marks=pytest.mark.slow),
    pytest.param("NEWER_SCHEMA", "exited with status 3", marks=pytest.mark.slow),
])
def test_an_ill_version_is_rolled_back_and_the_result_says_why(installed: Installed, ill: str, part: str) -> None:
    signer, before = begun(installed)
    found = push(installed, signer, "2.0.0", package(installed.root, "2.0.0", getattr(bundles, ill)))
    assert (found["state"], found["code"], found["rolled_back"]) == ("rolled_back", "D4003", True), found
    assert part in found["error"], found
    same_as_before(installed, before, "1.0.0")
    assert list((installed.work_dir / "downloads").iterdir()) == []
    assert [path.name for path in (installed.at / "versions").iterdir()] == ["1.0.0"]


def test_what_would_not_run_or_is_not_for_this_host_changes_nothing(installed: Installed) -> None:
    signer, before = begun(installed)
    pid = installed.pid
    for version, data, code, part in (
        ("2.0.0", package(installed.root, "2.0.0", bundles.CRASHES_AT_IMPORT), "D4003", "would not run here"),
        ("2.0.1", package(installed.root, "2.0.1", python="cp399"), "D4002", "cp399"),
        ("2.0.2", package(installed.root, "2.0.2", libc="glibc-9.99"), "D4002", "9.99"),
        ("0.9.0", package(installed.root, "0.9.0"), "D4002", "not newer"),
    ):
        found = push(installed, signer, version, data)
        assert (found["state"], found["code"]) == ("failed", code), found
        assert part in found["error"], found
    assert [path.name for path in (installed.at / "versions").iterdir()] == ["1.0.0"]
    assert (installed.version(), installed.pid, pids(installed)) == ("1.0.0", pid, before)


def test_a_daemon_that_was_not_installed_from_a_bundle_says_so(daemon: Daemon) -> None:
    signer = Signer(daemon.root)
    daemon.configure("  []\n", rest=UPDATE.format(keys=signer.public))
    daemon.start()
    asked = {"component": "daemon", "version": "9.0.0", "hash": "ab" * 32, "signature": "c2ln", "update_data": "eA=="}
    status, body = daemon.request("POST", "/v1/updates", json.dumps(asked).encode())
    assert status == 409
    assert "scripts/bundle install" in body["detail"]
    assert reachable(daemon)  # type: ignore[arg-type]
