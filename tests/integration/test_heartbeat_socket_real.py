"""The heartbeat socket with real sockets, real processes and a real reactor."""

from __future__ import annotations

import gc
import json
import os
import resource
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from daemon.aio.notify import InotifyNotifier
from daemon.errors import ListenError
from daemon.heartbeat.framing import MAX_LENGTH
from daemon.heartbeat.socket_receiver import HeartbeatReceiver
from tests.fakes.directory import FakeDirectory, FakeEvents, FakeTarget

FOREIGN_CLIENT = """
import os, socket, sys
if int(sys.argv[2]):
    os.setgroups([])
    os.setgid(int(sys.argv[2]))
    os.setuid(int(sys.argv[2]))
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
for line in sys.argv[3:]:
    s.sendall(line.replace("PID", str(os.getpid())).encode() + b"\\n")
"""
FLOOD = """
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
block = b'{"pid":1,"x":{}}' * 4000
print("flooding", flush=True)
while True:
    s.sendall(block)
"""


def beat(pid: int | None = None, **more: object) -> bytes:
    return json.dumps({"pid": os.getpid() if pid is None else pid, **more}).encode()


class RealSocketCase(TestCase):
    timeout = 30

    def setUp(self) -> None:
        folder = tempfile.mkdtemp(prefix="hb")
        self.addCleanup(shutil.rmtree, folder)
        self.folder = Path(folder)
        self.path = str(self.folder / "heartbeat.sock")
        self.mine = FakeTarget("mine", os.getpid())
        self.other = FakeTarget("other")
        self.directory = FakeDirectory(self.mine, self.other)
        self.events = FakeEvents()
        self.children: list[subprocess.Popen[str]] = []
        self.notifier = InotifyNotifier(reactor)  # type: ignore[arg-type]  # the global reactor is all of them
        self.addCleanup(self.notifier.stop)

    async def tearDown(self) -> None:
        for child in self.children:
            child.kill()
            child.communicate()

    async def receiver(self, *paths: str, **named: object) -> HeartbeatReceiver:
        receiver = HeartbeatReceiver(
            reactor, time.time, self.directory, self.events, paths or (self.path,),  # type: ignore[arg-type]
            notifier=self.notifier, **named,  # type: ignore[arg-type]
        )
        receiver.startService()
        self.addCleanup(receiver.stopService)
        await receiver.open()
        return receiver

    def client(self, path: str | None = None) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.setblocking(False)
        client.connect(path or self.path)
        self.addCleanup(client.close)
        return client

    def child(self, program: str, *arguments: str) -> subprocess.Popen[str]:
        child = subprocess.Popen([sys.executable, "-c", program, self.path, *arguments],
                                 stdout=subprocess.PIPE, text=True)
        self.children.append(child)
        return child

    async def until(self, condition: Callable[[], object]) -> None:
        """Lets the loop turn until something is so; the test's timeout bounds it."""
        while not condition():
            await deferLater(reactor, 0.005, lambda: None)

    async def send(self, client: socket.socket, data: bytes) -> None:
        """All of it, as fast as it is read."""
        while data:
            try:
                data = data[client.send(data) :]
            except BlockingIOError:
                await deferLater(reactor, 0.001, lambda: None)

    async def receive(self, client: socket.socket) -> bytes:
        """What comes until the other end closes."""
        received = b""
        while True:
            try:
                part = client.recv(65536)
            except BlockingIOError:
                await deferLater(reactor, 0.005, lambda: None)
                continue
            except ConnectionResetError:
                return received
            if not part:
                return received
            received += part


