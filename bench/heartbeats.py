"""How fast heartbeats are taken, against the floor of the libraries below: ``python bench/heartbeats.py``.

Two measures, each the ratio of two servers of the same shape in the same run, so that the machine cancels
out. A child process is the server, another one the load; rounds of floor and ours alternate.

socket  heartbeats over one Unix connection, decoded, checked and recorded,
        against a bare LineReceiver that decodes each line with msgspec (aim: >= 0.5)
post    ``POST /heartbeat`` on one keep-alive connection,
        against a Klein route that returns a constant (aim: >= 0.8)

Rates are per second of the server's CPU, the best of the rounds: other load on the machine stays out.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
AIMS = {"socket": 0.5, "post": 0.8}
LINE = (
    b'{"pid":%d,"timestamp":"2026-11-20T10:00:00.123456789+08:00","version":"1.0.0",'
    b'"status":"running","cpu":1.5,"memory":1048576}\n'
)
POST = (
    b'{"agent_id":"bench","pid":%d,"status":"running","cpu":1.5,"memory":1048576,'
    b'"timestamp":"2026-11-20T10:00:00.123456789+08:00"}'
)


class _Target:
    """An agent that keeps its last heartbeat, as a real one does at least."""

    agent_id = "bench"

    def __init__(self) -> None:
        self.recorded = 0
        self.last: Any = None

    def owns(self, pid: int) -> bool:
        return pid > 0

    def record(self, beat: Any) -> None:
        self.recorded += 1
        self.last = beat


class _Directory:
    def __init__(self) -> None:
        self.target = _Target()

    def find(self, agent_id: str) -> _Target | None:
        return self.target if agent_id == "bench" else None

    def owner_of(self, pid: int) -> _Target:
        return self.target


class _Silent:
    def publish(self, *_args: object, **_named: object) -> None:
        """Nobody listens."""


def serve(kind: str, path: str) -> None:
    """A server child: prints ``ready``, serves one client, prints heartbeats and CPU seconds."""
    from twisted.internet import reactor

    counted = {"socket-floor": _serve_floor, "socket-ours": _serve_socket,
               "post-floor": _serve_klein, "post-ours": _serve_klein}[kind](reactor, kind, path)
    before = time.process_time()
    print("ready", flush=True)
    reactor.run()  # type: ignore[attr-defined]
    print(counted(), time.process_time() - before, flush=True)


def _serve_floor(reactor: Any, _kind: str, path: str) -> Any:
    import msgspec
    from twisted.internet.protocol import Factory
    from twisted.protocols.basic import LineReceiver

    class Beat(msgspec.Struct):
        pid: int
        timestamp: str
        version: str
        status: str
        cpu: float
        memory: int

    decode = msgspec.json.Decoder(Beat).decode

    class Floor(LineReceiver):
        delimiter = b"\n"
        count = 0

        def lineReceived(self, line: bytes) -> None:
            decode(line)
            Floor.count += 1

        def connectionLost(self, reason: object = None) -> None:
            reactor.stop()

    reactor.listenUNIX(path, Factory.forProtocol(Floor))
    return lambda: Floor.count


def _serve_socket(reactor: Any, _kind: str, path: str) -> Any:
    from twisted.internet.defer import Deferred

    from daemon.heartbeat.connection import HeartbeatConnection
    from daemon.heartbeat.socket_receiver import HeartbeatReceiver

    directory = _Directory()
    receiver = HeartbeatReceiver(reactor, time.time, directory, _Silent(), [path], cores=os.cpu_count() or 1)
    build = receiver.factory.buildProtocol

    def counting(addr: Any) -> HeartbeatConnection:
        connection = build(addr)
        lost = connection.connectionLost

        def ended(*reason: Any) -> None:
            lost(*reason)
            reactor.stop()

        connection.connectionLost = ended  # type: ignore[method-assign]
        return connection

    receiver.factory.buildProtocol = counting  # type: ignore[method-assign]
    Deferred.fromCoroutine(receiver.open())
    return lambda: directory.target.recorded


def _serve_klein(reactor: Any, kind: str, path: str) -> Any:
    from klein import Klein
    from twisted.web.server import Site

    from daemon.heartbeat.http_receiver import HTTPHeartbeatReceiver

    app = Klein()
    directory = _Directory()
    receiver = HTTPHeartbeatReceiver(reactor, time.time, directory)
    receiver.startService()
    served = 0

    @app.route("/heartbeat", methods=["POST"])
    def heartbeat(request: Any) -> bytes:
        nonlocal served
        served += 1
        request.setHeader(b"content-type", b"application/json")
        if kind == "post-floor":
            return b'{"success":true,"message":"","timestamp":"2026-11-20T10:00:00Z"}'
        answer = receiver.submit(request.content.read())
        request.setResponseCode(answer.status)
        return answer.body()

    class Quiet(Site):
        def log(self, request: Any) -> None:
            """No access log in either."""

        def buildProtocol(self, addr: Any) -> Any:
            channel = super().buildProtocol(addr)
            lost = channel.connectionLost

            def ended(*reason: Any) -> None:
                lost(*reason)
                reactor.callLater(0.05, reactor.stop)

            channel.connectionLost = ended
            return channel

    reactor.listenUNIX(path, Quiet(app.resource()))
    return lambda: served if kind == "post-floor" else directory.target.recorded


def load(kind: str, path: str, count: int) -> None:
    """The load child."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(path)
        if kind.startswith("socket"):
            block = (LINE % os.getpid()) * 5000
            for _ in range(count // 5000):
                client.sendall(block)
            return
        body = POST % os.getpid()
        request = (
            b"POST /heartbeat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        for _ in range(count):
            client.sendall(request)
            answer = client.recv(65536)
            while not answer.endswith(b"\r\n0\r\n\r\n"):  # Klein answers in chunks
                answer += client.recv(65536)
            if not answer.startswith(b"HTTP/1.1 200"):
                raise SystemExit(f"refused: {answer[:200]!r}")


def measure(kind: str, count: int) -> tuple[float, float]:
    """One round; heartbeats per second of server CPU, and per second of wall time."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "bench.sock")
        command = [sys.executable, __file__]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with subprocess.Popen([*command, "serve", kind, path], stdout=subprocess.PIPE, text=True,
                              env=environment) as server:
            assert server.stdout is not None
            while server.stdout.readline().strip() != "ready":
                if server.poll() is not None:
                    raise SystemExit(f"the {kind} server did not start")
            while not Path(path).exists():
                time.sleep(0.01)
            begun = time.perf_counter()
            subprocess.run([*command, "load", kind, path, str(count)], check=True, env=environment)
            taken, cpu_s = server.stdout.readline().split()
            wall_s = time.perf_counter() - begun
    if int(taken) != count:
        raise SystemExit(f"{kind}: {taken} of {count} heartbeats were taken")
    return count / float(cpu_s), count / wall_s


def main() -> int:
    """Prints the table; 1 when an aim is missed."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shape)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--lines", type=int, default=500_000, help="heartbeats of a socket round")
    parser.add_argument("--posts", type=int, default=4_000, help="requests of a post round")
    options = parser.parse_args()
    missed = 0
    print(f"{'measure':8} {'floor /s':>12} {'ours /s':>12} {'ratio':>7} {'aim':>5}")
    for measured, count in (("socket", options.lines // 5000 * 5000), ("post", options.posts)):
        best = {"floor": 0.0, "ours": 0.0}
        for _ in range(options.rounds):
            for side in best:
                best[side] = max(best[side], measure(f"{measured}-{side}", count)[0])
        ratio = best["ours"] / best["floor"]
        missed |= ratio < AIMS[measured]
        print(f"{measured:8} {best['floor']:12,.0f} {best['ours']:12,.0f} {ratio:7.2f} {AIMS[measured]:5.1f}")
    return int(missed)


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(sys.argv[2], sys.argv[3])
    elif sys.argv[1:2] == ["load"]:
        load(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        raise SystemExit(main())
