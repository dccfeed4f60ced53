"""sd_notify(3) against a socket of our own."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from pathlib import Path

from twisted.internet.task import Clock
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from daemon.aio.sdnotify import STATUS_DELAY_S, ServiceManager, watchdog_s


class NotifyTest(SynchronousTestCase):
    def setUp(self) -> None:
        self.root = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.root)
        self.clock = Clock()

    def listen(self, address: str) -> socket.socket:
        server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(server.close)
        server.bind("\0" + address[1:] if address.startswith("@") else address)
        server.setblocking(False)
        return server

    def manager(self, address: str, **more: str) -> tuple[ServiceManager, dict[str, str]]:
        environ = {"NOTIFY_SOCKET": address, "PATH": "/bin", **more}
        return ServiceManager(environ, self.clock, 42, lambda: 123456), environ

    def test_each_message_is_one_datagram_and_the_environment_is_clean(self) -> None:
        for address in (str(self.root / "notify"), f"@hostdaemon-{os.getpid()}"):
            server = self.listen(address)
            manager, environ = self.manager(address, WATCHDOG_USEC="10000000", WATCHDOG_PID="42")
            self.assertEqual(environ, {"PATH": "/bin"})
            manager.ready("2 agents\nrun", 42)
            manager.reloading()
            manager.stopping()
            found = [server.recv(4096).decode() for _ in range(3)]
            self.assertEqual(found, [
                "READY=1\nSTATUS=2 agents run\nMAINPID=42", "RELOADING=1\nMONOTONIC_USEC=123456",
                "STOPPING=1\nSTATUS=stopping; agents run on",
            ])

    def test_the_line_of_status_follows_what_it_tells_and_costs_nothing_at_rest(self) -> None:
        server = self.listen(str(self.root / "notify"))
        manager, _ = self.manager(str(self.root / "notify"))
        line = ["0 of 2 agents run"]
        manager.changed()  # before anybody has said what it is
        manager.ready(line[0], 42)
        manager.keep_status(lambda: line[0])
        line[0] = "1 of 2 agents run"
        manager.changed()
        line[0] = "2 of 2 agents run"
        manager.changed()
        self.clock.advance(STATUS_DELAY_S)
        manager.changed()
        self.clock.advance(STATUS_DELAY_S)
        self.assertEqual(server.recv(4096).decode(), "READY=1\nSTATUS=0 of 2 agents run\nMAINPID=42")
        self.assertEqual(server.recv(4096).decode(), "STATUS=2 of 2 agents run")
        self.assertRaises(BlockingIOError, server.recv, 100)
        manager.changed()
        manager.stopping()
        manager.changed()
        self.assertEqual(self.clock.getDelayedCalls(), [])
    def test_a_successor_in_this_process_gets_the_variables_and_the_watchdog_waits_for_it(self) -> None:
        server = self.listen(str(self.root / "notify"))
        manager, _ = self.manager(str(self.root / "notify"), WATCHDOG_USEC="10000000")
        self.assertEqual(
            manager.variables, {"NOTIFY_SOCKET": str(self.root / "notify"), "WATCHDOG_USEC": "10000000"}
        )
        manager.giving_way("2.0.0")
        self.assertEqual(
            server.recv(4096).decode(),
            "RELOADING=1\nMONOTONIC_USEC=123456\nWATCHDOG_USEC=90000000\nWATCHDOG=1\n"
            "STATUS=giving way to version 2.0.0; agents run on",
        )
        self.assertEqual(ServiceManager({}, self.clock, 42).variables, {})

    def test_a_watchdog_that_is_patient_enough_is_left_so_and_none_is_not_set(self) -> None:
        server = self.listen(str(self.root / "notify"))
        for usec, told in (("120000000", ["WATCHDOG_USEC=120000000"]), ("", [])):
            manager, _ = self.manager(str(self.root / "notify"), WATCHDOG_USEC=usec)
            manager.giving_way("2.0.0")
            lines = server.recv(4096).decode().split("\n")
            self.assertEqual([line for line in lines if line.startswith("WATCHDOG_USEC")], told)

    def test_the_watchdog_is_fed_twice_in_its_time_and_only_in_health(self) -> None:
        server = self.listen(str(self.root / "notify"))
        manager, _ = self.manager(str(self.root / "notify"), WATCHDOG_USEC="10000000", WATCHDOG_PID="42")
        well = [True]
        manager.feed_watchdog(lambda: well[0])
        manager.feed_watchdog(lambda: True)
        for _ in range(3):
            self.clock.advance(5)
        self.assertEqual(server.recv(100), b"WATCHDOG_USEC=10000000")  # the version before may have asked for more
        self.assertEqual([server.recv(100) for _ in range(4)], [b"WATCHDOG=1"] * 4)
        well[0] = False
        self.clock.advance(5)
        self.assertRaises(BlockingIOError, server.recv, 100)
        self.successResultOf(manager.stop())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_watchdog_of_another_process_or_nonsense_is_not_ours(self) -> None:
        for usec, pid in (
            ("10000000", "43"), ("soon", "42"), ("", "42"), ("-5", "42"), ("0", "42"), ("\u00b2", "42"),
            ("9" * 5000, "42"),
        ):
            manager, _ = self.manager(str(self.root / "notify"), WATCHDOG_USEC=usec, WATCHDOG_PID=pid)
            manager.feed_watchdog(lambda: True)
            self.assertEqual((manager.watchdog_s, self.clock.getDelayedCalls()), (0.0, []))

    def test_a_watchdog_without_a_pid_is_ours(self) -> None:
        self.assertEqual(watchdog_s("30000000", "", 42), 30.0)

    def test_a_watchdog_of_microseconds_does_not_eat_the_loop(self) -> None:
        server = self.listen(str(self.root / "notify"))
        manager, _ = self.manager(str(self.root / "notify"), WATCHDOG_USEC="1", WATCHDOG_PID="42")
        manager.feed_watchdog(lambda: True)
        self.clock.advance(0.009)
        self.assertEqual(server.recv(100), b"WATCHDOG_USEC=1")
        self.assertEqual(server.recv(100), b"WATCHDOG=1")
        self.assertRaises(BlockingIOError, server.recv, 100)
        self.successResultOf(manager.stop())

    def test_without_a_service_manager_nothing_happens(self) -> None:
        manager = ServiceManager({"WATCHDOG_USEC": "1000000"}, self.clock, 42)
        manager.ready("x", 1)
        manager.feed_watchdog(lambda: True)
        self.assertEqual((manager.present, manager.failures_total, self.clock.getDelayedCalls()), (False, 0, []))
        self.successResultOf(manager.stop())

    def test_a_socket_that_is_gone_or_full_is_counted_and_never_raises(self) -> None:
        said: list[str] = []
        globalLogPublisher.addObserver(observer := lambda event: said.append(formatEvent(event)))
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        for nobody in (str(self.root / "nobody"), "@hostdaemon-nobody", "vsock:2:1", "/" + "x" * 200):
            manager, _ = self.manager(nobody)
            for _ in range(3):
                manager.ready("x", 42)
            self.assertEqual(manager.failures_total, 3)
        self.assertEqual(len([line for line in said if "does not hear us" in line]), 4)
        self.listen(str(self.root / "full"))
        full, _ = self.manager(str(self.root / "full"))
        for _ in range(5000):
            full.ready("x" * 1000, 42)
            if full.failures_total:
                break
        self.assertGreater(full.failures_total, 0)
