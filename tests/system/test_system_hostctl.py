"""Each command of hostctl against a real daemon, for people and as JSON; one daemon for all of them."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from daemon.control.node import node_facts
from tests.fakes.packages import Signer, package_of
from tests.system.harness import ROOT, Daemon, alive, shell, sleeper, wait_for

HOSTCTL = [sys.executable, "-m", "daemon.cli.entry"]
ESCAPES = "\\e[31mred\\e]0;pwned\\a"
PLANTED = ("planted-env-secret", "planted-flag-secret", "planted-log-secret", "planted-hook-secret")


def program(version: str) -> bytes:
    return f'#!/bin/bash\nif [ "$1" = --version ]; then echo {version}; exit; fi\nexec sleep 1000000\n'.encode()


class Host:
    """The daemon that all tests of this file share, and hostctl on it."""

    def __init__(self, root: Path) -> None:
        self.daemon = Daemon(root)
        self.signer = Signer(root)
        self.binary = root / "bin" / "web"
        self.binary.parent.mkdir()
        self.binary.write_bytes(program("1.0.0"))
        self.binary.chmod(0o755)
        self.agents = (
            sleeper("a") + sleeper("b", f'env: {{DB_PASSWORD: "{PLANTED[0]}"}}')
            + sleeper("idle", "enabled: false")
            + shell("noisy", f"while :; do printf '{ESCAPES} %s\n' $(date -Is); sleep 0.2; done")
            + shell("leaky", f"echo starting with --token={PLANTED[1]}; echo password={PLANTED[2]}; exec sleep 100000")
            + f"  - {{id: web, type: custom, binary_path: {self.binary}, start_seconds: 100ms, stop_timeout: 2s,\n"
            f"     version_command: [{self.binary}, --version], health_check: {{interval: 1s, start_period: 0s}}}}\n"
        )
        self.rest = (
            f"update: {{public_key_file: {self.signer.public}, verify_period: 500ms, verify_timeout: 20s}}\n"
            f'resources: {{interval: 1s, webhook: "http://127.0.0.1:9/{PLANTED[3]}"}}\n'
            "collectors: {cpu: {interval: 1s}, memory: {interval: 1s}, disk: {interval: 1s}, network: {interval: 1s}}\n"
        )
        self.daemon.configure(self.agents, rest=self.rest)

    def run(self, *arguments: str, status: int = 0) -> tuple[str, str]:
        """What a command wrote to stdout and stderr."""
        done = subprocess.run(
            [*HOSTCTL, "--config", str(self.daemon.config), *arguments], capture_output=True, timeout=60, cwd=self.daemon.root,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        out, err = done.stdout.decode(), done.stderr.decode()
        assert "Traceback" not in err
        assert done.returncode == status, (arguments, out, err)
        return out, err

    def json(self, *arguments: str, status: int = 0) -> Any:
        """The same command's JSON, which its YAML must equal where nothing moves."""
        return json.loads(self.run(*arguments, "-o", "json", status=status)[0])


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    root = Path(tempfile.mkdtemp(prefix="hd-"))
    made = Host(root)
    try:
        made.daemon.start()
        for name in ("a", "b", "noisy", "leaky", "web"):
            made.daemon.agent_in(name, "running")
        yield made
    finally:
        made.daemon.clean_up()
        shutil.rmtree(root, ignore_errors=True)


