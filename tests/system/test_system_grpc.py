"""A real daemon over gRPC: the Manager's calls, and its own calls to a real Manager."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest

import daemon.rpc  # noqa: F401 - sets what grpc reads at its import
from daemon.rpc.pb import daemon_pb2 as d
from daemon.rpc.pb import daemon_pb2_grpc
from tests.fakes.ports import free_port
from tests.fakes.rpc_certs import Cert
from tests.system.harness import ROOT, Daemon, alive, sleeper, wait_for


def test_list_operate_and_metrics_with_deadlines(daemon: Daemon) -> None:
    port = free_port()
    daemon.configure(sleeper("a") + sleeper("b"), daemon=f"grpc_port: {port}", rest="resources: {interval: 300ms}\n")
    daemon.start()
    first = daemon.agent_in("a", "running")["pid"]
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = daemon_pb2_grpc.DaemonServiceStub(channel)
        listed = {a.id: a for a in stub.ListAgents(d.ListAgentsRequest(), timeout=5).agents}
        assert set(listed) == {"a", "b"} and listed["a"].pid == first and listed["a"].status == "running"
        done = stub.OperateAgent(d.AgentOperationRequest(agent_id="a", operation="restart"), timeout=20)
        assert done.success and done.error_message == ""
        second = daemon.agent_in("a", "running")["pid"]
        assert second != first and not alive(first)
        assert stub.OperateAgent(d.AgentOperationRequest(agent_id="b", operation="stop"), timeout=20).success
        assert daemon.agent("b")["status"] == "stopped"
        for request, code in ((d.AgentOperationRequest(agent_id="x", operation="stop"), grpc.StatusCode.NOT_FOUND),
                              (d.AgentOperationRequest(agent_id="a", operation="eat"), grpc.StatusCode.INVALID_ARGUMENT)):
            with pytest.raises(grpc.RpcError) as refused:
                stub.OperateAgent(request, timeout=5)
            assert refused.value.code() is code  # type: ignore[attr-defined]
        wait_for("samples", lambda: stub.GetAgentMetrics(d.AgentMetricsRequest(agent_id="a"), timeout=5).data_points)
        config = stub.GetConfig(d.ConfigRequest(config_type="daemon"), timeout=5)
        assert config.success and b"agents" in config.config_data
    assert daemon.get("/readyz?verbose")["checks"][-1] == {"name": "grpc", "ok": True, "error": None}
    daemon.terminate()
    assert alive(second)
    assert "Traceback" not in daemon.log_text()


def test_a_taken_grpc_port_is_one_line_and_status_1(daemon: Daemon) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        daemon.configure(sleeper("a"), daemon=f"grpc_port: {port}")
        daemon.spawn()
        status, output = daemon.ended()
    assert status == 1
    (line,) = [line for line in output.splitlines() if line.startswith("hostdaemon:")]
    assert "D1003" in line and str(port) in line and "ss -ltnp" in line
    assert "Traceback" not in output


def test_an_expired_certificate_costs_grpc_alone_until_it_is_renewed(daemon: Daemon) -> None:
    port, pki = free_port(), daemon.root / "pki"
    pki.mkdir()
    ca = Cert("authority", ca=True)
    (pki / "ca.pem").write_bytes(ca.pem)
    Cert("node-1", ca, dns=("localhost",), days=-1).write(pki, "server")
    tls = f"{{cert_file: {pki}/server.pem, key_file: {pki}/server.key, ca_file: {pki}/ca.pem}}"
    daemon.configure(sleeper("a"), daemon=f"grpc_port: {port}\ngrpc: {{tls: {tls}}}")
    daemon.spawn()
    wait_for("the start", lambda: "is ready" in daemon.log_text())
    daemon.agent_in("a", "running")
    status, body = daemon.request("GET", "/readyz")
    assert status == 503
    assert "D1003 daemon.grpc.tls: the certificate in" in str(body) and "expired at" in str(body)
    (alert,) = daemon.get("/v1/alerts")["alerts"]
    assert (alert["type"], alert["severity"], alert["cleared_at"]) == ("grpc_not_listening", "error", None)

    Cert("node-1", ca, dns=("localhost",)).write(pki, "server")
    wait_for("readiness", lambda: daemon.request("GET", "/readyz")[0] == 200)
    client = Cert("manager", ca)
    credentials = grpc.ssl_channel_credentials(ca.pem, client.key_pem(), client.pem)
    with grpc.secure_channel(f"localhost:{port}", credentials) as channel:
        stub = daemon_pb2_grpc.DaemonServiceStub(channel)
        assert [a.id for a in stub.ListAgents(d.ListAgentsRequest(), timeout=5).agents] == ["a"]
    assert daemon.get("/v1/alerts")["alerts"][0]["cleared_at"] is not None
    daemon.terminate()
    assert "Traceback" not in daemon.log_text()


def test_strangers_are_counted_and_leave_no_word_of_grpcs_own(daemon: Daemon) -> None:
    port, pki = free_port(), daemon.root / "pki"
    pki.mkdir()
    ca = Cert("authority", ca=True)
    (pki / "ca.pem").write_bytes(ca.pem)
    Cert("node-1", ca, dns=("localhost",)).write(pki, "server")
    foreign = Cert("manager", Cert("another authority", ca=True)).write(pki, "foreign")
    known = Cert("manager", ca).write(pki, "known")
    tls = f"{{cert_file: {pki}/server.pem, key_file: {pki}/server.key, ca_file: {pki}/ca.pem}}"
    daemon.configure(sleeper("a"), daemon=f"grpc_port: {port}\ngrpc: {{tls: {tls}}}\nhttp_port: {free_port()}")
    daemon.start()

    def shake(client: tuple[str, str] | None, version: ssl.TLSVersion) -> str:
        context = ssl.create_default_context(cadata=ca.pem.decode())
        context.maximum_version = version
        context.set_alpn_protocols(["h2"])
        if client is not None:
            context.load_cert_chain(*client)
        with socket.create_connection(("127.0.0.1", port), timeout=5) as plain, \
                context.wrap_socket(plain, server_hostname="localhost") as secured:
            return "let in" if secured.recv(1) else "closed"

    for client, version in (
        (foreign, ssl.TLSVersion.TLSv1_3), (None, ssl.TLSVersion.TLSv1_3), (known, ssl.TLSVersion.TLSv1_2),
    ):
        with pytest.raises(OSError):
            assert shake(client, version) == "closed"
            raise ConnectionError
    assert shake(known, ssl.TLSVersion.TLSv1_3) == "let in"
    text = daemon.get("/metrics")
    assert "hostdaemon_grpc_handshakes_total 4.0" in text
    assert "hostdaemon_grpc_connections_total 0.0" in text  # nobody made a call yet
    os.kill(daemon.pid, signal.SIGTERM)
    assert daemon.ended()[1] == ""


def get(port: int, path: str) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return json.loads(answer.read()) if answer.status == 200 else None
    except OSError:
        return None
    finally:
        connection.close()


def test_a_daemon_and_its_manager_find_each_other_and_survive_each_others_end(daemon: Daemon) -> None:
    grpc_port, http_port, back = free_port(), free_port(), free_port()
    config = daemon.root / "manager.yaml"
    config.write_text(
        f"manager: {{work_dir: {daemon.root}/m, grpc_port: {grpc_port}, http_port: {http_port}, daemon_port: {back},"
        f" log_file: {daemon.root}/manager.log}}\n")

    def manager() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [str(Path(sys.executable).with_name("twistd")), "-n", "--pidfile=", "hostmanager", "--config", str(config)],
            env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=daemon.root, stdin=subprocess.DEVNULL,
        )

    daemon.configure(
        sleeper("a"), daemon=f"grpc_port: {back}",
        rest=f"manager: {{address: '127.0.0.1:{grpc_port}', heartbeat_interval: 500ms, report_interval: 500ms,"
             " sync_interval: 1s, reconnect_interval: 200ms, reconnect_max: 1s}\n"
             "collectors: {cpu: {interval: 500ms}, memory: {interval: 500ms}}\n")
    daemon.start()  # the Manager is not there yet
    pid = daemon.agent_in("a", "running")["pid"]
    wait_for("reports that wait", lambda: daemon.get("/v1/node")["manager"]["queued"] > 0)
    assert "D2001" in daemon.get("/v1/node")["manager"]["last_error"]
    server = manager()
    try:
        wait_for("the link", lambda: daemon.get("/v1/node")["manager"]["connected"], 40)
        node_id = daemon.get("/v1/node")["node_id"]
        wait_for("the node's agents", lambda: [
            a for a in (get(http_port, f"/v1/nodes/{node_id}/agents") or {}).get("agents", []) if a.get("pid") == pid])
        wait_for("delivery", lambda: daemon.get("/v1/node")["manager"]["delivered"] > 2)
        server.kill()
        server.wait()
        wait_for("the loss", lambda: not daemon.get("/v1/node")["manager"]["connected"])
        assert daemon.agent("a")["pid"] == pid
        server = manager()
        wait_for("the link again", lambda: daemon.get("/v1/node")["manager"]["connected"], 40)
        wait_for("an empty queue", lambda: daemon.get("/v1/node")["manager"]["queued"] <= 4, 40)
        assert daemon.get("/v1/node")["manager"]["dropped"] == 0
        daemon.terminate()
        assert alive(pid)
    finally:
        server.terminate()
        server.wait(20)
    assert "Traceback" not in daemon.log_text() + (daemon.root / "manager.log").read_text()
