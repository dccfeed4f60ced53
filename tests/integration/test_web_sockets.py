"""The real listeners: TCP, and the control socket with its rights and its peers."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from daemon.errors import ErrorCode, ListenError
from daemon.web.peers import ControlPeer, may_control
from daemon.web.service import HttpService
from tests.fakes.control import TOKEN
from tests.integration.web_support import TIMEOUT_S, ServiceCase, free_port

STRANGER = 65534
GROUP = 54321
AS_ROOT = os.geteuid() == 0
SCRIPT = """
import socket, sys
s = socket.socket(socket.AF_UNIX); s.settimeout(20); s.connect(sys.argv[1])
s.sendall(b"GET /livez HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n")
sys.stdout.write(s.recv(65536).decode())
"""


def mode(path: str | Path) -> int:
    return Path(path).stat().st_mode & 0o7777


class ControlSocketTest(ServiceCase):
    async def open(self, **how: object) -> HttpService:
        service = self.make(**how)
        await service.open()
        return service

    async def fails(self, service: HttpService) -> ListenError:
        error = await self.assertFailure(Deferred.fromCoroutine(service.open()), ListenError)
        self.assertIs(error.code, ErrorCode.LISTEN)
        self.assertEqual(service.control_error, error.message)
        return error

    @property
    def directory(self) -> Path:
        return Path(self.control_path).parent

    async def test_the_socket_is_0660_in_a_directory_0700_whatever_the_umask(self) -> None:
        for umask in (0o000, 0o077, 0o777 & ~0o700):
            old = os.umask(umask)
            try:
                service = await self.open()
            finally:
                os.umask(old)
            self.assertEqual((mode(self.directory), mode(self.control_path)), (0o700, 0o660))
            await service.stopService()
            shutil.rmtree(self.directory)

    async def test_changes_pass_without_token_host_or_origin_and_name_their_peer(self) -> None:
        service = await self.open()
        self.assertEqual((service.control_error, service.tcp_error), ("", ""))
        reply = await self.ask("POST", "/v1/agents/web/start", local=True)
        self.assertEqual((reply.status, reply.json["id"]), (200, "web"))
        (event,) = [e for e in self.rig.bus.latest(10) if e.type == "operation"]
        self.assertEqual(event.data["peer"], f"uid {os.geteuid()} pid {os.getpid()}")

    async def test_stopping_removes_the_socket_and_a_new_service_opens_again(self) -> None:
        first = await self.open()
        await first.stopService()
        self.assertFalse(os.path.lexists(self.control_path))
        await self.open()
        self.assertEqual((await self.ask("GET", "/livez", local=True)).status, 200)

    async def test_a_stale_socket_is_replaced(self) -> None:
        self.directory.mkdir(mode=0o700)
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(self.control_path)
        await self.open()
        self.assertEqual((await self.ask("GET", "/livez", local=True)).status, 200)

    async def test_what_is_in_the_way_is_left_there_and_named(self) -> None:
        self.directory.mkdir(mode=0o700)
        Path(self.control_path).write_text("a file")
        self.assertIn("is not a socket", (await self.fails(self.make())).message)
        self.assertEqual(Path(self.control_path).read_text(), "a file")
        Path(self.control_path).unlink()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(self.control_path)
            other.listen()
            self.assertIn("another daemon listens", (await self.fails(self.make())).message)
        long = self.make(control_path=f"{self.folder}/{'x' * 120}")
        self.assertIn("must stay under 104", (await self.fails(long)).message)
        blocked = self.make(control_path=f"{self.folder}/file/control.sock")
        (self.folder / "file").touch()
        self.assertIn("file", (await self.fails(blocked)).message)

    async def test_a_socket_that_is_somebody_elses_by_now_is_not_removed(self) -> None:
        service = await self.open()
        Path(self.control_path).unlink()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(self.control_path)
            await service.stopService()
            self.assertTrue(Path(self.control_path).is_socket())

    async def test_a_socket_file_that_was_removed_does_not_hold_the_stop(self) -> None:
        service = await self.open()
        Path(self.control_path).unlink()
        await service.stopService()
        self.assertEqual(self.flushLoggedErrors(), [])

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            await deferLater(reactor, 0.005, lambda: None)  # type: ignore[arg-type]

    async def test_a_socket_file_or_its_directory_that_goes_is_bound_anew(self) -> None:
        service = await self.open()
        for gone in (self.directory / "control.sock", self.directory):
            gone.unlink() if gone.is_socket() else shutil.rmtree(gone)
            await self.until(lambda: os.path.lexists(self.control_path) and not service.control_error)
            self.assertEqual((mode(self.directory), mode(self.control_path)), (0o700, 0o660))
            self.assertEqual((await self.ask("GET", "/livez", local=True)).status, 200)
        told = [e.type for e in self.rig.bus.latest(10) if e.type.startswith("daemon.socket")]
        self.assertEqual(told, ["daemon.socket_restored"] * 2)

    async def test_what_stands_in_its_place_is_named_until_it_goes(self) -> None:
        service = await self.open()
        Path(self.control_path).unlink()
        Path(self.control_path).write_text("in the way")
        await self.until(lambda: "not a socket" in service.control_error)
        Path(self.control_path).unlink()
        await self.until(lambda: not service.control_error)
        self.assertEqual((await self.ask("GET", "/livez", local=True)).status, 200)

    async def test_a_directory_that_others_use_too_keeps_its_rights(self) -> None:
        for rights in (0o755, 0o711, 0o1777):
            shared = self.folder / f"shared-{rights:o}"
            shared.mkdir()
            shared.chmod(rights)
            self.control_path = str(shared / "control.sock")
            service = await self.open()
            self.assertEqual((mode(shared), mode(self.control_path)), (rights, 0o660))
            self.assertEqual((await self.ask("GET", "/livez", local=True)).status, 200)
            await service.stopService()

    async def test_a_control_group_opens_directory_and_socket_to_it(self) -> None:
        gid = GROUP if AS_ROOT else os.getegid()
        service = await self.open(control_gid=gid)
        self.assertEqual((mode(self.directory), mode(self.control_path)), (0o750, 0o660))
        self.assertEqual((self.directory.stat().st_gid, Path(self.control_path).stat().st_gid), (gid, gid))
        await service.stopService()
        await self.open()
        self.assertEqual(mode(self.directory), 0o700)

    async def test_a_directory_of_somebody_else_is_refused(self) -> None:
        if not AS_ROOT:
            self.assertFalse(may_control(ControlPeer(pid=1, uid=STRANGER, gid=STRANGER),
                                         own_uid=os.geteuid(), control_gid=None))
            return
        self.directory.mkdir()
        os.chown(self.directory, STRANGER, STRANGER)
        self.assertIn("belongs to another user", (await self.fails(self.make())).message)

    async def stranger(self, gid: int = STRANGER) -> str:
        """What another user hears on the socket."""
        curl = shutil.which("curl")
        if curl is not None:
            client = [curl, "-si", "--max-time", "20", "--unix-socket", self.control_path, "http://localhost/livez"]
        else:
            client = [sys.executable, "-c", SCRIPT, self.control_path]
        command = ["setpriv", f"--reuid={STRANGER}", f"--regid={gid}", "--clear-groups", "--", *client]
        done = await deferToThread(
            subprocess.run, command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, cwd="/"
        )
        return str(done.stdout)

    async def test_a_peer_of_another_user_is_refused_and_counted(self) -> None:
        stranger = ControlPeer(pid=1, uid=STRANGER, gid=STRANGER)
        self.assertFalse(may_control(stranger, own_uid=os.geteuid(), control_gid=None))
        if not AS_ROOT:
            return
        service = await self.open()
        self.assertEqual(await self.stranger(), "")  # the directory holds it off
        self.assertEqual(service.refused_total, 0)
        self.directory.chmod(0o755)
        Path(self.control_path).chmod(0o666)
        self.assertEqual(await self.stranger(), "")
        self.assertEqual(service.refused_total, 1)
        self.assertEqual((await self.ask("GET", "/livez", local=True)).status, 200)

    async def test_a_member_of_the_control_group_is_served(self) -> None:
        member = ControlPeer(pid=1, uid=STRANGER, gid=GROUP)
        self.assertTrue(may_control(member, own_uid=os.geteuid(), control_gid=GROUP))
        if not AS_ROOT:
            return
        service = await self.open(control_gid=GROUP)
        self.assertEqual(await self.stranger(), "")
        self.assertIn("200 OK", await self.stranger(GROUP))
        self.assertEqual(service.refused_total, 0)


class TcpTest(ServiceCase):
    async def test_reading_is_free_and_changes_need_the_token(self) -> None:
        service = self.make(port=free_port())
        self.assertEqual(service.tcp_error, "not listening yet")
        await service.open()
        self.assertEqual((await self.ask("GET", "/v1/agents", host="127.0.0.1")).status, 200)
        self.assertEqual((await self.ask("POST", "/v1/agents/web/start", host="127.0.0.1")).status, 401)
        reply = await self.ask("POST", "/v1/agents/web/start", host="127.0.0.1", token=TOKEN)
        self.assertEqual(reply.status, 200)

    async def test_port_0_listens_nowhere_but_on_the_control_socket(self) -> None:
        service = self.make()
        await service.open()
        self.assertEqual((service.tcp_port, service.tcp_error), (0, ""))
        self.assertEqual((await self.ask("GET", "/livez", local=True)).status, 200)

    async def test_ipv6_loopback_is_served(self) -> None:
        service = self.make(port=free_port(), host="::1")
        await service.open()
        self.assertEqual((await self.ask("GET", "/livez", host="::1")).status, 200)

    async def test_a_port_in_use_or_an_address_of_others_is_d1003_and_the_control_socket_serves(self) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            for host, words in (("127.0.0.1", "Address already in use"), ("192.0.2.1", "Cannot assign")):
                service = self.make(port=taken.getsockname()[1], host=host)
                error = await self.assertFailure(Deferred.fromCoroutine(service.open()), ListenError)
                self.assertIn(words, error.message)
                self.assertIn("change daemon.http_port", error.message)
                self.assertEqual((service.tcp_error, service.control_error), (error.message, ""))
                self.assertEqual((await self.ask("GET", "/livez", local=True)).status, 200)
                await service.stopService()

    async def test_a_crowd_on_tcp_is_turned_away_and_does_not_shut_the_control_socket(self) -> None:
        service = self.make(port=free_port(), connections_max=3)
        await service.open()
        crowd = [socket.create_connection(("127.0.0.1", self.port), 5) for _ in range(5)]
        try:
            await self.until(lambda: service.refused_total == 2)
            self.assertEqual((await self.ask("GET", "/livez", local=True)).status, 200)
            for each in crowd:
                each.close()
            await self.until(lambda: not service._channels)
            self.assertEqual((await self.ask("GET", "/livez", host="127.0.0.1")).status, 200)
        finally:
            for each in crowd:
                each.close()

    async def test_stopping_closes_open_connections_and_streams(self) -> None:
        service = self.make(port=free_port())
        await service.open()
        with socket.create_connection(("127.0.0.1", self.port), TIMEOUT_S) as client:
            client.sendall(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await self.until(lambda: bool(self.rig.api._streams))
            await service.stopService()
            data = await deferToThread(self.read_all, client)
        self.assertTrue(data.endswith(b"0\r\n\r\n"))
        self.assertEqual(self.rig.bus._observers, {})

    async def test_a_client_of_a_stream_that_leaves_is_forgotten(self) -> None:
        service = self.make(port=free_port())
        await service.open()
        client = socket.create_connection(("127.0.0.1", self.port), TIMEOUT_S)
        client.sendall(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await self.until(lambda: bool(self.rig.api._streams))
        client.close()
        await self.until(lambda: not self.rig.api._streams)
        self.assertEqual(self.rig.bus._observers, {})
        self.assertEqual(self.flushLoggedErrors(), [])

    @staticmethod
    def read_all(client: socket.socket) -> bytes:
        data = b""
        while part := client.recv(65536):
            data += part
        return data

    async def until(self, condition: object) -> None:
        """Turns of the reactor until it is so; the test's timeout bounds the wait."""
        while not condition():  # type: ignore[operator]  # a callable
            await deferLater(reactor, 0.01)
