"""docs/manager.md says what the code does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from daemon.aio.logsink import LogSink, open_log_stream
from daemon.config.keys import Kind, fields_of
from daemon.config.load import load as load_daemon
from daemon.config.units import parse_duration
from daemon.manager import views
from daemon.manager.api import STATUS, ManagerApi
from daemon.manager.config import ManagerConfig
from daemon.manager.exposition import ManagerMetrics
from daemon.manager.load import load
from daemon.manager.server import ManagerServer
from daemon.manager.servicer import ManagerServicer
from daemon.web.answers import encode
from daemon.web.scrape import Exposition
from tests.fakes.manager import ManagerCase

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "docs" / "manager.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def table(head: str) -> list[list[str]]:
    """Rows of the table whose first heading that is."""
    found = re.search(rf"^\| {head} \|.*\n\|[ -|]+\n((?:\|.*\n)+)", TEXT, re.M)
    assert found, head
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in found[1].splitlines()]


def keys(struct: type[msgspec.Struct], prefix: str = "") -> dict[str, Any]:
    """Every key and its default."""
    found: dict[str, Any] = {}
    for field in fields_of(struct):
        if field.kind is Kind.SECTION:
            assert field.struct is not None
            found |= keys(field.struct, f"{prefix}{field.name}.")
        else:
            found[prefix + field.name] = (field.kind, field.default)
    return found


def test_every_key_is_documented_with_its_default() -> None:
    known = keys(ManagerConfig)
    documented = {row[0].strip("`"): row[1].strip("`") for row in table("key")}
    assert list(documented) == list(known)
    for name, (kind, default) in known.items():
        said = documented[name]
        if kind is Kind.DURATION:
            assert parse_duration(said) == default, name
        elif kind is Kind.LIST:
            assert (said, default) == ("[]", ()), name
        else:
            assert said == (str(default).lower() if isinstance(default, bool) else str(default)), name


def test_every_route_is_documented() -> None:
    served = set()
    for rule in ManagerApi.app.url_map.iter_rules():
        path = rule.rule.replace("<any(start,stop,restart):verb>", "{start,stop,restart}")
        path = re.sub(r"<(?:\w+:)?(?:node_|command_)?(\w+?)(?:_id)?>", r"{\1}", path)
        served |= {f"{method} {path}" for method in rule.methods or () if method in ("GET", "POST")}
    documented = set()
    for row in table("route"):
        documented |= set(re.findall(r"`((?:GET|POST) [^`?]+)`", row[0]))
        documented |= {f"GET {path}" for path in re.findall(r"`(/[a-z]+)`", row[0])}
    assert documented == served


def test_every_method_is_documented() -> None:
    routes = ManagerServicer(None, None, secured=False).routes()  # type: ignore[arg-type]  # only asked for names
    served = {route.path for route in routes} | {"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"}
    documented = set()
    for service, methods in table("service"):
        documented |= {f"/{service.strip('`')}/{name}" for name in re.findall(r"`([A-Z]\w+)`", methods)}
    assert {path for path in documented if not path.endswith("ReportEvents:")} == served


def test_every_status_of_an_operation_is_documented() -> None:
    documented = {int(code) for row in table("answer") for code in re.findall(r"\d+", row[0])}
    assert documented == {200, 202, 502, *STATUS.values()}


@pytest.mark.parametrize(("name", "body"), re.findall(r"```json (\w+)\n(.*?)```", TEXT, re.S))
def test_the_examples_are_exactly_what_is_shown(name: str, body: str) -> None:
    kind = getattr(views, name)
    value = msgspec.convert(json.loads(body), kind, strict=True)
    assert json.loads(encode(value)) == json.loads(body)


def files_of_the_walk_through(folder: Path) -> dict[str, Path]:
    """The configuration files its commands write, written there."""
    found = {}
    for name, text in re.findall(r"cat >var/([\w$]+\.yaml) <<'?END'?\n(.*?)\nEND", README, re.S):
        for number in ("1", "2") if "$n" in name else ("",):
            path = folder / name.replace("$n", number)
            path.write_text(text.replace("$n", number))
            found[path.name] = path
    return found


def test_the_files_of_the_walk_through_are_good(tmp_path: Path) -> None:
    files = files_of_the_walk_through(tmp_path)
    assert set(files) == {"manager.yaml", "node1.yaml", "node2.yaml"}
    manager = load(files["manager.yaml"])
    assert not manager.warnings
    for number in (1, 2):
        node = load_daemon(files[f"node{number}.yaml"]).config
        assert node.daemon.labels["grpc_port"] == str(node.daemon.grpc_port)
        assert node.manager.address == f"localhost:{manager.config.grpc_port}"
        assert node.manager.heartbeat_interval == manager.config.heartbeat_interval


class MetricsTest(ManagerCase):
    def test_every_metric_is_documented(self) -> None:
        rig = self.rig
        server = ManagerServer(rig.clock, rig.fleet, rig.config, None, threads=None)  # type: ignore[arg-type]
        self.patch(ManagerServer, "certificate_not_after", 5.0)
        rig.database.transactions_total = rig.database.failures_total = 0  # type: ignore[attr-defined]
        rig.database.size_bytes = 0  # type: ignore[attr-defined]
        metrics = ManagerMetrics(
            rig.database, rig.intake, rig.fleet, server, rig.commands,  # type: ignore[arg-type]
            LogSink("info", False, open_log_stream("", "log")),
        )
        body, _type = Exposition(metrics).encode("")
        kinds = dict(re.findall(r"^# TYPE (hostmanager_\w+) (\w+)$", body.decode(), re.M))
        self.assertEqual({row[0].strip("`") for row in table("metric")}, set(kinds))