class PeersTest(RealSocketCase):
    async def test_a_heartbeat_arrives_by_every_way_of_writing_it(self) -> None:
        receiver = await self.receiver()
        client = self.client()
        whole = beat(status="running") + b"\n" + beat(status="running") + beat(status="running")
        for byte in whole:
            await self.send(client, bytes([byte]))
            if byte in b"}":
                await deferLater(reactor, 0, lambda: None)
        await self.until(lambda: len(self.mine.beats) == 3)
        self.assertEqual({item.status for item in self.mine.beats}, {"running"})
        self.assertEqual(receiver.stats().errors_total, {})

    async def test_the_kernel_says_who_speaks(self) -> None:
        receiver = await self.receiver()
        self.child(FOREIGN_CLIENT, "0", beat().decode(), beat(agent_id="mine").decode(), '{"pid":PID}')
        await self.until(lambda: receiver.stats().received_total == 3)
        self.assertEqual(self.mine.beats, [])
        self.assertEqual(receiver.stats().errors_total, {"stranger": 3})
        self.assertEqual([event.type for event in self.events.published], ["heartbeat.refused"])

    async def test_an_agent_of_another_user_reaches_the_socket_whatever_the_umask(self) -> None:
        before = os.umask(0o077)
        try:
            receiver = await self.receiver()
        finally:
            os.umask(before)
        self.assertEqual(stat.S_IMODE(Path(self.path).stat().st_mode), 0o666)
        if os.getuid() != 0:
            return  # nobody else to be
        self.folder.chmod(0o711)
        child = self.child(FOREIGN_CLIENT, "65534", '{"pid":PID,"status":"stopping"}')
        self.other.pids.add(child.pid)
        await self.until(lambda: receiver.stats().received_total)
        self.assertEqual([item.pid for item in self.other.beats], [child.pid])

    async def test_json_rpc_is_answered_even_after_a_half_close(self) -> None:
        await self.receiver()
        client = self.client()
        await self.send(client, b'{"jsonrpc":"2.0","id":1,"method":"ping"}')
        client.shutdown(socket.SHUT_WR)
        answer = json.loads(await self.receive(client))
        self.assertTrue(answer["result"]["success"])

    async def test_a_client_that_never_reads_its_answers_is_stopped_and_costs_little(self) -> None:
        receiver = await self.receiver()
        client = self.client()
        question = b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n' * 500
        sent = 0
        quiet_since = time.monotonic()
        while time.monotonic() - quiet_since < 0.3:
            try:
                sent += client.send(question)
                quiet_since = time.monotonic()
            except BlockingIOError:
                pass
            await deferLater(reactor, 0, lambda: None)
        self.assertLess(sent, 4 << 20)
        other = self.client()
        await self.send(other, beat())
        await self.until(lambda: self.mine.beats)
        client.close()
        await self.until(lambda: receiver.stats().connections == 1)


