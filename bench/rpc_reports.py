"""How long a report is under way: from a collector's sample to the Manager that has it, over mutual TLS.

The link is the daemon's own, in this process, with its queue on disk; the Manager is a bare grpcio server in
another, which echoes when each report came by the clock both share. The floor calls the same server with the
same certificates and a report of the same size, without link or queue.

``python -m bench.rpc_reports PORT DIR`` is the server.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent import futures
from pathlib import Path
from typing import Any

from bench.lab import ROOT, free_port, listening, wait_for
from bench.manager_lab import Pki
from bench.row import Row, ms

AIM_S = 0.020
VALUES = 40  # numbers in a report
PAUSE_S = 0.05  # between two samples: a report at a time, as collectors make them
METHOD = "/manager.ManagerService/ReportMetrics"


def measure(quick: bool = False) -> Row:
    """p50 and p99 over so many reports."""
    count = 60 if quick else 400
    folder = Path(tempfile.mkdtemp(prefix="hd-bench-"))
    try:
        pki = Pki(folder)
        port = free_port()
        server = subprocess.Popen(
            [sys.executable, "-m", "bench.rpc_reports", str(port), str(folder)],
            env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True,
        )
        try:
            wait_for("the server", listening(port))
            arrived: dict[int, float] = {}
            reading = threading.Thread(target=_read, args=(server, arrived), daemon=True)
            reading.start()
            floor = _floor(port, pki, arrived, count)
            ours = _ours(port, pki, folder / "reports", arrived, count)
        finally:
            server.kill()
            server.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    p99 = _p99(ours)
    return Row(
        measure=(
            f"a report of {VALUES} numbers, from the sample to its arrival over mutual TLS on loopback, "
            f"p99 of {count} (p50: {ms(statistics.median(floor))}, {ms(statistics.median(ours))})"
        ),
        floor=ms(_p99(floor)), ours=ms(p99), ratio=None, aim=f"p99 < {ms(AIM_S)}", holds=p99 < AIM_S,
    )


def _p99(took: list[float]) -> float:
    return statistics.quantiles(took, n=100)[98]


def _read(server: subprocess.Popen[str], arrived: dict[int, float]) -> None:
    assert server.stdout is not None
    for line in server.stdout:
        stamp, at = line.split()
        arrived[int(stamp)] = float(at)


def _values(stamp: int) -> dict[str, float]:
    return {f"value_{n}": stamp + n / 10 for n in range(VALUES)}


def _floor(port: int, pki: Pki, arrived: dict[int, float], count: int) -> list[float]:
    import daemon.rpc.grpc_env  # noqa: F401, I001
    import grpc
    from daemon.rpc.pb import manager_pb2 as m

    cert, key = pki.client
    credentials = grpc.ssl_channel_credentials(pki.ca.read_bytes(), key.read_bytes(), cert.read_bytes())
    took = []
    with grpc.secure_channel(f"localhost:{port}", credentials) as channel:
        call = channel.unary_unary(METHOD)
        for stamp in range(1, count + 2):
            begun = time.time()
            metric = m.MetricData(type="cpu", timestamp=stamp, values=_values(stamp))
            call(m.ReportMetricsRequest(node_id="n", metrics=[metric]).SerializeToString(), timeout=10)
            wait_for("a report", lambda stamp=stamp: stamp in arrived)
            if stamp > 1:  # the first one connects
                took.append(arrived[stamp] - begun)
            time.sleep(PAUSE_S)
    return took


def _ours(port: int, pki: Pki, folder: Path, arrived: dict[int, float], count: int) -> list[float]:
    import daemon.rpc.grpc_env  # noqa: F401, I001
    from twisted.internet import reactor as global_reactor

    from daemon.aio.threads import ThreadLanes
    from daemon.config.schema import ManagerConfig, ManagerTlsConfig
    from daemon.control.node import NodeFacts
    from daemon.events.bus import EventBus
    from daemon.model.metrics import Metrics
    from daemon.rpc.manager_link import ManagerLink

    reactor: Any = global_reactor
    latest: dict[str, Metrics] = {}
    begun: dict[int, float] = {}

    class Collectors:
        """One collector; its sample is the report's begin."""

        def get_latest(self) -> dict[str, Metrics]:
            """See Collectors of the link."""
            return latest

    class Silent:
        """An AlertSink that nobody reads."""

        def __getattr__(self, _name: str) -> Any:
            return lambda *_args, **_how: None

    cert, key = pki.client
    link = ManagerLink(
        reactor=reactor, clock=reactor, threads=ThreadLanes(reactor), wall=time.time,
        config=ManagerConfig(
            address=f"localhost:{port}", report_interval=3600.0, reconnect_interval=0.1,
            tls=ManagerTlsConfig(cert_file=str(cert), key_file=str(key), ca_file=str(pki.ca)),
        ),
        facts=NodeFacts(node_id="n", hostname="h", ip="127.0.0.1", os="linux", arch="amd64"), labels={},
        versions=lambda: ("1", ""), collectors=Collectors(), states=list, bus=EventBus(time.time),
        alerts=Silent(), directory=folder,
    )
    first = 1_000_000

    def look(stamp: int) -> None:
        if stamp >= first and stamp not in arrived:
            reactor.callLater(0.002, look, stamp)
        elif stamp == first + count:
            reactor.stop()
        else:
            reactor.callLater(PAUSE_S, sample, stamp + 1)

    def sample(stamp: int) -> None:
        begun[stamp] = time.time()
        latest["cpu"] = Metrics(name="cpu", timestamp=stamp, values=_values(stamp))
        link._sampler._take(first_only=False)  # what the timer of report_interval does
        look(stamp)

    def when_up() -> None:
        if link.state.connected:
            sample(first)
        else:
            reactor.callLater(0.05, when_up)

    link.startService()
    reactor.callWhenRunning(when_up)
    reactor.addSystemEventTrigger("before", "shutdown", link.stopService)
    reactor.run()
    return [arrived[stamp] - at for stamp, at in begun.items() if stamp > first]


def _serve(port: int, folder: Path) -> None:
    """Prints the timestamp of each report and when it came."""
    import daemon.rpc.grpc_env  # noqa: F401, I001
    import grpc
    from daemon.rpc.pb import manager_pb2 as m

    good = m.ReportMetricsResponse(success=True).SerializeToString()  # every answer has these two fields

    def handle(data: bytes, context: Any) -> bytes:
        at = time.time()
        for metric in m.ReportMetricsRequest.FromString(data).metrics:
            print(metric.timestamp, at, flush=True)
        return good

    class Everything(grpc.GenericRpcHandler):  # type: ignore[misc]
        """Reports are told; whatever else is called succeeds."""

        def service(self, details: Any) -> Any:
            if details.method == METHOD:
                return grpc.unary_unary_rpc_method_handler(handle)
            return grpc.unary_unary_rpc_method_handler(lambda _data, _context: good)

    pem = [(folder / name).read_bytes() for name in ("server.key", "server.pem", "ca.pem")]
    server = grpc.server(futures.ThreadPoolExecutor(8), handlers=(Everything(),))
    server.add_secure_port(
        f"127.0.0.1:{port}", grpc.ssl_server_credentials([(pem[0], pem[1])], pem[2], require_client_auth=True)
    )
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    _serve(int(sys.argv[1]), Path(sys.argv[2]))
