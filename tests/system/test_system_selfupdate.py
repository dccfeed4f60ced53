"""A daemon that updates itself: the new version runs with the same agents, or the old one is back with them."""

from __future__ import annotations

import http.client
import os
import random
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

import daemon.rpc  # noqa: F401 - sets what grpc reads at its import
from daemon.rpc.pb import daemon_pb2, daemon_pb2_grpc
from tests.system import bundles
from tests.system.bundles import Endless, Installed, Traffic
from tests.system.harness import alive, sleeper, wait_for
from tests.system.test_system_grpc import free_port
from tests.system.test_system_notify import Systemd

TIMEOUT_S = 15.0
UPDATE = f"update: {{verify_period: 1s, verify_timeout: {TIMEOUT_S:g}s}}\n"
LATE_S = 3.0  # a busy host of two processors


def running(daemon: Installed, listen: str = "", **options: Any) -> dict[str, int]:
    """Starts version 1.0.0 with two agents; their pids."""
    daemon.configure(sleeper("a") + sleeper("b"), daemon=listen, rest=UPDATE)
    daemon.start(**options)
    assert daemon.version() == "1.0.0"
    return pids(daemon)


def pids(daemon: Installed) -> dict[str, int]:
    return {agent_id: daemon.agent_in(agent_id, "running")["pid"] for agent_id in ("a", "b")}


def same_as_before(daemon: Installed, before: dict[str, int], version: str) -> None:
    """That version runs, is the current one and has the same agents; nobody watches any more."""
    wait_for("the daemon", lambda: reachable(daemon))
    assert daemon.version() == version
    assert daemon.current() == f"versions/{version}"
    assert pids(daemon) == before, daemon.log_text()[-4000:]
    wait_for("the watcher's end", lambda: not daemon.watchers())
    assert list(daemon.work_dir.glob("state/before-*")) == []


def reachable(daemon: Installed) -> bool:
    try:
        return daemon.request("GET", "/readyz")[0] == 200
    except (OSError, http.client.HTTPException):
        return False


def runs(daemon: Installed, version: str) -> bool:
    """Whether that version answers; whoever is asked may just be leaving."""
    try:
        return reachable(daemon) and daemon.version() == version
    except (OSError, http.client.HTTPException, AssertionError):
        return False


# ------------------------------------------------------------------------------------------ it goes well

def test_the_new_version_takes_over_in_the_same_process_while_requests_go_on(installed: Installed) -> None:
    port, grpc_port = free_port(), free_port()
    before = running(installed, f"http_port: {port}\ngrpc_port: {grpc_port}")
    pid = installed.pid
    (installed.at / "bin" / "twistd").write_text(
        (installed.at / "bin" / "twistd").read_text() + "\n# of an older version\n"
    )
    with Traffic(installed, port) as traffic, Beats(installed, before["a"]), Calls(grpc_port) as calls:
        installed.update(installed.package("u1", "2.0.0"))
        wait_for("version 2.0.0", lambda: runs(installed, "2.0.0"))
        found = installed.settled()
        answered, on_port, over_grpc = traffic.answered, traffic.answered_on_port, calls.answered
        wait_for("requests that are answered", lambda: traffic.answered > answered + 10)
        wait_for("requests that are answered on the port", lambda: traffic.answered_on_port > on_port + 10)
        wait_for("calls that are answered", lambda: calls.answered > over_grpc + 10)
    assert (found["state"], found["old"], found["new"]) == ("confirmed", "1.0.0", "2.0.0")
    assert found["env"] == {}
    assert (traffic.odd, calls.odd) == ([], [])
    assert min(answered, on_port, over_grpc) > 0
    same_as_before(installed, before, "2.0.0")
    assert installed.pid == pid
    assert {each["type"] for each in installed.events("daemon.updated")} == {"daemon.updated"}
    assert installed.answer("outcome", None, "u1")["kind"] == "confirmed"
    assert installed.answer("verify", {**job_without_files("u1", "2.0.0")})["version"] == "2.0.0"
    wait_for("the launcher of 2.0.0", lambda: "of an older version" not in
             (installed.at / "bin" / "twistd").read_text())
    # Its next start is an ordinary one, and the lock was not left with anybody.
    installed.terminate()
    installed.start()
    same_as_before(installed, before, "2.0.0")


