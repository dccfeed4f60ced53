"""Secrets planted everywhere: none is left, and what is no secret is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from daemon.cli.scrub import Scrubber, secrets_of
from daemon.config.load import load

CONFIG = """\
daemon: {labels: {auth_token: planted-label}}
resources: {webhook: "https://hooks.example/services/planted-hook"}
agents:
  - id: web
    type: custom
    binary_path: /bin/sleep
    env: {DB_PASSWORD: "planted \\"quoted\\" env", DATABASE: "postgres://user:planted-url@db/x"}
    args: ["--token=planted-flag", "--secret", "planted-word", "--port", "8080",
           '{"db": {"password":"planted-json"},"port":1}', "-c", "PASSWORD='planted script' exec web -u me:planted-user"]
    health_check: {http_endpoint: "http://me:planted-health@127.0.0.1/x?api_key=planted-query"}
"""


@pytest.fixture
def scrubbed(tmp_path: Path) -> Scrubber:
    path = tmp_path / "daemon.yaml"
    path.write_text(CONFIG)
    return Scrubber(secrets_of(load(path).config))


def test_the_secrets_of_the_configuration_are_found_wherever_they_turn_up(scrubbed: Scrubber) -> None:
    for secret in ("planted-label", "planted-hook", 'planted "quoted" env', "planted-url", "planted-flag",
                   "planted-word", "planted-health", "planted-query", "planted-json", "planted script", "planted-user"):
        for text in (f"agent said: {secret}!", json.dumps({"x": f"it said {secret}"})):
            assert "planted" not in scrubbed(text), (secret, scrubbed(text))


@pytest.mark.parametrize(
    "text",
    ["password=planted1", "password: planted2", '"api_key": "planted 3"', "token='planted 4'", "MY_SECRET_KEY=planted5",
     "Authorization: Bearer planted6.a-b_c=", "authorization=Basic planted7", "proxying with bearer planted8planted8",
     "redis://:planted9@h:1/0", "https://u:planted10@h/", "curl --api-token planted11 x", "?access_key=planted12&x=1",
     "-----BEGIN RSA PRIVATE KEY-----\nplanted13\nplanted14\n-----END RSA PRIVATE KEY-----",
     "-----BEGIN PRIVATE KEY-----\nplanted15 and cut", r'{"log":"password=\"planted16\" x"}', "passwd = planted17"],
)
def test_what_looks_like_a_secret_goes(text: str) -> None:
    shown = Scrubber(())(text)
    assert "planted" not in shown, shown
    assert "<redacted>" in shown


def test_names_that_smell_hide_their_values_in_data() -> None:
    data = {"a": [{"client_secret": "planted x", "port": 1}], "evidence": {"last_lines": ['password="planted y" z']}}
    shown = Scrubber(()).data(data)
    assert "planted" not in json.dumps(shown)
    assert shown["a"][0]["port"] == 1


@pytest.mark.parametrize(
    "text",
    ["token: null", "secrets: []", "agent web: CPU 180.3 % of one core", "https://127.0.0.1:9100/metrics",
     'hostdaemon_agent_state{agent="web",state="running"} 1.0', "work_dir/api.token", "public_key_file: /etc/k.pem",
     "2026-11-20T10:00:00Z ready"],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert Scrubber(())(text) == text


def test_a_short_secret_does_not_tear_holes_into_everything(tmp_path: Path) -> None:
    path = tmp_path / "daemon.yaml"
    path.write_text("agents:\n  - {id: a, type: custom, binary_path: /bin/sleep, env: {TOKEN: a}}\n")
    assert secrets_of(load(path).config) == frozenset()
