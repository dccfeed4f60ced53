"""The daemon's own life: what it says at start, what it shrugs off, how it leaves."""

from __future__ import annotations

import os
import signal
import socket
import urllib.request

from tests.system.harness import ROOT, Daemon, sleeper, wait_for


def test_small_misfortunes_at_start_are_said_and_cost_nothing_else(daemon: Daemon) -> None:
    daemon.configure(
        sleeper("a") + sleeper("b", f"socket_path: {daemon.root}/no/such/folder/b.sock"),
        daemon="control_group: no-such-group",
    )
    text = daemon.config.read_text().replace('pid_file: ""', f"pid_file: {daemon.root}/no/such/folder/d.pid")
    daemon.config.write_text(text)
    daemon.start()
    for agent_id in "ab":
        daemon.agent_in(agent_id, "running")
    log = daemon.log_text()
    for word in ("D1002 daemon.control_group", "no-such-group", "pid_file", "information only",
                 "D1003", "no/such/folder/b.sock", "the other sockets are listened to"):
        assert word in log
    assert [e["data"]["code"] for e in daemon.events("daemon.socket_failed")] == ["D1003"]
    assert "Traceback" not in log


def test_a_hang_up_ends_nobody(daemon: Daemon) -> None:
    daemon.configure(sleeper("a"))
    daemon.start()
    os.kill(daemon.pid, signal.SIGHUP)
    wait_for("the answer", lambda: "SIGHUP" in daemon.log_text())
    assert daemon.agent_in("a", "running")


def test_the_pid_file_is_written_and_taken_away(daemon: Daemon) -> None:
    pid_file = daemon.root / "d.pid"
    daemon.configure(sleeper("a"))
    daemon.config.write_text(daemon.config.read_text().replace('pid_file: ""', f"pid_file: {pid_file}"))
    daemon.start(options=())
    assert int(pid_file.read_text()) == daemon.pid == int((daemon.work_dir / "lock").read_text())
    daemon.terminate()
    wait_for("its removal", lambda: not pid_file.exists())
    log = daemon.log_text()
    assert "agents run on" in log and "Traceback" not in log


def test_a_clone_of_the_disk_gets_an_id_of_its_own(daemon: Daemon) -> None:
    daemon.configure(sleeper("a"))
    daemon.start()
    first = daemon.get("/v1/node")["node_id"]
    daemon.terminate()
    (daemon.work_dir / "node_id").write_text(f"{first}\n{'0' * 32}\n")
    daemon.start()
    second = daemon.get("/v1/node")["node_id"]
    assert second != first
    assert f"node id {first} is another's" in daemon.log_text()


def test_an_event_journal_that_cannot_be_used_leaves_events_in_memory(daemon: Daemon) -> None:
    daemon.configure(sleeper("a"))
    daemon.start()
    daemon.terminate()
    segments = list((daemon.work_dir / "state/events").iterdir())
    for segment in segments:
        segment.unlink()
        segment.mkdir()
    daemon.start()
    assert daemon.events("agent.adopted")
    assert "Traceback" not in daemon.log_text()


def test_ipv6_loopback_is_served_and_metrics_are_read(daemon: Daemon) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as probe:
        port = probe.getsockname()[1]
    daemon.configure(sleeper("a"), daemon=f'http_port: {port}\nhttp_host: "::1"')
    daemon.start()
    with urllib.request.urlopen(f"http://[::1]:{port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    for name in ("hostdaemon_heartbeats_accepted_total", "hostdaemon_log_lines_lost_total",
                 "hostdaemon_metadata_write_failures_total", "process_resident_memory_bytes"):
        assert name in text
    assert f"http http://[::1]:{port}" in daemon.log_text()


def test_a_fault_of_the_daemon_at_its_start_is_one_line_and_status_1(daemon: Daemon) -> None:
    daemon.configure(sleeper("a"))
    daemon.spawn(PYTHONPATH=_broken_boot(daemon))
    status, output = daemon.ended()
    assert status == 1
    assert output.strip().splitlines()[-1].startswith("hostdaemon: a fault of the daemon at its start")
    assert "Traceback" not in output


def _broken_boot(daemon: Daemon) -> str:
    """A path whose sitecustomize makes one step of the start fail as a bug would."""
    (daemon.root / "sitecustomize.py").write_text(
        "import daemon.agents.manager as m\n"
        "def broken(*args):\n    raise KeyError('a bug')\n"
        "m.MultiAgentManager.take_over = broken\n"
    )
    return f"{daemon.root}:{ROOT}"