def popen(host: Host, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*HOSTCTL, "--config", str(host.daemon.config), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, **options,
    )


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def on_terminal(host: Host, *arguments: str, until: bytes = b"", **environ: str) -> bytes:
    """What a command writes to a terminal of 100 columns; with ``until`` it is interrupted when that has come."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*HOSTCTL, "--config", str(host.daemon.config), *arguments], stdin=theirs, stdout=theirs, stderr=theirs,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100", "LINES": "30", "TERM": "xterm", **environ},
    )
    os.close(theirs)
    seen = b""
    end = time.monotonic() + 30
    asked = False
    while time.monotonic() < end:
        if until and until in seen and not asked:
            process.send_signal(signal.SIGINT)
            asked = True
        if not select.select([ours], [], [], 0.1)[0]:
            continue
        try:
            piece = os.read(ours, 65536)
        except OSError:
            break
        if not piece:
            break
        seen += piece
    os.close(ours)
    assert process.wait(10) == (130 if until else process.returncode)
    assert b"Traceback" not in seen
    return seen


def test_status_of_all_and_of_one(host: Host) -> None:
    out, err = host.run("status")
    assert out.splitlines()[0].split()[:4] == ["AGENT", "STATE", "HEALTH", "PID"]
    assert re.search(r"^a +running +healthy ", out, re.M)
    assert re.search(r"^idle +disabled ", out, re.M)
    assert err == ""
    assert [view["id"] for view in host.json("status")["agents"]] == ["a", "b", "idle", "noisy", "leaky", "web"]
    assert host.json("status", "a")["agents"][0]["status"] == "running"
    assert yaml.safe_load(host.run("status", "a", "-o", "yaml")[0])["agents"][0]["id"] == "a"
    detail, _ = host.run("status", "idle", status=3)
    assert "enabled: false" in detail
    _, err = host.run("status", "aa", status=4)
    assert "did you mean a?" in err
    assert "agents here: a, b, idle" in err


def test_stop_start_restart_and_their_exit_statuses(host: Host) -> None:
    assert host.run("stop", "a", "b") == ("a: stopped\nb: stopped\n", "")
    out, err = host.run("status", status=3)
    assert "2 not running" in err
    assert "the operator stopped it" in out
    started = host.json("start", "a", "b")["results"]
    assert started["a"]["agent"]["status"] == started["b"]["agent"]["status"] == "running"
    pid = started["a"]["agent"]["pid"]
    out, _ = host.run("restart", "a", "--force")
    assert re.fullmatch(r"a: running, pid [0-9]+\n", out)
    assert not alive(pid)
    out, err = host.run("start", "a", "idle", "nope", status=1)
    assert out.startswith("a: running")
    assert "enabled: false" in err
    assert "no agent 'nope'" in err
    assert "no agent '\\udcff'" in host.run("stop", os.fsdecode(b"\xff"), status=4)[1]
    found = host.json("start", "nope", status=4)["results"]["nope"]
    assert (found["success"], found["agent"]) == (False, None)
    everything = host.json("restart", "--all")["results"]
    assert sorted(everything) == ["a", "b", "leaky", "noisy", "web"]
    assert all(result["success"] and result["agent"]["status"] == "running" for result in everything.values())


def test_logs_in_every_way(host: Host) -> None:
    out, _ = host.run("logs", "noisy", "-n", "3")
    assert out.count("\n") == 3
    assert "\x1b[31mred" in out  # off a terminal the bytes come as they are
    assert host.run("logs", "leaky", "--grep", "starting")[0].startswith("starting with")
    lines = host.json("logs", "noisy", "-n", "2")
    assert (lines["agent_id"], len(lines["lines"])) == ("noisy", 2)
    wait_for("six lines", lambda: host.run("logs", "noisy", "-n", "10")[0].count("\n") >= 6)
    late, whole = wait_for("lines of the last second", lambda: (late := host.run("logs", "noisy", "--since", "1s")[0]) and (
        late, host.run("logs", "noisy")[0]
    ))
    assert whole.count("\n") > late.count("\n")
    assert "no line of this log carries a time" in host.run("logs", "leaky", "--since", "1m", status=1)[1]
    assert host.run("logs", "nope", status=4)[1].startswith("hostctl: no agent 'nope'")
    assert host.run("logs", "idle") == ("", "hostctl: idle has written nothing yet; hostctl status idle\n")
    assert "no line of noisy holds that text" in host.run("logs", "noisy", "--grep", "no such words")[1]
    assert host.json("logs", "idle") == {"agent_id": "idle", "lines": []}
    follower = popen(host, "logs", "-f", "noisy", "-n", "1")
    assert follower.stdout is not None
    assert [b"red" in follower.stdout.readline() for _ in range(4)] == [True] * 4
    follower.send_signal(signal.SIGINT)
    assert follower.wait(10) == 130


def test_on_a_terminal_hostile_logs_are_shown_and_not_obeyed(host: Host) -> None:
    seen = on_terminal(host, "logs", "noisy", "-n", "2")
    assert b"\x1b" not in seen
    assert b"\\x1b[31mred\\x1b]0;pwned\\x07" in seen
    assert b"\x1b" not in on_terminal(host, "logs", "noisy", "-f", until=b"pwned")


def test_colours_on_a_terminal_unless_no_color_says_so(host: Host) -> None:
    assert b"\x1b[32mrunning\x1b[0m" in on_terminal(host, "status")
    plain = on_terminal(host, "status", NO_COLOR="1")
    assert b"\x1b" not in plain
    assert all(len(line) <= 100 for line in plain.decode().splitlines())
    assert b"\x1b[32m" not in on_terminal(host, "status", TERM="dumb")


def test_watch_and_top_live_end_by_ctrl_c_and_leave_the_terminal_as_it_was(host: Host) -> None:
    seen = on_terminal(host, "top", "--interval", "0.5", until=b"noisy")
    assert seen.startswith(b"\x1b[?1049h")
    assert b"\x1b[?25h\x1b[?1049l" in seen
    assert b"6 agents" in on_terminal(host, "status", "--watch", "--interval", "0.2", until=b"noisy")
    watcher = popen(host, "status", "--watch", "--interval", "0.2", "-o", "json")
    assert watcher.stdout is not None
    assert [len(json.loads(watcher.stdout.readline())["agents"]) for _ in range(2)] == [6, 6]
    watcher.send_signal(signal.SIGINT)
    assert watcher.wait(10) == 130


def test_a_terminal_that_changes_its_size_is_drawn_on_at_once(host: Host) -> None:
    for command in (["top"], ["status", "--watch"]):
        ours, theirs = pty.openpty()
        environ = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm"}
        environ.pop("COLUMNS", None)
        environ.pop("LINES", None)
        termios.tcsetwinsize(theirs, (30, 60))
        process = subprocess.Popen(
            ["setsid", "--ctty", *HOSTCTL, "--config", str(host.daemon.config), *command, "--interval", "3600"],
            stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, env=environ,
        )
        os.close(theirs)
        try:
            for lines, columns in ((30, 60), (8, 140), (30, 50)):
                termios.tcsetwinsize(ours, (lines, columns))
                seen = b""
                while not seen.endswith(b"\x1b[J"):
                    assert select.select([ours], [], [], 30)[0], seen
                    seen += os.read(ours, 65536)
                shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode()).splitlines()
                assert len(shown) <= lines
                assert 0 < max(map(len, shown)) <= columns
                assert (len(shown) == lines - 1) == (lines == 8), "what has no room is counted"
        finally:
            process.send_signal(signal.SIGINT)
            os.close(ours)
            assert b"Traceback" not in process.communicate(timeout=20)[1]


def test_top_once_and_metrics(host: Host) -> None:
    wait_for("history", lambda: host.json("metrics", "noisy")["data_points"])
    out, _ = host.run("top")
    assert "6 agents" in out
    assert re.search(r"^noisy +running ", out, re.M)
    assert host.json("top")["agents"][0]["history"] is not None
    assert "CPU  " in host.run("metrics", "noisy")[0]
    assert "MOUNTED ON" in wait_for("host metrics", lambda: (t := host.run("metrics")[0]) and "MOUNTED ON" in t and t)
    assert {"cpu", "memory", "disk", "network"} <= set(host.json("metrics"))
    assert "duration" in host.run("metrics", "noisy", "--duration", "long", status=1)[1]
    points = wait_for("history of the host", lambda: [
        point for point in host.json("metrics", "--history", "--step", "1s")["data_points"] if point["cpu"] is not None
    ])
    assert {"memory_used", "disk_used_percent", "network_sent_per_second"} <= set(points[0])
    out, _ = host.run("metrics", "--history")
    assert out.startswith("CPU     ")
    assert "FULLEST" in out


def test_events_and_alerts(host: Host) -> None:
    out, _ = host.run("events", "--type", "agent.started", "-n", "1000")
    assert "agent a: " in out
    found = host.json("events", "--agent", "a", "-n", "1000")["events"]
    assert found
    assert {event["agent_id"] for event in found} == {"a"}
    last = host.json("events", "--agent", "a", "-n", "1")["events"]
    assert last == found[-1:], "the last one of this agent, however much happened since"
    assert host.run("events", "--agent", "nope", status=4)[1].startswith("hostctl: no agent 'nope'")
    assert "no such event among the last" in host.run("events", "--type", "nope")[1]
    out, err = host.run("alerts")
    assert (out, err) == ("", "hostctl: no alert stands\n")
    assert host.json("alerts", "--all")["alerts"] is not None


def test_config_in_every_way(host: Host) -> None:
    config = host.daemon.config
    assert host.run("config", "check")[0] == f"{config}: good; 6 agents\n"
    assert host.json("config", "check") == {"file": str(config), "ok": True, "faults": [], "warnings": []}
    bad = host.daemon.root / "bad.yaml"
    bad.write_text("daemon: {work_dirr: x}\nagents: [{id: a}]\n")
    out, err = host.run("config", "check", str(bad), status=1)
    assert "^" in out
    assert "did you mean" in out
    assert "faults" in err
    assert len(host.json("config", "check", str(bad), status=1)["faults"]) >= 3
    shown = host.run("config", "show")[0]
    assert yaml.safe_load(shown) == host.json("config", "show")
    assert PLANTED[0] not in shown
    assert PLANTED[3] not in shown
    assert host.json("config", "schema")["$schema"].startswith("http://json-schema.org/draft-07")
    assert host.run("config", "diff") == ("", "hostctl: nothing to change\n")
    assert f"next: hostctl config check {bad}" in host.run("config", "diff", str(bad), status=1)[1]
    other = host.daemon.root / "other.yaml"
    other.write_text(config.read_text().replace("1000000", "1000001", 1))
    out, _ = host.run("config", "diff", str(other))
    assert re.search(r"^a +args +restart_agent ", out, re.M)
    assert host.json("config", "diff", str(other))["changes"][0]["effect"] == "restart_agent"
    assert host.json("config", "reload", "--dry-run") == {"applied": False, "changes": [], "warnings": []}
    assert "nothing has changed" in host.run("config", "reload")[1]
    good = config.read_text()
    try:
        config.write_text(good + "nonsense: 1\n")
        out, err = host.run("config", "reload", status=1)
        assert "nonsense" in out
        assert "stays in force" in err
        assert host.json("config", "reload", status=1)["faults"]
        assert host.run("status")[0], "a file that is refused keeps nobody from asking"
        wait_for("the alert", lambda: host.daemon.get("/v1/node")["alerts"] == 1)
        assert "config_reload" in host.run("alerts", status=3)[0]
        assert host.json("alerts", status=3)["alerts"][0]["type"] == "config_reload"
        assert "REFUSED" in host.run("node")[0]
    finally:
        config.write_text(good)
    wait_for("good again", lambda: host.daemon.get("/v1/node")["config"]["ok"])


def test_node(host: Host) -> None:
    assert f"pid {host.daemon.pid}" in host.run("node")[0]
    assert host.json("node")["pid"] == host.daemon.pid


def test_pid_is_a_number_for_kill(host: Host) -> None:
    assert host.run("pid") == (f"{host.daemon.pid}\n", "")
    assert host.run("pid", "b") == (f"{host.daemon.agent('b')['pid']}\n", "")
    assert host.json("pid") == {"pid": host.daemon.pid}
    out, err = host.run("pid", "idle", status=3)
    assert out == ""
    assert "idle has no process" in err
    assert "next: hostctl status idle" in err
    assert "no agent 'nope'" in host.run("pid", "nope", status=4)[1]


def test_update_and_rollback_with_progress(host: Host) -> None:
    package = host.daemon.root / "web.tar.gz"
    arch = node_facts(host.daemon.root, "x").arch
    data = package_of({"web": program("1.1.0")}, component="web", version="1.1.0", arch=arch)
    package.write_bytes(data)
    assert host.run("updates") == ("", "hostctl: no update is remembered\n")
    assert "no earlier version" in host.run("rollback", "web", status=1)[1]
    assert "did you mean web?" in host.run("rollback", "wbe", status=4)[1]
    package.with_name("web.tar.gz.sig").write_text(base64.b64encode(b"x" * 64).decode())
    out, err = host.run("update", "web", str(package), "--wait", status=1)
    assert "D4002" in err
    assert "nothing was changed" in err
    package.with_name("web.tar.gz.sig").write_text(host.signer.sign(data))
    out, err = host.run("update", "web", str(package), "--wait")
    assert "state      succeeded" in out
    assert "hostctl: web 1.1.0: " in err
    assert host.daemon.agent("web")["version"] == "1.1.0"
    update_id = host.json("updates")["updates"][0]["id"]
    assert update_id in host.run("updates")[0]
    assert host.json("updates", update_id)["success"] is True
    assert "version" in host.run("updates", update_id)[0]
    assert "hostctl updates lists them" in host.run("updates", "nope", status=4)[1]
    host.run("updates", update_id, "--cancel", status=1)
    back = host.json("rollback", "web")["id"]
    assert host.json("updates", back, "--wait")["state"] == "succeeded"
    assert host.daemon.agent("web")["version"] == "1.0.0"


def members(archive: Path) -> dict[str, str]:
    with tarfile.open(archive) as tar:
        found = {}
        for member in tar.getmembers():
            file = tar.extractfile(member)
            assert file is not None
            found[member.name.partition("/")[2]] = file.read().decode()
        return found


def test_diagnostics_hold_everything_but_secrets(host: Host) -> None:
    token = (host.daemon.work_dir / "api.token").read_text().strip()
    host.run("events", "-n", "1")
    out, err = host.run("diagnostics", "--file", "d.tar.gz")
    assert out == "d.tar.gz\n"
    assert "look through logs/" in err
    archive = host.daemon.root / "d.tar.gz"
    assert archive.stat().st_mode & 0o777 == 0o600
    files = members(archive)
    assert {"README.txt", "node.json", "agents.json", "config.json", "config-check.json", "events.json", "alerts.json",
            "versions.json", "host.json", "ready.json", "updates.json", "daemon.log", "logs/leaky.log", "logs/noisy.log",
            "history/web.json", "metrics.txt"} <= set(files)
    assert "starting with" in files["logs/leaky.log"]
    whole = "".join(files.values())
    for secret in (*PLANTED, token):
        assert secret not in whole
    assert "already" in host.run("diagnostics", "--file", "d.tar.gz", status=1)[1]
    report = host.json("diagnostics", "--file", "e.tar.gz", "--no-logs")
    assert report["missing"] == []
    assert not any(name.startswith("logs/") or name == "daemon.log" for name in members(host.daemon.root / "e.tar.gz"))


def test_init_writes_what_the_check_takes(host: Host, tmp_path: Path) -> None:
    path = tmp_path / "d.yaml"
    out, err = host.run("init", str(path), "--work-dir", "/tmp/w")
    assert out == f"{path}\n"
    assert "next: twistd" in err
    assert "good" in host.run("config", "check", str(path))[0]
    assert json.loads((tmp_path / "hostdaemon.schema.json").read_text())["title"]
    assert "is there already" in host.run("init", str(path), status=1)[1]
    assert host.json("init", str(path), "--force", "--work-dir", "/tmp/w")["file"] == str(path)
    assert yaml.safe_load(host.run("init", "-")[0])["daemon"]
    assert yaml.safe_load(host.json("init", "-")["text"])["daemon"]
    deep = tmp_path / "etc" / "hostdaemon" / "daemon.yaml"  # a host that has no such directory yet
    host.run("init", str(deep), "--work-dir", "/tmp/w")
    assert f"# hostctl config check {deep} " in deep.read_text()


def test_init_gives_the_page_a_port_that_is_free_and_names_what_can_be_typed(tmp_path: Path) -> None:
    with contextlib.ExitStack() as taken:
        if not listens(8084):
            taken.enter_context(socket.create_server(("127.0.0.1", 8084)))
        done = subprocess.run(
            [str(Path(sys.executable).with_name("hostctl")), "init", "d.yaml", "--work-dir", str(tmp_path / "w")],
            cwd=tmp_path, capture_output=True, text=True, timeout=60, env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
        )
        port = yaml.safe_load((tmp_path / "d.yaml").read_text())["daemon"]["http_port"]
        assert port in range(8085, 8090)
        assert not listens(port)
    (program,) = re.findall(r"next: (\S+) -n hostdaemon --config d\.yaml, then \S+ --config d\.yaml status", done.stderr)
    assert os.access(program, os.X_OK)
    assert f"and http://localhost:{port}/ in a browser" in done.stderr


def test_ids_are_completed_by_the_daemon(host: Host) -> None:
    done = subprocess.run(
        HOSTCTL, capture_output=True, text=True, timeout=30,
        env={**os.environ, "PYTHONPATH": str(ROOT), "_HOSTCTL_COMPLETE": "bash_complete", "COMP_CWORD": "2",
             "COMP_WORDS": "hostctl stop no", "HOSTDAEMON_CONFIG": str(host.daemon.config)},
    )
    assert done.stdout == "plain,noisy\n"
    assert host.json("completion", "zsh")["shell"] == "zsh"


def test_the_death_of_the_daemon_is_told_and_streams_go_on_with_the_next_one(host: Host) -> None:
    """Last, for it replaces the daemon."""
    events = popen(host, "events", "-f", "-n", "1", "-o", "json")
    logs = popen(host, "logs", "-f", "noisy", "-n", "1")
    watcher = popen(host, "status", "--watch", "--interval", "0.2", "-o", "json")
    streams = (events, logs, watcher)
    try:
        for process in streams:
            assert process.stdout is not None
            assert process.stdout.readline()
        agents = {view["id"]: view["pid"] for view in host.daemon.get("/v1/agents")["agents"]}
        before = host.json("events", "-n", "1")["events"][0]["id"]
        host.daemon.kill()
        _, err = host.run("status", status=4)
        assert "nobody listens on" in err
        assert "agents run on" in err
        out, err = host.run("diagnostics", "--file", "f.tar.gz")
        assert "not in it: everything the daemon would say" in err
        files = members(host.daemon.root / "f.tar.gz")
        assert {"versions.json", "config-of-file.json", "daemon.log"} <= set(files)
        assert not any(secret in "".join(files.values()) for secret in PLANTED)
        for process in streams:
            assert process.poll() is None, "it waits for the next daemon"
        host.daemon.start()
        assert {view["id"]: view["pid"] for view in host.daemon.get("/v1/agents")["agents"]} == agents
        assert events.stdout is not None
        seen = []
        while not seen or seen[-1]["type"] != "daemon.started":
            seen.append(json.loads(events.stdout.readline()))
        ids = [tuple(map(int, event["id"].split("-"))) for event in seen]
        assert ids == sorted(set(ids)), "each once, in order"
        assert all(number > tuple(map(int, before.split("-"))) for number in ids)
        assert logs.stdout is not None
        assert b"pwned" in logs.stdout.readline()
    finally:
        for process in streams:
            process.send_signal(signal.SIGINT)
            _, err_bytes = process.communicate(timeout=20)
            assert b"Traceback" not in err_bytes
            assert b"waiting for" in err_bytes or process is watcher
            assert process.returncode == 130
