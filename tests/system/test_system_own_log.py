"""What a real daemon says of itself: in the journal's form, and nowhere a secret."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.packages import Signer
from tests.system.harness import ROOT, Daemon, shell, sleeper, wait_for
from tests.system.test_system_real_agents import free_port

PLANTED = re.compile(r"planted\d+")
ROUTES = (
    "/v1/events?once&limit=1000", "/v1/config", "/metrics", "/metrics/host", "/v1/updates", "/v1/node",
    "/v1/agents", "/v1/alerts", "/v1/metrics", "/readyz?verbose", "/heartbeat/stats",
)  # fmt: skip
SIGNATURE = "planted90" * 4  # is base64
LOGIN = "echo 'login of me with password=planted130 at https://u:planted131@h/ refused'; exit 1"


def test_text_to_the_journal_has_priorities_and_no_times(daemon: Daemon) -> None:
    daemon.configure(shell("bad", "exit 3"))
    text = daemon.config.read_text().replace(f"log_file: {daemon.log}", 'log_file: ""').replace(
        "log_format: text", "log_format: auto"
    )
    daemon.config.write_text(text)
    path = daemon.root / "journal"
    with open(path, "wb") as journal:
        found = os.fstat(journal.fileno())
        daemon.process = subprocess.Popen(
            [str(Path(sys.executable).with_name("twistd")), "-n", "hostdaemon", "--config", str(daemon.config)],
            env={**os.environ, "PYTHONPATH": str(ROOT), "JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"},
            cwd=daemon.root, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=journal,
        )
    daemon.pid = daemon.process.pid
    wait_for("its exits", lambda: b"exit code 3; restarting in" in path.read_bytes())
    daemon.signal(signal.SIGTERM)
    lines = path.read_bytes().splitlines()
    assert [line for line in lines if not re.match(rb"<[3467]>\S", line)] == []
    assert [line for line in lines if re.match(rb"<4>agent bad: .*exit code 3", line)]
    assert not any(re.search(rb"^<.>\d{4}-\d\d-\d\dT", line) for line in lines)


@pytest.fixture
def redirecting() -> Iterator[str]:
    """A server that sends everybody away, to an address with a secret in it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Elsewhere."""
            self.send_response(302)
            self.send_header("Location", "https://u:planted80@elsewhere.example/x?token=planted81")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def everything_said(daemon: Daemon) -> dict[str, str]:
    """By place; the journal of events as it is on disk, too."""
    said = {route: str(daemon.request("GET", route)[1]) for route in ROUTES}
    said["log"] = daemon.log_text()
    for path in (daemon.work_dir / "state/events").rglob("*"):
        if path.is_file():
            said[str(path)] = path.read_bytes().decode("utf-8", "replace")
    return said


def everything_hostctl_says(daemon: Daemon) -> dict[str, str]:
    """By command; of the archive of diagnostics every file."""
    other = daemon.root / "other.yaml"
    other.write_text(re.sub(r"(planted[0-9]+)", r"\g<1>0", daemon.config.read_text()))  # each secret is a change
    said = {}
    for command in ("config show", f"config diff {other}", "config check", "status", "status scripted", "status described",
                    "status many-forms", "events -n 1000", "alerts --all", "node", "updates", "metrics", "diagnostics --file d.tar.gz"):
        for output in ("human", "json", "yaml"):
            done = subprocess.run(
                [sys.executable, "-m", "daemon.cli.entry", "--config", str(daemon.config), *command.split(), "-o", output],
                capture_output=True, text=True, timeout=60, cwd=daemon.root, env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
            assert "Traceback" not in done.stderr
            said[f"hostctl {command} -o {output}"] = done.stdout + done.stderr
            if command.startswith("diagnostics"):
                assert done.returncode == 0, done.stderr
                with tarfile.open(daemon.root / "d.tar.gz") as archive:
                    for member in archive.getmembers():
                        file = archive.extractfile(member)
                        assert file is not None
                        said[member.name] = file.read().decode()
                (daemon.root / "d.tar.gz").unlink()
    assert "described" in said["hostctl status -o human"] and "restart_agent" in said[f"hostctl config diff {other} -o human"]
    return said


def test_no_secret_is_told_anywhere(daemon: Daemon, redirecting: str) -> None:
    closed = f"127.0.0.1:{free_port()}"
    checks = {
        "http": f"http_endpoint: 'http://u:planted10@{closed}/x?token=planted11', interval: 300ms, start_period: 0s",
        "command": "command: ['/bin/false', '--password=planted12', '--token', 'planted13'], interval: 300ms,"
                   " start_period: 0s",
    }
    agents = "".join(
        sleeper(f"check-{name}", f"health_check: {{{check}}}") for name, check in checks.items()
    )
    agents += sleeper(
        "web",
        "env: {DB_PASSWORD: planted20, API_TOKEN: planted21, DATABASE: 'postgres://u:planted22@db/x'}",
        "version_command: [/bin/true, '--token=planted23', '--api-key', 'planted24']",
    )
    agents += sleeper("unversioned", "version_command: [/nowhere/x, '--password=planted25']")
    agents += shell("bad", "exit 3", "env: {SECRET: planted26}")
    agents += shell(
        "scripted",
        "export PASSWORD=planted100 API_KEY='planted101 planted102'; : web --token planted103 -u me:planted104;"
        " : curl -H \"Authorization: Bearer planted105\" -H 'Cookie: sid=planted106' 'https://u:planted107@h/?sig=planted108';"
        " : mysql -pplanted109; : sshpass -p planted110 ssh h; echo 'login with password=planted113'; exit 4",
        "env: {JAVA_OPTS: '-Xmx1g -Djavax.net.ssl.keyStorePassword=planted111', DB: 'host=db password=planted112'}",
    )
    agents += sleeper("described", f"health_check: {{command: [/bin/sh, -c, {json.dumps(LOGIN)}], interval: 300ms,"
                      " start_period: 0s}")
    agents += (
        "  - id: many-forms\n    type: custom\n    binary_path: /nowhere/mysqld_exporter\n    args: ['-pplanted120',"
        " '{\"db\": {\"password\": \"planted121\"}}', '-H', 'Authorization: Basic planted122', '-H', 'X-Api-Key: planted123',"
        " 'u:planted124@tcp(db:3306)/x', '--slack-webhook=https://hooks.example/planted125', '--requirepass', 'planted126']\n"
    )
    agents += (
        "  - id: missing\n    type: custom\n    binary_path: /nowhere/x\n"
        "    args: ['--token=planted27', '--db', 'https://u:planted28@h/?sig=planted29']\n"
    )
    rest = f"""collectors:
  exec:
    - {{name: one, command: [/bin/false, '--token=planted30', '--password', planted31], interval: 1s}}
    - {{name: two, command: [/nowhere/y, '--token=planted32'], interval: 1s}}
    - {{name: three, command: [/bin/sh, -c, {json.dumps(LOGIN)}], interval: 1s}}
