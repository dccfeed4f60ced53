"""Faults of the host: one clear line with its D-code, the right exit status, and the rest works on."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

from tests.system.harness import Daemon, alive, marked_pids, shell, sleeper, wait_for


def refused(daemon: Daemon, code: str, *words: str) -> str:
    """The daemon does not start: exit 1, one line, its code, no traceback."""
    daemon.spawn()
    status, output = daemon.ended()
    assert status == 1, output
    assert len(output.strip().splitlines()) == 1, output
    for word in (code, *words):
        assert word in output, output
    assert "Traceback" not in output and "Traceback" not in daemon.log_text()
    return output


def test_a_taken_port(daemon: Daemon) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        daemon.configure(sleeper("a"), daemon=f"http_port: {port}")
        refused(daemon, "D1003", str(port), "ss -ltnp")
    assert marked_pids("a", daemon.work_dir) == set()


def test_an_agent_outlives_a_daemon_that_finds_its_port_taken(daemon: Daemon) -> None:
    daemon.configure(sleeper("a"))
    daemon.start()
    pid = daemon.agent_in("a", "running")["pid"]
    daemon.terminate()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        daemon.configure(sleeper("a"), daemon=f"http_port: {taken.getsockname()[1]}")
        refused(daemon, "D1003")
    assert alive(pid)


def test_a_work_dir_that_cannot_be_made(daemon: Daemon) -> None:
    (daemon.root / "w").write_text("a file in its place")
    daemon.configure(sleeper("a"))
    refused(daemon, "D1004", str(daemon.work_dir))


def test_a_work_dir_that_cannot_be_written(daemon: Daemon) -> None:
    daemon.configure(sleeper("a"))
    daemon.config.write_text(daemon.config.read_text().replace(str(daemon.work_dir), "/proc/sys"))
    refused(daemon, "D1004", "/proc/sys", "daemon.work_dir")


def test_a_log_file_that_cannot_be_opened(daemon: Daemon) -> None:
    daemon.log = daemon.root / "no/such/dir/daemon.log"
    daemon.configure(sleeper("a"))
    refused(daemon, "D1004", "daemon.log_file")


def test_a_socket_path_that_is_too_long(daemon: Daemon) -> None:
    daemon.configure(sleeper("a"), daemon=f"socket_path: /tmp/{'x' * 110}.sock")
    refused(daemon, "D1002", "socket_path", "104")


def test_something_else_in_the_place_of_a_socket(daemon: Daemon) -> None:
    daemon.configure(sleeper("a"), daemon=f"socket_path: {daemon.root}/precious")
    (daemon.root / "precious").write_text("data")
    refused(daemon, "D1003", "precious", "not a socket")
    assert (daemon.root / "precious").read_text() == "data"


def test_a_configuration_with_many_faults_names_each_with_its_place(daemon: Daemon) -> None:
    daemon.configure("  - {id: a, type: customs, binary_path: /bin/sleep, stop_timeout: soon, wrong: 1}\n")
    daemon.spawn()
    status, output = daemon.ended()
    assert status == 1 and "Traceback" not in output
    lines = output.strip().splitlines()
    assert len(lines) == 3
    for line in lines:
        assert "D1002" in line and f"{daemon.config}:" in line and "agents[0]" in line


def test_a_stale_socket_is_removed(daemon: Daemon) -> None:
    daemon.configure(sleeper("a"))
    for path in (daemon.work_dir / "run/heartbeat.sock", daemon.work_dir / "run/control/control.sock"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(path))
    daemon.start()
    daemon.agent_in("a", "running")


def test_sockets_whose_files_go_are_bound_anew(daemon: Daemon) -> None:
    daemon.configure(sleeper("a"))
    daemon.start()
    shutil.rmtree(daemon.work_dir / "run")
    ways = [daemon.work_dir / "run/heartbeat.sock", daemon.work_dir / "run/control/control.sock"]
    wait_for("both sockets", lambda: all(way.is_socket() for way in ways))
    wait_for("ready", lambda: daemon.request("GET", "/readyz")[0] == 200)
    assert stat.S_IMODE((daemon.work_dir / "run").stat().st_mode) == 0o711
    assert daemon.log_text().count("is bound anew") == 2
    ways[0].unlink()
    ways[0].write_text("in the way")
    wait_for("the truth", lambda: daemon.request("GET", "/readyz")[0] == 503)
    ways[0].unlink()
    wait_for("ready again", lambda: daemon.request("GET", "/readyz")[0] == 200)


def test_a_corrupt_metadata_file_costs_only_that_agents_history(daemon: Daemon) -> None:
    daemon.configure(sleeper("a") + sleeper("b"))
    daemon.start()
    before = {i: daemon.agent_in(i, "running")["pid"] for i in "ab"}
    daemon.terminate()
    (daemon.work_dir / "state/agents/a.json").write_bytes(b"\x00\xff{not json")
    daemon.start()
    # The mark is made of the work_dir's secret, so even this agent is found and not doubled.
    assert {i: daemon.agent_in(i, "running")["pid"] for i in "ab"} == before
    assert marked_pids("a", daemon.work_dir) == {before["a"]}
    assert "D1004" in daemon.log_text() and "Traceback" not in daemon.log_text()
    assert (daemon.work_dir / "state/agents/a.json.corrupt").exists()


def test_a_full_disk_stops_no_agent_and_no_operation(daemon: Daemon) -> None:
    daemon.configure(sleeper("a") + sleeper("b"))
    daemon.start()
    daemon.agent_in("a", "running")
    daemon.terminate()
    daemon.start(fault="atomic.write:1:enospc,journal.append:1:enospc")
    a = daemon.agent_in("a", "running")["pid"]
    os.kill(a, 9)
    wait_for("a successor", lambda: daemon.agent("a")["pid"] not in (None, a))
    status, body = daemon.post("/v1/agents/b/stop")
    assert status == 200 and body["status"] == "stopped"
    assert any("restart of the daemon may undo it" in warning for warning in body["warnings"])
    node = daemon.get("/v1/node")
    assert node["events_lost"] > 0
    assert node["storage_error"]
    log = daemon.log_text()
    assert "D1004" in log and "Traceback" not in log


def test_binaries_that_cannot_run_follow_the_back_off_and_never_spin(daemon: Daemon) -> None:
    plain = daemon.root / "plain"
    plain.write_text("no program")
    quick = "restart: {backoff_base: 300ms, backoff_max: 2s, max_retries: 3, slow_retry: 0s}"
    daemon.configure(
        f"  - {{id: missing, type: custom, binary_path: {daemon.root}/missing, {quick}}}\n"
        f"  - {{id: plain, type: custom, binary_path: {plain}, {quick}}}\n"
        f"  - {{id: exits, type: custom, binary_path: /bin/false, {quick}}}\n" + sleeper("good")
    )
    begun = time.monotonic()
    daemon.start()
    for agent_id in ("missing", "plain", "exits"):
        view = daemon.agent_in(agent_id, "failed")
        # 0, 0.3, 0.3 s: three retries, then given up
        assert view["restart_count"] == 3, view
        assert view["pid"] is None and view["next_try"] is None
    assert time.monotonic() - begun >= 0.6
    assert daemon.agent("exits")["last_exit"]["code"] == 1
    assert "not executable" in daemon.agent("plain")["last_exit"]["reason"]
    assert "No such file" in daemon.agent("missing")["last_exit"]["reason"]
    assert daemon.agent("good")["status"] == "running"
    assert len(daemon.events("agent.failed")) == 3


def test_agents_with_their_own_user_reach_the_heartbeat_socket(daemon: Daemon) -> None:
    if os.geteuid() != 0:
        daemon.configure(sleeper("a", "user: nobody"))
        daemon.start()
        assert "root" in daemon.agent_in("a", "restarting")["last_exit"]["reason"]
        return
    beat = (
        "import json, os, socket, time\n"
        "s = socket.socket(socket.AF_UNIX); s.connect(os.environ['HOSTDAEMON_SOCKET'])\n"
        "while True:\n"
        "    s.sendall(json.dumps({'pid': os.getpid(), 'timestamp': '2026-11-20T10:00:00Z', 'version': '1.2.3',\n"
        "        'status': 'running', 'cpu': 1.5, 'memory': 4096}).encode())\n"
        "    time.sleep(0.2)\n"
    )
    script = daemon.root / "beat.py"
    script.write_text(beat)
    script.chmod(0o644)
    old_umask = os.umask(0o077)
    try:
        daemon.configure(
            f"  - {{id: a, type: custom, binary_path: /usr/bin/python3, args: ['{script}'], user: nobody,"
            " group: nogroup, umask: '027', limits: {nofile: 512}}\n"
        )
        daemon.start()
    finally:
        os.umask(old_umask)
    view = wait_for("a heartbeat", lambda: (v := daemon.agent("a"))["last_heartbeat"] and v)
    assert view["cpu_percent"] == 1.5 and view["memory_bytes"] == 4096 and view["version"] == "1.2.3"
    status = Path(f"/proc/{view['pid']}/status").read_text()
    assert "Uid:\t65534\t65534" in status and "Umask:\t0027" in status
    assert "Max open files            512" in Path(f"/proc/{view['pid']}/limits").read_text()
    owner = Path(view["work_dir"]).stat()
    assert owner.st_uid == 65534 and stat.S_IMODE(owner.st_mode) == 0o755


def test_an_agent_gets_a_small_explicit_environment_and_default_signals(daemon: Daemon) -> None:
    daemon.configure(shell("a", "exec sleep 1000000", "env: {MINE: 'x y'}"))
    daemon.start(NOTIFY_SOCKET="/tmp/none", WATCHDOG_USEC="1", LISTEN_FDS="1", GRPC_VERBOSITY="debug",
                 SECRET_OF_OURS="1")
    pid = daemon.agent_in("a", "running")["pid"]
    names = {e.partition(b"=")[0].decode() for e in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") if e}
    shells_own = {"PWD", "OLDPWD", "SHLVL", "_"}
    assert names - shells_own == {
        "PATH", "LANG", "HOME", "MINE", "HOSTDAEMON_AGENT_ID", "HOSTDAEMON_SOCKET", "HOSTDAEMON_RUN",
        "HOSTDAEMON_MARK",
    }
    status = Path(f"/proc/{pid}/status").read_text()
    for line in ("SigIgn:\t0000000000000000", "SigBlk:\t0000000000000000"):
        assert line in status
    assert os.readlink(f"/proc/{pid}/fd/0") == "/dev/null"
    assert sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2"]
    assert int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[3]) == pid  # its own session


def test_no_process_can_speak_for_another_agent_and_garbage_costs_nobody_anything(daemon: Daemon) -> None:
    daemon.configure(sleeper("a") + sleeper("b"))
    daemon.start()
    a = daemon.agent_in("a", "running")["pid"]
    path = str(daemon.work_dir / "run/heartbeat.sock")
    beat = json.dumps({"pid": a, "timestamp": "2026-11-20T10:00:00Z", "version": "9", "status": "running",
                       "cpu": 1, "memory": 1, "agent_id": "a"}).encode()
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(path)
        stranger.sendall(beat + b"\n")
        stranger.sendall(b"\x00\xff\xfe{{{\n" + b"x" * 100 + b"\n")
    with socket.socket(socket.AF_UNIX) as long_one:
        long_one.connect(path)
        try:
            long_one.sendall(b"y" * 1_000_000)
        except (BrokenPipeError, ConnectionResetError):
            pass
    assert daemon.agent("a")["last_heartbeat"] is None
    metrics = daemon.get("/metrics")
    [line] = [x for x in metrics.splitlines()
              if x.startswith('hostdaemon_heartbeats_refused_total{receiver="socket"}')]
    assert float(line.split()[-1]) >= 3
    status, body = daemon.request("POST", "/heartbeat", json.dumps(
        {"agent_id": "b", "pid": a, "status": "running", "cpu": 1, "memory": 1}).encode())
    assert status == 403 and body["success"] is False
    status, body = daemon.request("POST", "/heartbeat", json.dumps(
        {"agent_id": "a", "pid": a, "status": "running", "cpu": 1, "memory": 1}).encode())
    assert status == 200 and body["success"] is True
    wait_for("the heartbeat", lambda: daemon.agent("a")["last_heartbeat"])


def test_the_installed_command_runs_from_any_directory(daemon: Daemon) -> None:
    daemon.configure(sleeper("a"))
    (daemon.root / "tap.cfg").write_text("[hostdaemon]\nconfig = daemon.yaml\n")
    done = subprocess.run(
        [str(Path(sys.executable).with_name("twistd")), "-n", "hostdaemon", "--check"],
        cwd=daemon.root, capture_output=True, text=True, timeout=30, check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "1 agents" in done.stdout


def test_a_version_command_runs_as_the_agents_user(daemon: Daemon) -> None:
    """Its binary may be writable for that user, who must not become root by it."""
    if os.geteuid() != 0:
        return
    binary = daemon.root / "agent"
    binary.write_text('#!/bin/sh\n[ "$1" = --version ] && { echo "version 1.$(id -u).0"; exit; }\nexec sleep 1000000\n')
    binary.chmod(0o755)
    daemon.configure(
        f"  - {{id: a, type: custom, binary_path: {binary}, user: nobody, start_seconds: 100ms,"
        f" version_command: [{binary}, --version]}}\n"
    )
    daemon.start()
    assert wait_for("a version", lambda: daemon.agent("a")["version"]) == "1.65534.0"


def test_a_daemonised_daemon_makes_folders_that_agents_reach(daemon: Daemon) -> None:
    user = "user: nobody" if os.geteuid() == 0 else "enabled: true"
    daemon.configure(sleeper("a", user, f"work_dir: {daemon.root}/deep/er/a"))
    daemon.start(options=())
    daemon.agent_in("a", "running")
    for path in ("deep", "deep/er", "deep/er/a"):
        assert stat.S_IMODE((daemon.root / path).stat().st_mode) == 0o755
    log = daemon.work_dir / "logs/a/agent.log"
    assert stat.S_IMODE(log.stat().st_mode) == 0o640
    assert stat.S_IMODE(log.parent.stat().st_mode) == 0o750