class HostileTest(RealSocketCase):
    async def test_garbage_costs_nobody_else_anything(self) -> None:
        receiver = await self.receiver()
        good = self.client()
        await self.send(good, beat())
        binary, long, half, endless = (self.client() for _ in range(4))
        await self.send(binary, bytes(range(256)) * 40 + b"\n")
        try:
            await self.send(long, b"x" * (1 << 20) + b"\n")
            await self.receive(long)
        except (BrokenPipeError, ConnectionResetError):
            pass
        await self.send(half, beat()[:5])
        half.close()
        await self.send(endless, b'{"pid":' + b"[" * (MAX_LENGTH - 10))
        await self.send(good, beat() + b"\n")
        await self.until(lambda: len(self.mine.beats) == 2 and receiver.stats().connections == 3)
        await self.send(binary, beat() + b"\n")
        await self.until(lambda: len(self.mine.beats) == 3)
        errors = receiver.stats().errors_total
        self.assertEqual((errors["too_long"], errors["truncated"]), (1, 1))

    async def test_a_thousand_connections_cost_little_and_keep_no_agent_out(self) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
        receiver = await self.receiver(connections_max=600)
        self.mine.pids.clear()  # all of these are strangers
        gc.collect()
        before = self.resident_bytes()
        crowd = []
        for _ in range(1000):
            client = self.client()
            crowd.append(client)
            await deferLater(reactor, 0, lambda: None)
            try:
                client.send(b'{"pid":1,"version":"' + b"x" * 8000)
            except (BrokenPipeError, ConnectionResetError):
                pass
        await self.until(lambda: receiver.stats().connections_total == 1000)
        stats = receiver.stats()
        self.assertEqual((stats.connections, stats.refused_total), (600, 400))
        self.assertLess(self.resident_bytes() - before, 40 << 20)
        self.other.pids.add(os.getpid())
        agent = self.client()
        await self.send(agent, beat())
        await self.until(lambda: self.other.beats)
        self.assertEqual(receiver.stats().connections, 600)
        for client in crowd:
            client.close()
        await self.until(lambda: receiver.stats().connections == 1)

    async def test_a_flooding_writer_starves_neither_the_loop_nor_others(self) -> None:
        receiver = await self.receiver()
        floods = [self.child(FLOOD) for _ in range(3)]
        await self.until(lambda: receiver.stats().connections == 3 and receiver.stats().received_total > 1000)
        self.other.pids.add(floods[0].pid)
        quiet = self.client()
        slowest = 0.0
        for count in range(1, 11):
            begun = time.monotonic()
            await self.send(quiet, beat())
            await self.until(lambda count=count: len(self.mine.beats) == count)
            slowest = max(slowest, time.monotonic() - begun)
        # Alone it is a matter of 5 ms; without shares three floods would hold each turn for far longer.
        self.assertLess(slowest, 1.0)
        self.assertEqual(receiver.stats().connections, 4)

    def resident_bytes(self) -> int:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * resource.getpagesize()


