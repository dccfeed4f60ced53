"""What a service manager hears of a real daemon, by a socket that plays systemd's part."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import pytest

from tests.system.harness import Daemon, alive, sleeper, wait_for


class Systemd:
    """Keeps what it is told: the datagrams, how many pings of the watchdog came, and each time that was set for it.

    Attributes:
        said: datagrams, but for those of the watchdog alone.
        pings: of the watchdog.
        watchdog_us: what the watchdog's time was set to, in order.
    """

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(str(path))
        self.said: list[dict[str, str]] = []
        self.pings = 0
        self.watchdog_us: list[int] = []

    def hear(self) -> list[dict[str, str]]:
        """Takes what came meanwhile; everything said until now."""
        while True:
            try:
                text = self._socket.recv(4096).decode()
            except BlockingIOError:
                return self.said
            told = dict(line.split("=", 1) for line in text.split("\n"))
            if "WATCHDOG_USEC" in told:
                self.watchdog_us.append(int(told["WATCHDOG_USEC"]))
            self.pings += "WATCHDOG" in told
            if not set(told) <= {"WATCHDOG", "WATCHDOG_USEC"}:
                self.said.append(told)

    def status(self) -> str:
        """The line of ``systemctl status``."""
        return [told["STATUS"] for told in self.hear() if "STATUS" in told][-1]

    def close(self) -> None:
        self._socket.close()


def test_start_reload_watchdog_and_stop_are_told(daemon: Daemon) -> None:
    path = daemon.root / "notify"
    systemd = Systemd(path)
    try:
        daemon.configure(sleeper("a"))
        daemon.start(NOTIFY_SOCKET=str(path), WATCHDOG_USEC="200000")
        ready = wait_for("READY", systemd.hear)[0]
        assert ready == {"READY": "1", "STATUS": ready["STATUS"], "MAINPID": str(daemon.pid)}
        assert "of 1 agents run" in ready["STATUS"]
        wait_for("the agent in the status", lambda: systemd.hear()[-1] == {"STATUS": "1 of 1 agents run, 0 unhealthy"})
        del systemd.said[1:]
        wait_for("pings of the watchdog", lambda: systemd.hear() and systemd.pings >= 3)

        before_us = time.monotonic_ns() // 1000
        os.kill(daemon.pid, signal.SIGHUP)  # ExecReload
        wait_for("the end of the reload", lambda: len(systemd.hear()) >= 3)
        reloading, again = systemd.said[1:3]
        assert set(reloading) == {"RELOADING", "MONOTONIC_USEC"}
        assert before_us <= int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
        assert again["READY"] == "1"

        well = again["STATUS"]
        good = daemon.config.read_text()
        daemon.config.write_text("agents: [{id: a}]\n")
        os.kill(daemon.pid, signal.SIGHUP)
        wait_for("the refusal in the status", lambda: "; the configuration stays as it was: D1002" in systemd.status())
        daemon.config.write_text(good)
        wait_for("the status without it", lambda: systemd.status() == well)

        agent = daemon.agent_in("a", "running")["pid"]
        daemon.terminate()
        assert systemd.hear()[-1] == {"STOPPING": "1", "STATUS": "stopping; agents run on"}
        states = [state for told in systemd.said for state in ("READY", "RELOADING", "STOPPING") if state in told]
        assert states == ["READY", *["RELOADING", "READY"] * ((len(states) - 2) // 2), "STOPPING"]
        assert systemd.watchdog_us == [200000]
        assert alive(agent)
    finally:
        systemd.close()


def test_a_daemon_that_stands_still_feeds_no_watchdog(daemon: Daemon) -> None:
    path = daemon.root / "notify"
    systemd = Systemd(path)
    try:
        daemon.configure(sleeper("a"))
        daemon.start(NOTIFY_SOCKET=str(path), WATCHDOG_USEC="200000")
        wait_for("the agent in the status", lambda: systemd.hear()[-1] == {"STATUS": "1 of 1 agents run, 0 unhealthy"})
        del systemd.said[1:]
        wait_for("pings of the watchdog", lambda: systemd.hear() and systemd.pings >= 1)
        os.kill(daemon.pid, signal.SIGSTOP)
        try:
            wait_for("it stands", lambda: Path(f"/proc/{daemon.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
            systemd.hear()
            pings = systemd.pings
            time.sleep(0.5)
            systemd.hear()
            assert systemd.pings == pings
        finally:
            os.kill(daemon.pid, signal.SIGCONT)
        wait_for("pings again", lambda: systemd.hear() and systemd.pings > pings)
    finally:
        systemd.close()


@pytest.mark.parametrize("where", ["nobody", "vsock:2:1"])
def test_a_service_manager_that_does_not_hear_costs_nothing(daemon: Daemon, where: str) -> None:
    daemon.configure(sleeper("a"))
    daemon.start(NOTIFY_SOCKET=str(daemon.root / "nobody") if where == "nobody" else where)
    daemon.agent_in("a", "running")
    wait_for("the warning", lambda: "the service manager does not hear us" in daemon.log_text())
    daemon.terminate()
    assert daemon.log_text().count("the service manager does not hear us") == 1
