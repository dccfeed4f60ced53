"""The description of the API: complete, valid in itself, made of what is sent."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from daemon.web.api import Api
from daemon.web.described import ROUTES, VERBS
from daemon.web.openapi import document
from daemon.web.problems import CODE_STATUS, FAULT_STATUS
from tests.fakes.control import TOKEN, RigCase

DOCUMENT: dict[str, Any] = json.loads(document())
SAFE = ("get",)


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def routes() -> set[tuple[str, str]]:
    """Of the Klein map, in the description's words."""
    found = set()
    for rule in Api.app.url_map.iter_rules():
        for verb in VERBS:
            path = rule.rule.replace("<any(start,stop,restart):verb>", verb)
            path = re.sub(r"<(\w+)>", r"{\1}", path)
            found |= {(method, path) for method in (rule.methods or {"POST"}) - {"HEAD", "OPTIONS"}}
    return found


def test_every_route_is_described_and_nothing_else_is() -> None:
    assert {(route.method, route.path) for route in ROUTES} == routes()
    assert len(ROUTES) == len(routes())
    assert {(method.upper(), path) for method, path, _ in operations()} == routes()


def test_names_are_unique_and_every_variable_of_a_path_is_a_parameter() -> None:
    assert max(Counter(operation["operationId"] for _m, _p, operation in operations()).values()) == 1
    for _method, path, operation in operations():
        named = {p["name"] for p in operation.get("parameters", ()) if p["in"] == "path"}
        assert named == set(re.findall(r"{(\w+)}", path)), path


def test_what_changes_something_asks_for_the_token_and_says_401() -> None:
    for method, path, operation in operations():
        changes = method not in SAFE and path != "/heartbeat"
        assert ({"token": []} in operation["security"]) is changes, path
        assert ("401" in operation["responses"]) is changes, path


def test_every_reference_resolves() -> None:
    for target in re.findall(r'"\$ref":\s*"([^"]+)"', json.dumps(DOCUMENT)):
        place: Any = DOCUMENT
        for key in target.removeprefix("#/").split("/"):
            place = place[key]


@pytest.mark.parametrize("name", sorted(DOCUMENT["components"]["schemas"]))
def test_every_schema_is_one(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(DOCUMENT["components"]["schemas"][name])


def test_every_status_of_a_problem_is_described_somewhere() -> None:
    described = {status for _m, _p, operation in operations() for status in operation["responses"]}
    assert {str(int(status)) for status in (*FAULT_STATUS.values(), *CODE_STATUS.values())} <= described


class AnswersTest(RigCase):
    def prepare(self) -> None:
        self.lab.spec("web")
        self.lab.spec("broken", missing=True)

    def check(self, method: str, path: str, answer: Any) -> None:
        """An answer is as described: its status, its type, its body."""
        said = DOCUMENT["paths"][path][method]["responses"]
        self.assertIn(str(answer.status), said, path)
        response = said[str(answer.status)]
        if "$ref" in response:
            response = DOCUMENT["components"]["responses"][response["$ref"].rpartition("/")[2]]
        kind = answer.type.partition(";")[0]
        self.assertIn(kind, response["content"], path)
        if kind.endswith("json"):
            schema = {**response["content"][kind]["schema"], "components": DOCUMENT["components"]}
            jsonschema.Draft202012Validator(schema).validate(answer.json)

    def test_what_is_read_is_as_described(self) -> None:
        self.rig.bus.publish("agent.started", "an event", agent_id="web", data={"pid": 1})
        self.lab.run(120)
        fill = {"agent_id": "web", "name": "main.js", "update_id": "nothing", "component": "web"}
        for method, path, operation in operations():
            if method not in SAFE:
                continue
            target = re.sub(r"{(\w+)}", lambda found: fill[found[1]], path)
            with self.subTest(target):
                self.check(method, path, self.rig.connect().get(f"{target}?once&verbose"))
                self.assertEqual(operation["security"], [])

    def test_what_is_changed_is_as_described(self) -> None:
        for path, target in (
            ("/v1/agents/{agent_id}/restart", "/v1/agents/web/restart"), ("/v1/agents/{agent_id}/stop", "/v1/agents/web/stop"),
            ("/v1/agents/{agent_id}/start", "/v1/agents/broken/start"), ("/v1/agents/stop", "/v1/agents/stop"),
            ("/v1/config/reload", "/v1/config/reload?dry_run=true"), ("/v1/updates", "/v1/updates"),
            ("/v1/updates/{update_id}/cancel", "/v1/updates/nothing/cancel"), ("/v1/rollback/{component}", "/v1/rollback/web"),
            ("/heartbeat", "/heartbeat"),
        ):
            with self.subTest(target):
                client = self.rig.connect()
                client.request("POST", target, token=TOKEN, body=b"")
                while not client.transport.value():
                    self.lab.run(1)
                (answer,) = client.answers("POST")
                self.check("post", path, answer)
                if path != "/heartbeat":
                    self.check("post", path, self.rig.connect().post(target, token=""))

    def test_it_is_served(self) -> None:
        answer = self.client.get("/openapi.json")
        self.assertEqual((answer.status, answer.type, answer.json), (200, "application/json", DOCUMENT))