def test_a_daemonised_one_goes_forth_and_on_request_back(installed: Installed) -> None:
    before = running(installed, options=())
    pid = installed.pid
    installed.update(installed.package("u1", "2.0.0"))
    assert installed.settled()["state"] == "confirmed"
    same_as_before(installed, before, "2.0.0")
    assert installed.pid == pid
    for each in (1, 2):
        assert os.readlink(f"/proc/{pid}/fd/{each}") == "/dev/null"

    back = installed.answer("previous")
    assert (back["version"], back["old_version"]) == ("1.0.0", "2.0.0")
    installed.update(job_without_files("u2", "1.0.0"))
    found = wait_for("the way back", lambda: installed.record()["id"] == "u2" and installed.settled())
    assert found["state"] == "confirmed"
    same_as_before(installed, before, "1.0.0")
    assert installed.pid == pid
    assert installed.answer("previous")["version"] == "2.0.0"


def job_without_files(update_id: str, version: str) -> dict[str, Any]:
    return {"id": update_id, "version": version, "old_version": "", "folder": "/nonexistent", "files": {}}


class Calls(Endless):
    """gRPC without end on one channel."""

    def __init__(self, port: int) -> None:
        self.answered = 0
        self.odd: list[str] = []
        self._port = port
        super().__init__()

    def _run(self) -> None:
        options = [("grpc.max_reconnect_backoff_ms", 200), ("grpc.initial_reconnect_backoff_ms", 50)]
        with grpc.insecure_channel(f"127.0.0.1:{self._port}", options) as channel:
            stub = daemon_pb2_grpc.DaemonServiceStub(channel)
            while not self._stop.is_set():
                try:
                    self.answered += len(stub.ListAgents(daemon_pb2.ListAgentsRequest(), timeout=5).agents) == 2
                except grpc.RpcError as error:
                    code = error.code()  # type: ignore[attr-defined]
                    if code not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                        self.odd.append(str(error))
                    time.sleep(0.02)


class Beats(Endless):
    """Heartbeats on the socket, from the pid of an agent; nobody answers them, and nothing may break."""

    def __init__(self, daemon: Installed, pid: int) -> None:
        self._path = str(daemon.work_dir / "run" / "heartbeat.sock")
        self._pid = pid
        super().__init__()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with socket.socket(socket.AF_UNIX) as out:
                    out.connect(self._path)
                    for _each in range(20):
                        out.sendall(b'{"agent_id":"a","pid":%d,"status":"running"}\n' % self._pid)
                        time.sleep(0.005)
            except OSError:
                time.sleep(0.01)


# ------------------------------------------------------------------------------------------ it does not

@pytest.mark.parametrize("why", ["CRASHES_AT_IMPORT", pytest.param("REFUSES_CONFIG", marks=pytest.mark.slow)])
def test_what_would_not_run_is_found_before_anything_is_changed(installed: Installed, why: str) -> None:
    before = running(installed)
    job = installed.package("u1", "2.0.0", getattr(bundles, why))
    installed.answer("plan", job)
    said = installed.refused("preflight", job)
    assert "D4003 version 2.0.0 would not run here" in said
    assert ("no_such_library" if why == "CRASHES_AT_IMPORT" else "it dislikes the configuration") in said
    installed.answer("discard", job)
    assert [path.name for path in (installed.at / "versions").iterdir()] == ["1.0.0"]
    assert installed.record() == {}
    same_as_before(installed, before, "1.0.0")