class ServiceTest(RealSocketCase):
    async def test_stop_closes_everything_and_removes_the_sockets(self) -> None:
        paths = [str(self.folder / name) for name in ("a", "b")]
        receiver = await self.receiver(*paths)
        client, idle = self.client(paths[1]), self.client(paths[0])
        await self.send(client, beat() * 50 + beat(status="stopping"))
        await receiver.stopService()
        self.assertEqual(len(self.mine.beats), 51)
        self.assertEqual(await self.receive(client), b"")
        self.assertEqual(await self.receive(idle), b"")
        self.assertEqual(list(self.folder.iterdir()), [])
        self.assertEqual((receiver.listening, receiver.stats().connections), ((), 0))

    async def test_stop_does_not_wait_for_a_client_that_never_reads(self) -> None:
        receiver = await self.receiver()
        client = self.client()
        await self.send(client, b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n' * 3000)
        await self.until(lambda: receiver.stats().received_total >= 100)
        await receiver.stopService()
        self.assertEqual(receiver.stats().connections, 0)

    async def test_a_second_daemon_is_told_and_the_first_goes_on(self) -> None:
        await self.receiver()
        second = HeartbeatReceiver(
            reactor, time.time, self.directory, self.events, [self.path], notifier=self.notifier,
        )
        with self.assertRaisesRegex(ListenError, "another daemon listens"):
            await second.open()
        await second.stopService()
        await self.send(self.client(), beat())
        await self.until(lambda: self.mine.beats)

    async def test_a_socket_left_by_a_killed_daemon_is_taken_over(self) -> None:
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(self.path)
        await self.receiver()
        await self.send(self.client(), beat())
        await self.until(lambda: self.mine.beats)

    async def test_one_bad_path_does_not_keep_the_others_from_being_listened_on(self) -> None:
        (self.folder / "file").touch()
        bad = str(self.folder / "file")
        receiver = HeartbeatReceiver(
            reactor, time.time, self.directory, self.events, [bad, self.path], notifier=self.notifier,
        )
        self.addCleanup(receiver.stopService)
        with self.assertRaises(ListenError) as caught:
            await receiver.open()
        self.assertEqual(caught.exception.details["paths"], [bad])
        self.assertEqual(receiver.listening, (self.path,))
        (self.folder / "file").unlink()
        await receiver.set_paths([bad, self.path])
        self.assertEqual(receiver.listening, (bad, self.path))

    async def test_a_directory_that_cannot_be_written_is_a_listen_error(self) -> None:
        path = "/proc/heartbeat.sock"
        receiver = HeartbeatReceiver(
            reactor, time.time, self.directory, self.events, [path], notifier=self.notifier,
        )
        with self.assertRaisesRegex(ListenError, "cannot be listened on"):
            await receiver.open()
        await receiver.stopService()

    async def test_paths_change_while_connections_stay(self) -> None:
        receiver = await self.receiver()
        client = self.client()
        await self.send(client, beat())
        await self.until(lambda: self.mine.beats)
        other = str(self.folder / "other.sock")
        await receiver.set_paths([other, other])
        self.assertEqual((receiver.listening, receiver.paths), ((other,), (other,)))
        self.assertEqual([path.name for path in self.folder.iterdir()], ["other.sock"])
        await self.send(client, beat())
        await self.send(self.client(other), beat())
        await self.until(lambda: len(self.mine.beats) == 3)

    async def test_stop_leaves_alone_what_somebody_else_put_in_our_place(self) -> None:
        gone, taken = str(self.folder / "gone"), str(self.folder / "taken")
        receiver = await self.receiver(gone, taken)
        Path(gone).unlink()
        Path(taken).unlink()
        with socket.socket(socket.AF_UNIX) as successor:
            successor.bind(taken)
            await receiver.stopService()
        self.assertEqual([path.name for path in self.folder.iterdir()], ["taken"])

    async def test_a_socket_file_that_goes_is_bound_anew(self) -> None:
        receiver = await self.receiver()
        for _ in range(2):
            Path(self.path).unlink()
            await self.until(lambda: Path(self.path).exists() and not receiver.error)
            self.mine.beats.clear()
            await self.send(self.client(), beat())
            await self.until(lambda: self.mine.beats)
        self.assertEqual([event.type for event in self.events.published], ["daemon.socket_restored"] * 2)
        self.assertEqual(stat.S_IMODE(Path(self.path).stat().st_mode), 0o666)

    async def test_what_stands_in_its_place_is_named_until_it_goes(self) -> None:
        receiver = await self.receiver()
        Path(self.path).unlink()
        Path(self.path).write_text("in the way")
        await self.until(lambda: "not a socket" in receiver.error)
        self.assertEqual(Path(self.path).read_text(), "in the way")
        Path(self.path).unlink()
        await self.until(lambda: not receiver.error)
        await self.send(self.client(), beat())
        await self.until(lambda: self.mine.beats)

    async def test_a_folder_that_goes_is_made_again(self) -> None:
        self.path = str(self.folder / "run" / "heartbeat.sock")
        run = Path(self.path).parent
        run.mkdir()
        receiver = await self.receiver(make_folder=lambda: run.mkdir(exist_ok=True))
        shutil.rmtree(run)
        await self.until(lambda: Path(self.path).exists() and not receiver.error)
        Path(self.path).unlink()
        await self.until(lambda: Path(self.path).exists() and not receiver.error)
        await self.send(self.client(), beat())
        await self.until(lambda: self.mine.beats)

    async def test_an_agents_own_folder_that_goes_is_waited_for(self) -> None:
        own = self.folder / "own"
        own.mkdir()
        receiver = await self.receiver(self.path, str(own / "sock"))
        shutil.rmtree(own)
        await self.until(lambda: len(receiver.listening) == 1)
        self.assertEqual(receiver.error, "")
        own.mkdir()
        await self.until(lambda: len(receiver.listening) == 2)
        await self.send(self.client(str(own / "sock")), beat())
        await self.until(lambda: self.mine.beats)

    async def test_nothing_is_listened_on_after_stop(self) -> None:
        receiver = await self.receiver()
        opening = Deferred.fromCoroutine(receiver.set_paths([self.path, str(self.folder / "late")]))
        await receiver.stopService()
        await opening
        with self.assertRaises(ListenError):
            await receiver.set_paths([self.path])
        self.assertEqual(list(self.folder.iterdir()), [])
