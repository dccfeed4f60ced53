"""Where a node's daemon is called, and under which name."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from daemon.config.schema import GrpcTlsConfig
from daemon.errors import RequestError, RequestFault
from daemon.manager.config import DaemonTlsConfig, GrpcConfig, ManagerConfig
from daemon.manager.daemons import target_of
from daemon.manager.model import NodeRow

PLAIN = ManagerConfig(daemon_port=9191)
TLS = msgspec.structs.replace(
    PLAIN, grpc=GrpcConfig(tls=GrpcTlsConfig(cert_file="/c", key_file="/k", ca_file="/a"))
)


def row(ip: str = "127.0.0.1", peer: str = "127.0.0.1", labels: str = "{}") -> NodeRow:
    return NodeRow(
        node_id="n1", hostname="host-1", ip=ip, peer=peer, owner="", os="", arch="", labels=labels,
        daemon_version="", agent_version="", state="online", registered_at=0, first_seen_at=0,
        last_heartbeat_at=0, state_since=0, reports_lost=0,
    )


@pytest.mark.parametrize(
    ("found", "address"),
    [
        (row(), "127.0.0.1:9191"),
        (row("192.0.2.1"), "192.0.2.1:9191"),
        (row("::1"), "[::1]:9191"),
        (row("", "192.0.2.2"), "192.0.2.2:9191"),
        (row("evil.example.org", "192.0.2.2"), "192.0.2.2:9191"),
        (row("0.0.0.0", "192.0.2.2"), "192.0.2.2:9191"),
        (row(labels='{"grpc_port":"9092"}'), "127.0.0.1:9092"),
        (row(labels='{"grpc_port":"0"}'), "127.0.0.1:9191"),
        (row(labels='{"grpc_port":"99999999999999999999"}'), "127.0.0.1:9191"),
        (row(labels='{"grpc_port":"65536"}'), "127.0.0.1:9191"),
        (row(labels='{"grpc_port":"²"}'), "127.0.0.1:9191"),
    ],
)
def test_the_address_is_the_one_it_registered_with(found: NodeRow, address: str) -> None:
    assert str(target_of(found, TLS)) == address


@pytest.mark.parametrize(
    ("config", "found"), [(PLAIN, row("192.0.2.1")), (TLS, row("", "unix:")), (TLS, row("224.0.0.1", ""))]
)
def test_without_a_safe_way_there_is_none(config: ManagerConfig, found: NodeRow) -> None:
    with pytest.raises(RequestError) as caught:
        target_of(found, config)
    assert caught.value.fault is RequestFault.PRECONDITION


def test_insecure_goes_everywhere() -> None:
    config = msgspec.structs.replace(PLAIN, grpc=GrpcConfig(insecure=True))
    assert target_of(row("192.0.2.1"), config).host == "192.0.2.1"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("", ""), ("{hostname}", "host-1"), ("{node_id}.nodes.example.org", "n1.nodes.example.org"), ("fixed", "fixed")],
)
def test_the_name_in_the_certificate(name: str, expected: str) -> None:
    tls: Any = DaemonTlsConfig(cert_file="/c", key_file="/k", ca_file="/a", server_name=name)
    assert target_of(row(), msgspec.structs.replace(PLAIN, daemon_tls=tls)).server_name == expected
