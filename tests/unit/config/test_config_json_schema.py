"""The JSON schema for editors agrees with what load accepts."""

from __future__ import annotations

import json
import re

import pytest

from daemon.config.json_schema import DRAFT, json_schema
from daemon.errors import ConfigValidateError

jsonschema = pytest.importorskip("jsonschema")
yaml = pytest.importorskip("yaml")

AGENT = "agents: [{id: a, type: custom, binary_path: /b%s}]"


@pytest.fixture(scope="module")
def validator():
    jsonschema.Draft7Validator.check_schema(json_schema())
    return jsonschema.Draft7Validator(json_schema())


def test_it_is_draft_07_json_with_definitions():
    schema = json.loads(json.dumps(json_schema()))
    assert schema["$schema"] == DRAFT
    assert "AgentConfig" in schema["definitions"]
    references = set(re.findall(r'"#/definitions/([^"]+)"', json.dumps(schema)))
    assert references == set(schema["definitions"])


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "daemon: {}",
        "agent: {}",
        "agents:",
        "daemon: {grpc_port: null, labels: {a: 1}}",
        AGENT % "",
        AGENT % ", stop_timeout: 1m30s, umask: '022', args: [x, 1], logs: {max_size: 5MiB}",
        AGENT % ", start_seconds: 0.5, health_check: {memory_threshold: 7}, restart: {policy: never}",
        "agent: {binary_path: /b}",
        "collectors: {exec: [{name: x, command: [y]}], plugins: {p: {q: [1]}}}",
    ],
)
def test_good_files_are_good_for_both(load_text, validator, text):
    validator.validate(yaml.safe_load(text))
    load_text(text if text != "{}" else "daemon: {}")


@pytest.mark.parametrize(
    "text",
    [
        "x: 1",
        "daemon: {http_port: 70000}",
        "daemon: {http_port: '1'}",
        "daemon: []",
        "agents: {}",
        "agents: [{id: a}]",
        AGENT % ", heartbeat_from_start: true",
        AGENT % ", type: x",
        AGENT % ", stop_timeout: 1x",
        AGENT % ", stop_timeout: ''",
        AGENT % ", umask: 18",
        AGENT % ", umask: '9'",
        AGENT % ", restart: {jitter: 2}",
        AGENT % ", logs: {max_size: 1.5}",
        AGENT % ", logs: {max_size: 5mb}",
        AGENT % ", args: [[]]",
        AGENT % ", enabled: 'yes'",
        "agents: [{id: '-x', type: custom, binary_path: /b}]",
        "collectors: {exec: [{name: x, command: []}]}",
        "agent: {args: [x]}",
        "daemon: {id: null}",
    ],
)
def test_bad_files_are_bad_for_both(load_text, validator, text):
    assert not validator.is_valid(yaml.safe_load(text))
    with pytest.raises(ConfigValidateError):
        load_text(text)


def test_defaults_in_it_are_good_values(validator):
    schema = json_schema()
    for name, definition in schema["definitions"].items():
        for key, value in definition.get("properties", {}).items():
            if "default" in value:
                resolver = {**value, "definitions": schema["definitions"]}
                errors = list(jsonschema.Draft7Validator(resolver).iter_errors(value["default"]))
                assert not errors, (name, key, errors)
