"""The documents say what the code does: every example is decoded by it, every table compared with it."""

from __future__ import annotations

import ast
import itertools
import json
import re
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import LogLevel

from daemon import errors
from daemon.agentkit import views as agent_views
from daemon.agents.decide import Observed, Spec, decide
from daemon.agents.metadata import AgentMetadata
from daemon.agents.restart import RestartPolicy, base_delay
from daemon.agents.states import TRANSITIONS
from daemon.aio.logsink import json_line
from daemon.collectors.base import CollectorServices
from daemon.collectors.factory import build_collectors
from daemon.collectors.runner import CollectorStats
from daemon.config.load import load
from daemon.config.schema import CollectorsConfig
from daemon.control.views import AgentView, NodeView
from daemon.durable.workdir import WorkDir
from daemon.errors import ErrorCode
from daemon.events.stream import Gap
from daemon.heartbeat import jsonrpc
from daemon.heartbeat.framing import Framer
from daemon.heartbeat.message import BadMessageError, BeatReader, Posted, Said
from daemon.heartbeat.socket_receiver import HeartbeatReceiver
from daemon.heartbeat.stats import HeartbeatStats, Reason
from daemon.model.agent import Wanted
from daemon.model.event import Event, Severity
from daemon.model.metrics import Metrics
from daemon.model.moment import rfc3339
from daemon.model.update import UpdateState, UpdateStep, UpdateView
from daemon.tap import read_tap_cfg
from daemon.web.api import Api
from daemon.web.bodies import update_body
from daemon.web.host_families import HostMetrics
from daemon.web.problems import FAULT_STATUS, Problem
from daemon.web.sse import EVENTS_TYPE, frame
from tests.fakes.commands import FakeCommandRunner
from tests.fakes.control import Answer, RigCase
from tests.fakes.directory import FakeDirectory, FakeEvents, FakePeer, FakeTarget
from tests.fakes.notify import FakeNotifier
from tests.fakes.threads import InlineThreads

ROOT = Path(__file__).resolve().parents[2]
DOCS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("p*/README.md"), *ROOT.glob("bench/*.md")])
README, PROTOCOLS, ARCHITECTURE, ERRORS, TESTING = (
    (ROOT / name).read_text(encoding="utf-8")
    for name in ("README.md", "docs/protocols.md", "docs/architecture.md", "docs/errors.md", "docs/testing.md")
)
SOURCES = {path: path.read_text(encoding="utf-8") for path in sorted((ROOT / "daemon").rglob("*.py"))}
VIEWS: dict[str, Any] = {
    kind.__name__: kind for kind in (AgentView, NodeView, HeartbeatStats, Problem, AgentMetadata)
}
READER = BeatReader(lambda: 1.0, cores=64)
_FENCE = re.compile(r"^( *)```([^\n`]*)\n(.*?)^\1```$", re.M | re.S)
_ROUTE = re.compile(r"`(GET|POST) (/[^`?\s]*)`")


@dataclass(frozen=True)
class Example:
    """One fenced block."""

    language: str
    tags: tuple[str, ...]
    text: str

    @property
    def lines(self) -> list[str]:
        return self.text.strip("\n").split("\n")

    @property
    def json(self) -> Any:
        return json.loads(self.text)


def examples(text: str) -> list[Example]:
    return [
        Example(info.split()[0] if info.split() else "", tuple(info.split()[1:]), body)
        for _indent, info, body in _FENCE.findall(text)
    ]


def tagged(tag: str, text: str = PROTOCOLS) -> list[Example]:
    found = [example for example in examples(text) if example.tags[:1] == (tag,)]
    assert found, f"no example is tagged {tag}"
    return found


