"""What ten thousand failed connects over mutual TLS leave behind, in both directions.

Strangers come to the daemon's server with a certificate of another authority, and its own link tries a
Manager that does not accept its certificate. Memory is read after the first tenth, when every pool has its
size, and at the end.
"""

from __future__ import annotations

import re
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path

from bench.lab import Server, answers, free_port, get, wait_for
from bench.manager_lab import ManagerLab, Pki
from bench.row import Row

COUNT = 10_000
CALLERS = 8
NOISE_MIB = 1.0  # allocators give and take that much in a process at rest
FAILURES = re.compile(rb"^hostdaemon_manager_connect_failures_total ([0-9.e+]+)", re.M)
PATIENCE_S = 600.0


def measure(quick: bool = False) -> Row:
    """MiB gained by each direction."""
    count = COUNT // 10 if quick else COUNT
    with ManagerLab() as lab:
        ours, foreign = lab.pki(), lab.pki("foreign")
        port, http_port, manager_port, manager_http = (free_port() for _ in range(4))
        lab.manager(manager_port, manager_http, f"grpc: {{tls: {ours.tls('server')}}}")
        wait_for("the Manager", answers(manager_http, "/readyz"))
        tls = foreign.tls("client").replace(str(foreign.ca), str(ours.ca))  # it trusts; it is not trusted
        daemon = lab.ours(
            agents=0, http_port=http_port, grpc_port=port, keys=f"grpc: {{tls: {ours.tls('server')}}}",
            rest=(
                f"manager: {{address: 'localhost:{manager_port}', tls: {tls},"
                " reconnect_interval: 1ms, reconnect_max: 2ms}\n"
            ),
        )
        wait_for("HTTP", answers(http_port, "/readyz"))
        out = _drift(daemon, lambda number: _until_failed(http_port, number), count)
        come = _drift(daemon, lambda number: _knock(port, ours, foreign, number), count)
        threads, files = _threads(daemon), _files(daemon)
    return Row(
        measure=(
            f"memory gained by {count:,} failed connects over mutual TLS: of the link {out:+.2f} MiB, "
            f"of strangers {come:+.2f} MiB; then {threads} threads, {files} descriptors"
        ),
        floor="", ours=f"{max(out, come):+.2f} MiB", ratio=None, aim=f"0 (within {NOISE_MIB:g} MiB)",
        holds=max(out, come) <= NOISE_MIB,
    )


def _drift(daemon: Server, fail: Callable[[int], None], count: int) -> float:
    fail(count // 10)
    time.sleep(1.0)
    before = daemon.rss_mib()
    fail(count - count // 10)
    time.sleep(1.0)
    return daemon.rss_mib() - before


def _failures(http_port: int) -> float:
    found = FAILURES.search(get(http_port, "/metrics"))
    return float(found[1]) if found is not None else 0.0


def _until_failed(http_port: int, number: int) -> None:
    until = _failures(http_port) + number
    end = time.monotonic() + PATIENCE_S
    while _failures(http_port) < until:
        if time.monotonic() > end:
            raise SystemExit("rpc_connects: the link does not try any more")
        time.sleep(0.5)


def _knock(port: int, ours: Pki, foreign: Pki, number: int) -> None:
    context = ssl.create_default_context(cafile=str(ours.ca))
    context.load_cert_chain(*(str(path) for path in foreign.client))
    context.set_alpn_protocols(["h2"])
    let_in: list[int] = []

    def work(times: int) -> None:
        for _ in range(times):
            try:
                with (
                    socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
                    context.wrap_socket(plain, server_hostname="localhost") as stranger,
                ):
                    if stranger.recv(1):
                        let_in.append(1)
            except OSError:  # an SSLError is one
                continue

    threads = [threading.Thread(target=work, args=(number // CALLERS,)) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if let_in:
        raise SystemExit("rpc_connects: a stranger was let in")


def _threads(server: Server) -> int:
    return len(list(Path(f"/proc/{server.pid}/task").iterdir()))


def _files(server: Server) -> int:
    return len(list(Path(f"/proc/{server.pid}/fd").iterdir()))
