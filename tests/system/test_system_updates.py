"""Updates of agents by a real daemon: every failure, every kill; what ran before runs afterwards."""

from __future__ import annotations

import base64
import json
import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from daemon.control.node import node_facts
from tests.fakes.packages import Signer, package_of, sha256
from tests.system.harness import Daemon, alive, marked_pids, wait_for

HELD_BACK = 5 * 2**20  # bytes of a package that is larger than the test's bound


def program(version: str, body: str = "touch well") -> bytes:
    """An agent that says its version; ``well`` in its folder is what its health check looks for."""
    return (
        f'#!/bin/bash\nif [ "$1" = --version ]; then echo {version}; exit; fi\n{body}\nexec sleep 1000000\n'
    ).encode()


class Server:
    """Packages over HTTP, with the ways of servers.

    Attributes:
        packages: what is there, by path.
        asked: the Range headers that came.
    """

    def __init__(self) -> None:
        self.packages: dict[str, bytes] = {}
        self.asked: list[str] = []
        room = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                """One package, cut in the middle the first time where its path says so."""
                data = room.packages.get(self.path)
                room.asked.append(self.headers.get("Range", ""))
                if data is None:
                    self.send_error(404)
                    return
                begin = int(room.asked[-1].removeprefix("bytes=").rstrip("-") or 0) if room.asked[-1] else 0
                self.send_response(206 if begin else 200)
                self.send_header("ETag", f'"{sha256(data)[:16]}"')
                self.send_header("Content-Length", str(len(data) - begin))
                if begin:
                    self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
                self.end_headers()
                cut = "cut" in self.path and not begin
                with suppress(ConnectionError):  # who will not have so much hangs up
                    self.wfile.write(data[begin : len(data) // 2 if cut else len(data)])
                if cut:
                    self.close_connection = True

            def log_message(self, format: str, *args: Any) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Host:
    """A daemon with one agent, its keys, and a server of packages."""

    def __init__(self, daemon: Daemon, server: Server) -> None:
        self.daemon = daemon
        self.server = server
        self.signer = Signer(daemon.root)
        self.binary = daemon.root / "bin" / "web"
        self.arch = node_facts(daemon.root, "x").arch
        self.binary.parent.mkdir()
        self.binary.write_bytes(program("1.0.0"))
        self.binary.chmod(0o750)
        well = daemon.work_dir / "agents/web/well"
        daemon.configure(
            f"  - {{id: web, type: custom, binary_path: {self.binary}, start_seconds: 100ms, stop_timeout: 2s,\n"
            f"     version_command: [{self.binary}, --version],\n"
            f"     health_check: {{interval: 1s, start_period: 0s, command: [/usr/bin/test, -f, {well}],\n"
            "      failure_threshold: 1, heartbeat_timeout: 0}}\n",
            rest=(
                f"update: {{public_key_file: {self.signer.public}, allowed_urls: ['{server.url}/'],\n"
                "  verify_period: 2500ms, verify_timeout: 9s, max_package_size: 1MiB}\n"
            ),
        )

    def begin(self, **options: Any) -> None:
        """The daemon is ready and its agent well."""
        self.daemon.start(**options)
        self.daemon.agent_in("web", "running")
        wait_for("a verdict", lambda: self.daemon.agent("web")["health"]["status"] == "healthy")

    def package(self, version: str, body: str = "touch well", **keys: Any) -> bytes:
        return package_of({"web": program(version, body)}, **(
            {"component": "web", "version": version, "arch": self.arch} | keys
        ))

    def request(self, version: str, package: bytes, **changes: Any) -> dict[str, Any]:
        known = {"component": "web", "version": version, "hash": sha256(package),
                 "signature": self.signer.sign(package), "update_data": base64.b64encode(package).decode()}
        return {name: value for name, value in (known | changes).items() if value is not None}

    def by_url(self, path: str, version: str, package: bytes, **changes: Any) -> dict[str, Any]:
        self.server.packages[path] = package
        return self.request(version, package, update_data=None, download_url=self.server.url + path, **changes)

    def push(self, request: dict[str, Any]) -> str:
        status, body = self.daemon.request("POST", "/v1/updates", json.dumps(request).encode())
        assert status == 202, (status, body)
        return str(body["id"])

    def over(self, update_id: str) -> dict[str, Any]:
        def ended() -> dict[str, Any] | None:
            found: dict[str, Any] = self.daemon.get(f"/v1/updates/{update_id}")
            return found if found["success"] is not None else None

        found: dict[str, Any] = wait_for(f"the end of {update_id}", ended, 40)
        return found

    def check(self, version: str, body: str = "touch well") -> int:
        """That version is in place, whole, and runs once; nothing is left of the update. Its pid."""
        assert self.binary.read_bytes() == program(version, body)
        assert self.binary.stat().st_mode & 0o777 == 0o750
        assert sorted(path.name for path in self.binary.parent.iterdir()) == ["web"]
        downloads = self.daemon.work_dir / "downloads"
        assert not downloads.is_dir() or not list(downloads.iterdir())
        pid = int(self.daemon.agent_in("web", "running")["pid"])
        wait_for("one process", lambda: marked_pids("web", self.daemon.work_dir) == {pid})
        return pid


@pytest.fixture
def host(daemon: Daemon) -> Iterator[Host]:
    server = Server()
    try:
        yield Host(daemon, server)
    finally:
        server.close()


def with_one_byte_changed(data: bytes) -> bytes:
    return data[:200] + bytes([data[200] ^ 1]) + data[201:]


Make = Callable[[Host], dict[str, Any]]

# Everything that must fail before anything is changed: how it is asked for, the code, a part of the cause.
REFUSED: dict[str, tuple[Make, str, str]] = {
    "another key": (lambda h: h.request("1.1.0", p := h.package("1.1.0"), signature=Signer(h.daemon.root, "x.pem").sign(p)),
                    "D4002", "key"),
    "a signature of something else": (
        lambda h: h.request("1.1.0", h.package("1.1.0"), signature=h.signer.sign(b"else")), "D4002", "not signed by a key"),
    "a changed byte": (lambda h: h.request("1.1.0", with_one_byte_changed(p := h.package("1.1.0")), hash=sha256(p),
                                           signature=h.signer.sign(p)), "D4002", "not signed by a key"),
    "another hash": (lambda h: h.request("1.1.0", h.package("1.1.0"), hash="ab" * 32), "D4002", "SHA-256"),
    "truncated and signed so": (lambda h: h.request("1.1.0", h.package("1.1.0")[:-40]), "D4002", "archive"),
    "not there": (lambda h: h.request("1.1.0", b"", update_data=None, download_url=h.server.url + "/none"),
                  "D4001", "404"),
    "too large": (lambda h: h.by_url("/large", "1.1.0", bytes(HELD_BACK)), "D4001", "max_package_size"),
    "for another system": (lambda h: h.request("1.1.0", h.package("1.1.0", os="plan9")), "D4002", "plan9"),
    "for another machine": (lambda h: h.request("1.1.0", h.package("1.1.0", arch="vax")), "D4002", "vax"),
    "for another component": (lambda h: h.request("1.1.0", h.package("1.1.0", component="db")), "D4002", "db"),
    "of another version": (lambda h: h.request("1.2.0", h.package("1.1.0")), "D4002", "1.1.0"),
    "expired": (lambda h: h.request("1.1.0", h.package("1.1.0", expires="2020-01-01T00:00:00Z")), "D4002", "expired"),
    "older": (lambda h: h.request("0.9.0", h.package("0.9.0")), "D4002", "not newer"),
    "the same": (lambda h: h.request("1.0.0", h.package("1.0.0")), "D4002", "not newer"),
    "from too old a version": (lambda h: h.request("2.0.0", h.package("2.0.0", min_from="1.5.0")), "D4002", "1.5.0"),
    "no archive": (lambda h: h.request("1.1.0", program("1.1.0")), "D4002", "allow_bare"),
    "for another kernel's loader": (lambda h: h.request("1.1.0", package_of(
        {"web": b"\x7fELF no program"}, component="web", version="1.1.0", arch=h.arch)), "D4003", ""),
}

# What fails once it is in place: the program's body, and a part of the cause.
ROLLED_BACK: dict[str, tuple[str, str]] = {
    "it ends": ("echo no configuration >&2; exit 3", "exit code 3"),
    "it is never healthy": ("rm -f well", "endpoint_failed"),
    "it turns unhealthy": ("touch well; (sleep 1; rm -f well) &", "endpoint_failed"),
    "it is killed": ("kill -9 $$", "SIGKILL"),
}


def test_every_failure_leaves_what_ran_before_running_and_nothing_behind(host: Host) -> None:
    host.begin()
    pid = host.check("1.0.0")
    for name, (make, code, part) in REFUSED.items():
        found = host.over(host.push(make(host)))
        assert (found["state"], found["code"]) == ("failed", code), (name, found)
        assert part in found["error"], (name, found["error"])
        assert host.check("1.0.0") == pid, name  # it was not even stopped
    for name, (body, part) in ROLLED_BACK.items():
        found = host.over(host.push(host.request("1.1.0", host.package("1.1.0", body))))
        assert (found["state"], found["code"], found["rolled_back"]) == ("rolled_back", "D4003", True), (name, found)
        assert part in json.dumps(found), (name, found)
        assert host.check("1.0.0") != pid
        wait_for("well again", lambda: host.daemon.agent("web")["health"]["status"] == "healthy")
    assert not [alert for alert in host.daemon.get("/v1/alerts")["alerts"] if alert["type"] == "update_broken"]
    assert "Traceback" not in host.daemon.log_text()


def test_a_good_one_by_url_is_resumed_where_it_was_cut_then_gone_back_from(host: Host) -> None:
    host.begin()
    found = host.over(host.push(host.by_url("/cut", "1.1.0", host.package("1.1.0"))))
    assert (found["state"], found["old_version"], found["new_version"]) == ("succeeded", "1.0.0", "1.1.0"), found
    assert any(host.server.asked), host.server.asked
    host.check("1.1.0")
    wait_for("its version", lambda: host.daemon.agent("web")["version"] == "1.1.0")
    status, body = host.daemon.post("/v1/rollback/web")
    assert status == 202
    assert host.over(body["id"])["state"] == "succeeded"
    host.check("1.0.0")
    assert [e["data"]["state"] for e in host.daemon.events("update.succeeded")] == ["succeeded", "succeeded"]


def test_an_agent_an_operator_stopped_is_replaced_and_stays_down(host: Host) -> None:
    host.begin()
    assert host.daemon.post("/v1/agents/web/stop")[0] == 200
    assert host.over(host.push(host.request("1.1.0", host.package("1.1.0"))))["state"] == "succeeded"
    assert host.daemon.agent("web")["status"] == "stopped"
    assert not marked_pids("web", host.daemon.work_dir)
    assert host.binary.read_bytes() == program("1.1.0")


@pytest.mark.parametrize("fault", [
    "package.write:1:enospc", "update.backup.copy:1:enospc", "update.agent.stage:1:enospc",
    "update.agent.rename:1:eio", "update.journal.apply:1:enospc",
])
def test_a_disk_that_refuses_leaves_what_ran_before(host: Host, fault: str) -> None:
    host.begin(fault=fault)
    found = host.over(host.push(host.request("1.1.0", host.package("1.1.0"))))
    assert found["state"] in ("failed", "rolled_back"), found
    assert found["code"] in ("D1004", "D4003")
    host.check("1.0.0")


STEPS = ("source", "space", "download", "signature", "hash", "manifest", "backup", "preflight", "apply", "verify", "prune")


@pytest.mark.parametrize("step", [
    step if step in ("manifest", "apply", "verify", "prune") else pytest.param(step, marks=pytest.mark.slow)
    for step in STEPS
])
def test_a_kill_at_each_step_boundary_is_finished_by_the_next_daemon(host: Host, step: str) -> None:
    # The first step is written when it is accepted, begun and entered: the answer has gone out by the third.
    host.begin(fault=f"update.journal.{step}:{3 if step == 'source' else 1}")
    update_id = host.push(host.request("1.1.0", host.package("1.1.0")))
    wait_for("the kill", lambda: not alive(host.daemon.pid))
    host.daemon.start()
    assert host.over(update_id)["state"] == "succeeded"
    host.check("1.1.0")


@pytest.mark.slow
def test_random_kills_always_end_with_a_whole_version_and_a_finished_journal(host: Host) -> None:
    rounds = int(os.environ.get("HOSTDAEMON_UPDATE_KILLS", "200"))
    seed = int(os.environ.get("HOSTDAEMON_SEED", "20261126"))
    draw = random.Random(seed)
    host.begin()
    runs, body = "1.0.0", "touch well"
    for number in range(1, rounds + 1):
        version = f"1.{number}.0"
        wanted = draw.choice(["touch well", "touch well", "exit 3", "rm -f well"])
        update_id = host.push(host.request(version, host.package(version, wanted)))
        for _ in range(draw.choice([1, 1, 2])):
            threading.Event().wait(draw.random() * 3)
            host.daemon.kill()
            host.daemon.start()
        found = host.over(update_id)
        assert found["state"] in ("succeeded", "rolled_back", "failed"), (seed, number, found)
        if found["state"] == "succeeded":
            assert wanted == "touch well", (seed, number, found)
            runs, body = version, wanted
        host.check(runs, body)
    assert "Traceback" not in host.daemon.log_text()