def goes_back(daemon: Installed, before: dict[str, int], changes: Any) -> dict[str, Any]:
    """Updates to an ill version; the record of what came of it."""
    job = daemon.package("u1", "2.0.0", changes)
    daemon.answer("plan", job)
    daemon.answer("preflight", job)
    begun = time.monotonic()
    daemon.ask("apply", job)
    found = daemon.settled(TIMEOUT_S + LATE_S + 10)
    assert time.monotonic() - begun < TIMEOUT_S + LATE_S
    assert found["state"] == "rolled_back"
    same_as_before(daemon, before, "1.0.0")
    outcome = daemon.answer("outcome", None, "u1")
    assert (outcome["kind"], outcome["reason"]) == ("rolled_back", found["reason"])
    assert [each["data"]["new_version"] for each in daemon.events("daemon.rolled_back")] == ["2.0.0"]
    assert daemon.answer("roll_back", job_without_files("u1", "2.0.0"))["version"] == "1.0.0"
    return found


def test_a_version_that_cannot_start_gives_way_to_the_old_one_and_says_why(installed: Installed) -> None:
    before = running(installed)
    with Traffic(installed) as traffic:
        found = goes_back(installed, before, bundles.CRASHES_AFTER_CHECK)
    assert found["by"] == "watcher"
    assert "exited with status 1" in found["reason"]
    assert found["evidence"]["code"] == 1
    assert any("no_such_library" in line for line in found["evidence"]["last_lines"])
    assert traffic.odd == []


ILL = {
    "cannot start": (bundles.CRASHES_AFTER_CHECK, "exited with status 1"),
    "cannot load the configuration": (bundles.CANNOT_LOAD, "exited with status 1"),
    "hangs": (bundles.HANGS, "not proven itself in time"),
    "hangs and is deaf": (bundles.HANGS_DEAF, "not proven itself in time"),
    "dies soon": (bundles.DIES_SOON, "exited with status 3"),
    "is never ready": (bundles.NEVER_READY, "config: it never is"),
    "writes a newer schema": (bundles.NEWER_SCHEMA, "exited with status 3"),
}


@pytest.mark.slow
@pytest.mark.parametrize("daemonised", [False, True], ids=["-n", "daemonised"])
@pytest.mark.parametrize("ill", ILL)
def test_every_ill_version_gives_way_to_the_old_one(installed: Installed, ill: str, daemonised: bool) -> None:
    changes, reason = ILL[ill]
    before = running(installed, options=() if daemonised else ("-n",))
    with Traffic(installed) as traffic:
        found = goes_back(installed, before, changes)
    assert reason in found["reason"]
    assert traffic.odd == []
    if ill == "cannot start":  # also where its stderr leads nowhere
        assert any("no_such_library" in line for line in found["evidence"]["last_lines"])
    if ill == "writes a newer schema":
        assert len(installed.events("agent.metadata_newer")) == 2
        assert (installed.work_dir / "state/agents/a.json.newer").exists()


@pytest.mark.slow
def test_a_version_that_does_not_leave_agents_alone_is_taken_back(installed: Installed) -> None:
    running(installed)
    installed.update(installed.package("u1", "2.0.0", bundles.RESTARTS_AGENTS))
    found = installed.settled()
    assert (found["state"], found["by"]) == ("rolled_back", "daemon")
    assert "agents did not outlive the switch" in found["reason"]
    assert set(found["evidence"]["lost"]) == {"a", "b"}
    wait_for("1.0.0", lambda: runs(installed, "1.0.0"))


@pytest.mark.slow
def test_an_agent_that_ends_by_itself_is_not_held_against_the_new_version(installed: Installed) -> None:
    before = running(installed)
    installed.update(installed.package("u1", "2.0.0"))
    wait_for("version 2.0.0", lambda: runs(installed, "2.0.0"))
    os.kill(before["a"], signal.SIGKILL)
    found = installed.settled()
    assert found["state"] == "confirmed"
    assert pids(installed)["b"] == before["b"]