resources: {{webhook: 'http://u:planted40@{closed}/services/planted41?key=planted42'}}
update: {{public_key_file: {Signer(daemon.root).public}, allowed_urls: ['http://{closed}/', 'http://{redirecting}/']}}
"""
    daemon.configure(
        agents, daemon="log_level: debug\nlabels: {api_key: planted50, rack: '7'}", rest=rest
    )
    text = daemon.config.read_text().replace("log_format: text", "log_format: json")
    daemon.config.write_text(text)
    daemon.start()
    wait_for("an unhealthy agent", lambda: daemon.events("alert.raised"))
    for url in (f"http://u:planted60@{closed}/web.tar.gz?X-Amz-Signature=planted61&sig=planted62",
                f"http://u:planted63@{redirecting}/web.tar.gz?token=planted64",
                "https://u:planted65@other.example/web.tar.gz?token=planted66",
                "https://u:planted67 @other/?token=planted68", "ftp://u:planted69@h/?key=planted70"):
        body = {"component": "web", "version": "2.0.0", "hash": "0" * 64, "signature": SIGNATURE,
                "download_url": url}
        status, answer = daemon.request("POST", "/v1/updates", json.dumps(body).encode())
        assert not PLANTED.search(str(answer)), answer
        if status == 202:
            wait_for("its try", lambda found=answer["id"]: "attempt" in daemon.log_text()
                     or daemon.get(f"/v1/updates/{found}")["success"] is not None)
            daemon.post(f"/v1/updates/{answer['id']}/cancel")
            wait_for("its end", lambda found=answer["id"]: daemon.get(f"/v1/updates/{found}")["finished_at"])
    wait_for("the webhook's failure", lambda: daemon.events("webhook.failed"))
    wait_for("the collectors' failures", lambda: len(daemon.events("collector.failed")) >= 3)
    wait_for("the exits", lambda: {event["agent_id"] for event in daemon.events("agent.exited")} >= {"bad", "scripted"})
    wait_for("what the checks said", lambda: "login of me" in daemon.agent("described")["health"]["reason"])

    daemon.config.write_text(
        text.replace("webhook: 'http:", "webhook: 'htp:").replace("DB_PASSWORD: planted20", "DB_PASSWORD: [planted71]")
        .replace("http_endpoint: 'http:", "http_endpoint: 'htp:").replace("['--token=planted27',", "'--token=planted27' #")
        .replace("allowed_urls: [", "allowed_urls: ['ftp://u:planted72@h/?token=planted73', ")
        .replace("labels: {api_key: planted50", "labels: {api_key: [planted74]")
    )
    status, answer = daemon.post("/v1/config/reload")
    assert status == 422 and not PLANTED.search(str(answer)), answer
    token = (daemon.work_dir / "api.token").read_text().strip()
    marks = [json.loads(path.read_text())["mark"] for path in (daemon.work_dir / "state/agents").glob("*.json")]
    assert len(token) >= 32 and all(marks)

    daemon.config.write_text(text)
    said = everything_said(daemon) | everything_hostctl_says(daemon)
    leaks = {
        place: sorted({found[0] for found in PLANTED.finditer(text)} | {x for x in (token, *marks) if x in text})
        for place, text in said.items()
    }
    where = {place: [re.findall(rf".{{0,120}}{leak}", said[place])[:1] for leak in found]
             for place, found in leaks.items() if found}
    assert not where, json.dumps(where, indent=1)
    assert json.loads(said["log"].splitlines()[0])["level"]
    assert "web" in said["/v1/agents"] and "redacted" in said["/v1/config"] and "webhook" in said["log"]