def rows(text: str, first_column: str) -> list[list[str]]:
    """The cells of the table whose first heading this is."""
    lines = text.split("\n")
    start = next(n for n, line in enumerate(lines) if line.startswith(f"| {first_column} |"))
    table = itertools.takewhile(lambda line: line.startswith("|"), lines[start + 2 :])
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def code_words(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def same_keys(documented: Any, real: Any, where: str = "$") -> None:
    """Objects have equal keys all the way down; null and empty lists stand for anything."""
    if documented is None or real is None:
        return
    assert isinstance(documented, dict) == isinstance(real, dict), where
    assert isinstance(documented, list) == isinstance(real, list), where
    if isinstance(documented, dict):
        assert set(documented) == set(real), where
        for key in documented:
            same_keys(documented[key], real[key], f"{where}.{key}")
    elif isinstance(documented, list):
        for left, right in itertools.product(documented[:1], real[:1]):
            same_keys(left, right, f"{where}[]")


def comparable(body: Any) -> Any:
    """A body without the parts whose keys are names: of agents, labels, facts of an event."""
    if isinstance(body, dict):
        return {k: comparable(v) for k, v in body.items() if k not in ("results", "labels", "data")}
    return [comparable(item) for item in body] if isinstance(body, list) else body


def is_exactly(kind: Any, body: Any) -> None:
    """It has every key of the type, none besides, and values of its types."""
    assert json.loads(msgspec.json.encode(msgspec.convert(body, kind))) == body


# ---------------------------------------------------------------- heartbeats

@pytest.mark.parametrize("text", [README, PROTOCOLS], ids=["readme", "protocols"])
def test_bare_heartbeats_are_read_as_one_message_each_with_known_keys(text: str) -> None:
    for example in tagged("heartbeat-bare", text):
        (message,) = Framer().feed(example.text.encode())
        READER.read(message)
        assert set(example.json) <= set(Said.__struct_fields__)


def test_the_first_bare_heartbeat_shows_every_key_and_the_table_describes_them() -> None:
    fields = set(Said.__struct_fields__)
    assert set(tagged("heartbeat-bare")[0].json) == fields
    assert {code_words(row[0])[0] for row in rows(PROTOCOLS, "key")} == fields


def test_streamed_heartbeats_are_cut_where_the_document_says() -> None:
    (example,) = tagged("heartbeat-streamed")
    assert [READER.read(m).cpu for m in Framer().feed(example.text.encode())] == [1.5, 2.25, 0.5]


@pytest.mark.parametrize("reason", [Reason.MALFORMED, Reason.INVALID], ids=lambda r: r.value)
def test_bad_lines_are_refused_for_the_reason_given(reason: Reason) -> None:
    (example,) = tagged(f"heartbeat-{reason.value}")
    for line in example.lines:
        messages = Framer().feed(line.encode() + b"\n")
        with pytest.raises(BadMessageError) as caught:
            for message in messages:
                READER.read(message)
        assert caught.value.reason is reason, line


def test_a_posted_heartbeat_shows_every_key() -> None:
    (example,) = tagged("heartbeat-posted")
    assert set(example.json) == set(Posted.__struct_fields__)
    assert READER.read_posted(example.text.encode()).timestamp is not None


def exchange(lines: str, *, broken: bool = False) -> bytes:
    """What the daemon answers to an agent's process 4711."""
    target = FakeTarget("collector-1", 4711)
    if broken:
        target.failing = RuntimeError("a fault on purpose")
    receiver = HeartbeatReceiver(
        Clock(), time.time, FakeDirectory(target, FakeTarget("other", 4712)), FakeEvents(), [],
        cores=2, connections_max=4, peer_of=lambda _transport: FakePeer(4711), notifier=FakeNotifier(),
    )
    connection, transport = receiver.factory.buildProtocol(None), StringTransport()
    connection.makeConnection(transport)
    connection.dataReceived(lines.encode() + b"\n")
    return transport.value()


def rpc_examples() -> list[tuple[Example, bool]]:
    return [(e, False) for e in tagged("rpc")] + [(e, True) for e in tagged("rpc-broken")]


@pytest.mark.parametrize(("example", "broken"), rpc_examples())
def test_json_rpc_is_answered_as_documented(example: Example, broken: bool) -> None:
    request, documented = example.lines
    real, said = json.loads(exchange(request, broken=broken)), json.loads(documented)
    same_keys(said, real)
    assert (said["id"], said["jsonrpc"]) == (real["id"], real["jsonrpc"])
    if "error" in said:
        assert said["error"]["code"] == real["error"]["code"]
        assert said["error"].get("data") == real["error"].get("data")


def test_a_notification_gets_no_answer() -> None:
    for example in tagged("rpc-notification"):
        assert exchange(example.text) == b""


def test_every_json_rpc_error_code_is_in_the_table_and_has_an_example() -> None:
    codes = {value for name, value in vars(jsonrpc).items() if name.isupper() and isinstance(value, int)}
    assert {int(row[0]) for row in rows(PROTOCOLS, "error code")} == codes
    answers = [json.loads(example.lines[1]) for example, _broken in rpc_examples()]
    assert {answer["error"]["code"] for answer in answers if "error" in answer} == codes


# ---------------------------------------------------------------- HTTP

def registered_routes() -> set[str]:
    found = set()
    for rule in Api.app.url_map.iter_rules():
        methods = sorted((rule.methods or {"POST"}) - {"HEAD", "OPTIONS"})
        for verb in ("start", "stop", "restart"):
            path = rule.rule.replace("<any(start,stop,restart):verb>", verb).replace("<agent_id>", "{id}")
            path = path.replace("<name>", "{name}").replace("<update_id>", "{id}").replace("<component>", "{component}")
            assert "<" not in path, f"{path}: teach this test about it"
            found |= {f"{method} {path}" for method in methods}
    return found


def documented_routes(text: str) -> list[str]:
    return [f"{method} {path}" for method, path in _ROUTE.findall(text)]


def test_every_route_has_a_section_and_every_section_a_route() -> None:
    headings = "\n".join(line for line in PROTOCOLS.split("\n") if line.startswith("### `"))
    found = documented_routes(headings)
    assert len(found) == len(set(found))
    assert set(found) == registered_routes()


def test_the_readme_lists_every_route_once() -> None:
    found = documented_routes("\n".join("|".join(row) for row in rows(README, "route")))
    assert len(found) == len(set(found))
    assert set(found) == registered_routes()


def http_examples() -> list[Example]:
    return [e for e in examples(PROTOCOLS) if e.tags and e.tags[0] in ("GET", "POST")]


@pytest.mark.parametrize("example", http_examples(), ids=lambda e: " ".join(e.tags))
def test_bodies_are_of_the_type_they_name(example: Example) -> None:
    kind = VIEWS.get(example.tags[-1])
    if kind is not None:
        is_exactly(kind, example.json)
    if kind is Problem:
        assert example.json["status"] == int(example.tags[2])


def test_every_status_of_a_refused_request_is_in_the_table() -> None:
    documented = {int(row[0]) for row in rows(PROTOCOLS.split("**Errors**")[1], "status")}
    assert {int(status) for status in FAULT_STATUS.values()} <= documented


class HttpExamples(RigCase):
    """Each example's request is sent to the real Site; the answer must have the example's status and keys."""

    def prepare(self) -> None:
        self.lab.spec("web")
        self.lab.spec("off", enabled=False)
        self.lab.spec("broken", missing=True)

    def test_answers_have_the_status_and_keys_of_their_examples(self) -> None:
        for example in http_examples():
            method, target, status = example.tags[0], example.tags[1], int(example.tags[2])
            if example.tags[-1] == "metrics":
                continue  # compared with the real collectors below
            with self.subTest(" ".join(example.tags)):
                self.rig.failing = {"agents": "agents are being taken back"} if status == 503 else {}
                self.rig.bus.publish("agent.started", "for /v1/events", agent_id="web", data={"pid": 1})
                token = {"token": ""} if "no-token" in example.tags else {}
                ask = self.client.post if method == "POST" else self.client.get
                answer = ask(target, **token)
                self.assertEqual(answer.status, status, answer.body)
                documented, real = example.json, answer.json
                same_keys(comparable(documented), comparable(real))

    def test_every_answer_to_a_posted_heartbeat_is_real(self) -> None:
        pid = self.lab.life.agent("web").pid
        beat = {"agent_id": "web", "pid": pid, "status": "running", "cpu": 1.5, "memory": 1048576}

        def post(body: dict[str, Any]) -> Answer:
            return self.client.post("/heartbeat", body=json.dumps(body).encode(), token="")

        real = {
            200: post(beat),
            400: post(beat | {"agent_id": "nope"}),
            403: post(beat | {"pid": 1}),
            405: self.client.get("/heartbeat"),
            413: self.client.post("/heartbeat", body=b" " * 20_000, token=""),
        }
        self.rig.heartbeats._queue_size = 0  # full
        real[503] = post(beat)
        documented = {int(e.tags[1]): e.json for e in tagged("heartbeat-answer")}
        self.assertEqual(set(documented), set(real))
        for status, answer in real.items():
            self.assertEqual(answer.status, status)
            same_keys(documented[status], answer.json)
            for key in ("success", "message"):
                self.assertEqual(documented[status][key], answer.json[key])
        table = {int(row[0]) for row in rows(PROTOCOLS.split("## Heartbeats over HTTP")[1], "status")}
        self.assertEqual(table, set(real))

    def test_a_stream_begins_as_documented(self) -> None:
        self.client.request("GET", "/v1/events")
        (start,) = tagged("sse-start")
        self.assertEqual(self.client.streamed(), start.text.strip("\n").encode() + b"\n\n")
        self.assertIn(EVENTS_TYPE, self.client.transport.value())


def test_host_metrics_have_the_values_documented() -> None:
    (example,) = [e for e in http_examples() if e.tags[-1] == "metrics"]
    clock = Clock()
    services = CollectorServices(
        clock=clock, threads=InlineThreads(clock), wall=time.time, runner=FakeCommandRunner(clock), env={}
    )
    real: dict[str, Metrics] = {}
    for collector in build_collectors(CollectorsConfig(), services, FakeEvents()):
        sample = collector.collect()
        if not isinstance(sample, Metrics):
            got: list[Metrics] = []
            Deferred.fromCoroutine(cast(Any, sample)).addCallback(got.append)
            (sample,) = got
        real[sample.name] = sample
    same_keys(
        example.json,
        {n: {"name": n, "timestamp": rfc3339(m.timestamp), "values": m.values} for n, m in real.items()},
    )


# ---------------------------------------------------------------- events and metrics

def test_frames_of_the_stream_are_written_as_documented() -> None:
    for example in tagged("sse"):
        fields = dict(line.split(": ", 1) for line in example.lines)
        data = json.loads(fields["data"])
        if fields["event"] == "gap":
            item: Event | Gap = Gap(**data)
        else:
            item = Event(
                id=data["id"], at=datetime.fromisoformat(data["at"]).timestamp(),
                type=data["type"], severity=Severity(data["severity"]), agent_id=data["agent_id"],
                message=data["message"], data=data["data"],
            )
        assert frame(item) == example.text.encode() + b"\n"


def published_types() -> Iterator[str]:
    for text in SOURCES.values():
        for node in ast.walk(ast.parse(text)):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
                continue
            words = [each.value for each in node.args[:2] if isinstance(each, ast.Constant)]
            if node.func.attr == "publish":
                yield from words[:1]
            elif node.func.attr in ("say", "_say"):  # of updates: the record may come first
                yield from (word for word in words if str(word).startswith("update."))


def test_every_type_of_event_is_in_the_table() -> None:
    assert {code_words(row[0])[0] for row in rows(PROTOCOLS, "type")} == set(published_types())


def test_every_metric_is_in_the_table() -> None:
    kinds = {"Counter": "_total", "Gauge": "", "Info": "_info"}
    found = set()
    for path, text in SOURCES.items():
        if "manager" in path.relative_to(ROOT).parts:
            continue  # the Manager's own are in its document
        for kind, name in re.findall(r'(Counter|Gauge|Info)MetricFamily\(\s*"([a-z_]+)"', text):
            found.add(name + kinds[kind])
        found |= {f"{name}_total" for name in re.findall(r'\b_counter\(\s*"([a-z_]+)"', text)}
    assert {code_words(row[0])[0] for row in rows(PROTOCOLS, "metric")} == found


def test_a_line_of_the_log_is_as_documented() -> None:
    (example,) = tagged("log")
    line = json_line({
        "log_time": 1795168800.0, "log_level": LogLevel.warn, "log_namespace": "x", "agent_id": "web",
        "log_format": "agent {agent_id}: it exited with 3; next try in 10 s", "error_code": "D3001",
    })
    assert json.loads(line) == example.json and list(json.loads(line)) == list(example.json)


def test_every_metric_of_the_host_is_in_its_table_with_its_labels() -> None:
    (example,) = [e for e in http_examples() if e.tags[-1] == "metrics"]
    samples = {n: Metrics(name=n, timestamp=0.0, values=m["values"]) for n, m in example.json.items()}
    stats = dict.fromkeys(samples, CollectorStats(success=True))
    found = {}
    for family in HostMetrics(SimpleNamespace(get_latest=lambda: samples, stats=lambda: stats), time.time).collect():
        assert family.samples, family.name
        for sample in family.samples:
            found[sample.name] = set(sample.labels)
    documented = {}
    labels: set[str] = set()
    for name, cell, *_rest in rows(PROTOCOLS, "host metric"):
        labels = labels if cell == "the same" else set(code_words(cell))
        documented[code_words(name)[0]] = labels
    assert documented == found


def test_the_page_of_hostagent_has_the_keys_documented() -> None:
    shown = tagged("agentkit")
    for example in shown:
        is_exactly(getattr(agent_views, example.tags[1]), example.json)
    assert {e.tags[1] for e in shown} == {"HealthView", "MetricsView", "ReloadView"}


def test_the_update_shown_has_the_keys_of_a_real_one_and_states_are_listed() -> None:
    (example,) = tagged("update")
    view = UpdateView(id="x", component="web", version="1", state=UpdateState.FAILED, step=UpdateStep.DONE)
    assert set(example.json) == set(update_body(view).__struct_fields__)
    assert {word for row in rows(PROTOCOLS, "`state`") for word in code_words(row[0])} == {s.value for s in UpdateState}


def test_no_json_in_the_documents_goes_unchecked() -> None:
    checked = {
        "heartbeat-bare", "heartbeat-streamed", "heartbeat-malformed", "heartbeat-invalid", "heartbeat-posted",
        "heartbeat-answer", "rpc", "rpc-broken", "rpc-notification", "agentkit", "update", "log", "GET",
        "POST", *VIEWS,
    }
    for example in (e for text in (README, PROTOCOLS, ARCHITECTURE, ERRORS, TESTING) for e in examples(text)):
        if example.language == "json":
            assert example.tags[:1] and example.tags[0] in checked, example.text
            if example.tags[0] in VIEWS:
                is_exactly(VIEWS[example.tags[0]], example.json)


# ---------------------------------------------------------------- architecture

def test_the_reconcile_table_is_the_rule() -> None:
    table = rows(ARCHITECTURE, "held")
    yes_no = ("yes", "no")
    used = set()
    for facts in itertools.product(yes_no, yes_no, ("running", "stopped"), *[yes_no] * 8):
        facts = (facts[-1], *facts[:-1])
        row = next(row for row in table if all(c in ("any", f) for c, f in zip(row, facts, strict=False)))
        used.add(tuple(row))
        held, configured, enabled, wanted, alive, asked, same, survivors, settled, due, ill = facts
        decision = decide(
            Spec(configured=configured == "yes", enabled=enabled == "yes", spec_hash="new"),
            Wanted(wanted),
            Observed(
                alive=alive == "yes", spec_hash="new" if same == "yes" else "old", survivors=survivors == "yes",
                restart_asked=asked == "yes", settled=settled == "yes", due=due == "yes",
                unhealthy="no heartbeat" if ill == "yes" else "",
                held="being updated" if held == "yes" else "",
            ),
        )
        assert decision.do.value == row[-1], facts
    assert used == {tuple(row) for row in table}, "a row that decides nothing"


def test_the_state_table_is_the_rule() -> None:
    documented = {code_words(row[0])[0]: set(code_words(row[1])) for row in rows(ARCHITECTURE, "from")}
    assert documented == {old.value: {new.value for new in news} for old, news in TRANSITIONS.items()}


def test_the_delays_are_those_of_the_default_policy() -> None:
    for n, delay, _words in rows(ARCHITECTURE, "n"):
        assert delay == f"{base_delay(int(n), RestartPolicy()):g} s"


def test_the_floors_are_those_of_the_import_contract() -> None:
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    held = {name for layer in contract["layers"] for name in layer.split(" | ")}
    assert {name for row in rows(ARCHITECTURE, "floor") for name in code_words(row[1])} == held


def test_the_modes_of_the_work_dir_are_the_ones_made(tmp_path: Path) -> None:
    WorkDir(tmp_path / "w").make()
    modes = {code_words(row[0])[0].rstrip("/"): int(row[1], 8) for row in rows(ARCHITECTURE, "path")}
    for path in (tmp_path / "w", *(p for p in (tmp_path / "w").rglob("*") if p.is_dir())):
        assert modes[str(path.relative_to(tmp_path / "w"))] == path.stat().st_mode & 0o7777, path


def test_every_lane_is_in_the_table() -> None:
    documented = {word for row in rows(ARCHITECTURE, "lane") for word in code_words(row[0])}
    found = {
        name for path, text in SOURCES.items() if "agentkit" not in path.parts
        for name in re.findall(r'^(?:[A-Z]+_)?LANE = "([a-z-]+)"', text, re.M)
    }
    assert documented == found | {"collector:NAME"}


# ---------------------------------------------------------------- errors

def test_every_code_has_a_section_with_cause_next_step_and_place() -> None:
    sections = re.split(r"^## ", ERRORS, flags=re.M)[1:]
    headings = {section.split("\n")[0]: section for section in sections}
    kinds = {
        kind.CODE: name for name, kind in vars(errors).items() if isinstance(getattr(kind, "CODE", None), ErrorCode)
    }
    assert set(headings) == {f"{code.value} {kinds[code]}" for code in ErrorCode}
    for code, name in kinds.items():
        section = headings[f"{code.value} {name}"]
        assert all(f"- **{word}**:" in section for word in ("Causes", "Next step", "Shows")), name
        used = any(
            re.search(rf"\b{name}\b|ErrorCode\.{code.name}\b", text) for path, text in SOURCES.items()
            if path.name != "errors.py"
        )
        assert used != ("*Of a part that is not built yet.*" in section), f"{name}: built or not?"
    assert [row[0][1:6] for row in rows(ERRORS, "code")] == [code.value for code in ErrorCode]


# ---------------------------------------------------------------- testing, links, configuration

def test_every_test_named_in_testing_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?(?:::(\w+))?`", TESTING)
    assert named
    for path, *names in named:
        tree: Any = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        for name in filter(None, names):
            found = [node for node in tree.body if getattr(node, "name", "") == name]
            assert found, f"{path}::{'::'.join(names)} does not exist"
            tree = found[0]


def test_every_fault_point_is_listed() -> None:
    passing = re.compile(r'(?:faults\.hit(?:\(|, )|point=)"([a-z.]+)"\)')
    points = {p for text in SOURCES.values() for p in passing.findall(text)}
    assert {code_words(row[0])[0] for row in rows(TESTING, "fault point")} == points


def anchors(text: str) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(_FENCE, "", text), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCS, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_resolve(document: Path) -> None:
    text = re.sub(_FENCE, "", document.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        assert file.exists(), f"{document.name}: {target}"
        if anchor:
            assert anchor in anchors(file.read_text(encoding="utf-8")), f"{document.name}: {target}"


def test_the_readmes_configuration_loads_without_a_warning(tmp_path: Path) -> None:
    shown = [example for example in examples(README) if example.language == "yaml"]
    assert shown
    for number, example in enumerate(shown):
        path = tmp_path / f"{number}.yaml"
        path.write_text(example.text)
        loaded = load(path)
        assert loaded.config.agents and not loaded.warnings


def test_the_readmes_tap_cfg_is_read(tmp_path: Path) -> None:
    (example,) = [example for example in examples(README) if example.language == "ini"]
    path = tmp_path / "tap.cfg"
    path.write_text("\n".join(line.strip() for line in example.lines))
    assert read_tap_cfg((path,)) == {"config": "/etc/hostdaemon/daemon.yaml", "log_format": "json"}


def test_the_scripts_the_readme_names_exist_and_run() -> None:
    for name in set(re.findall(r"\./scripts/([\w-]+)", README + TESTING)):
        assert (ROOT / "scripts" / name).stat().st_mode & 0o111, name