@pytest.mark.slow
def test_an_operator_who_stops_the_daemon_meanwhile_gets_it_stopped(installed: Installed) -> None:
    before = running(installed)
    installed.update(installed.package("u1", "2.0.0", bundles.NEVER_READY))
    wait_for("version 2.0.0", lambda: "2.0.0 is on probation" in installed.log_text())
    assert "not confirmed yet" in installed.answer("refusal")
    installed.signal(signal.SIGTERM)
    wait_for("the watcher's end", lambda: not installed.watchers())
    found = installed.record()
    assert (found["state"], found["stopping"], found["by"]) == ("rolled_back", True, "watcher")
    assert not reachable(installed)
    assert all(alive(pid) for pid in before.values())
    installed.start()
    same_as_before(installed, before, "1.0.0")


@pytest.mark.slow
def test_an_operator_who_stops_the_daemon_while_it_gives_way_gets_it_stopped(root: Path) -> None:
    installed = Installed(root)
    installed.install(changes=bundles.LEAVES_SLOWLY)
    try:
        before = running(installed)
        installed.update(installed.package("u1", "2.0.0"))
        wait_for("the way out", lambda: "giving way" in installed.log_text())
        installed.signal(signal.SIGTERM)
        wait_for("the watcher's end", lambda: not installed.watchers())
        found = installed.record()
        assert (found["state"], found["stopping"], found["by"]) == ("rolled_back", True, "daemon")
        assert not reachable(installed)
        assert "Traceback" not in installed.log_text()
        installed.start()
        same_as_before(installed, before, "1.0.0")
    finally:
        installed.clean_up()


# ------------------------------------------------------------------------------------------ under a service manager

class Supervisor:
    """Starts ``bin/twistd`` whenever it is gone, and hears what it says, as systemd does."""

    def __init__(self, daemon: Installed) -> None:
        self.starts = 0
        self.systemd = Systemd(daemon.root / "notify")
        self._daemon = daemon
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Supervisor:
        self._thread.start()
        return self

    def _run(self) -> None:
        while not self._stop.is_set():
            self._daemon.spawn(NOTIFY_SOCKET=str(self._daemon.root / "notify"), WATCHDOG_USEC="60000000")
            self.starts += 1
            process = self._daemon.process
            assert process is not None
            while process.poll() is None and not self._stop.is_set():
                time.sleep(0.02)

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        self._thread.join(20)
        self.systemd.close()


def supervised(daemon: Installed) -> dict[str, int]:
    wait_for("the daemon", lambda: reachable(daemon))
    assert daemon.version() == "1.0.0"
    return pids(daemon)


def test_a_service_manager_hears_of_the_switch_in_the_process_it_started(installed: Installed) -> None:
    installed.configure(sleeper("a") + sleeper("b"), rest=UPDATE)
    with Supervisor(installed) as supervisor:
        before = supervised(installed)
        installed.update(installed.package("u1", "2.0.0"))
        assert installed.settled()["state"] == "confirmed"
        same_as_before(installed, before, "2.0.0")
        pid = installed.pid
        states = {"READY", "RELOADING", "STOPPING"}
        said = wait_for("READY of 2.0.0", lambda: len(
            told := [each for each in supervisor.systemd.hear() if states & set(each)]
        ) >= 3 and told)
        assert [sorted(set(each) & states) for each in said] == [["READY"], ["RELOADING"], ["READY"]]
        assert "giving way to version 2.0.0" in said[1]["STATUS"]
        # 2.0.0 has more time to start than the watchdog leaves a loop that stands, and says when that is over.
        assert supervisor.systemd.watchdog_us == [60_000_000, 90_000_000, 60_000_000]
        assert said[0]["MAINPID"] == said[2]["MAINPID"] == str(pid)
        assert supervisor.starts == 1


@pytest.mark.slow
@pytest.mark.parametrize("ill", ILL)
def test_every_ill_version_under_a_service_manager(installed: Installed, ill: str) -> None:
    installed.configure(sleeper("a") + sleeper("b"), rest=UPDATE)
    with Supervisor(installed) as supervisor:
        before = supervised(installed)
        goes_back(installed, before, ILL[ill][0])
        assert supervisor.starts == (1 if ill == "is never ready" else 2)


# ------------------------------------------------------------------------------------------ kill -9

STEPS_OF_THE_OLD = ("staged", "placed", "probation", "watched", "flipped", "left")
STEPS_OF_THE_NEW = ("proven", "confirmed")


def after_a_crash(daemon: Installed, before: dict[str, int]) -> str:
    """Whatever was killed: the daemon runs by itself, or after the next start; which version."""
    end = time.monotonic() + TIMEOUT_S + LATE_S + 40
    while not (reachable(daemon) and (daemon.record().get("settled") or daemon.record() == {})):
        assert time.monotonic() < end, daemon.log_text()[-2000:]
        nobody = daemon.process is None or daemon.process.poll() is not None
        if nobody and not daemon.watchers() and not reachable(daemon):
            daemon.process = None
            daemon.spawn()
            wait_for("the next start", lambda: reachable(daemon), 40)
        time.sleep(0.05)
    version = daemon.version()
    same_as_before(daemon, before, version)
    assert daemon.answer("outcome", None, "u1")["kind"] in ("none", "confirmed", "rolled_back")
    daemon.answer("prune", job_without_files("u1", "2.0.0"), 5)
    assert not [path for path in (daemon.at / "versions").iterdir() if path.name.startswith(".")]
    return version


def crash_at(daemon: Installed, fault: str, changes: Any = bundles.GOOD) -> str:
    before = running(daemon, fault=fault)
    job = daemon.package("u1", "2.0.0", changes)
    daemon.answer("plan", job)
    daemon.ask("preflight", job)
    wait_for("preflight", lambda: (daemon.at / "versions" / "2.0.0").exists() or daemon.process.poll() is not None)
    if daemon.process is not None and daemon.process.poll() is None:
        wait_for("the answer", lambda: (daemon.hook / "answer-1.json").exists() or daemon.process.poll() is not None)
    if daemon.process is not None and daemon.process.poll() is None:
        daemon.ask("apply", job)
        wait_for("the record", lambda: daemon.record() != {})
    return after_a_crash(daemon, before)


def test_killed_between_the_switch_and_the_exec_the_old_version_comes_back(installed: Installed) -> None:
    assert crash_at(installed, "update.daemon.flipped:1") == "1.0.0"
    assert installed.record()["evidence"]["signal"] == 9


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS_OF_THE_OLD)
def test_killed_at_any_step_of_the_old_version(installed: Installed, step: str) -> None:
    assert crash_at(installed, f"update.daemon.{step}:1") == "1.0.0"


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS_OF_THE_NEW)
def test_killed_at_any_step_of_the_new_version(installed: Installed, step: str) -> None:
    assert crash_at(installed, f"update.daemon.{step}:1") == ("2.0.0" if step == "confirmed" else "1.0.0")


@pytest.mark.slow
@pytest.mark.parametrize("step", ["back", "turned", "start"])
def test_without_its_watcher_an_ill_version_is_taken_back_at_the_next_start(installed: Installed, step: str) -> None:
    assert crash_at(installed, f"update.watcher.{step}:1", bundles.DIES_SOON) == "1.0.0"


@pytest.mark.slow
def test_a_good_version_needs_no_watcher(installed: Installed) -> None:
    assert crash_at(installed, "update.watcher.begun:1") == "2.0.0"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_killed_at_a_random_moment(installed: Installed, seed: int) -> None:
    dice = random.Random(seed)
    before = running(installed)
    job = installed.package("u1", "2.0.0", dice.choice([bundles.GOOD, bundles.GOOD, bundles.DIES_SOON]))
    installed.answer("plan", job)
    installed.answer("preflight", job)
    installed.ask("apply", job)
    time.sleep(dice.uniform(0, 3))
    victims = [installed.pid, *installed.watchers()]
    for pid in dice.sample(victims, dice.randint(1, len(victims))):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    time.sleep(0.2)
    after_a_crash(installed, before)
