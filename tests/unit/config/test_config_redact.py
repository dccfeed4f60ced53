"""The configuration and the plan as anybody may see them."""

from __future__ import annotations

import json

import yaml

from daemon.config.diff import diff
from daemon.config.redact import effective, plan
from daemon.config.secrets import REDACTED

SECRETS = """\
daemon: {labels: {site: berlin, join_token: hush-1}}
agents:
- id: a
  type: custom
  binary_path: /b
  config_file: /c
  env: {API_KEY: hush-2, DB_PASSWORD: hush-3, PORT: "8081", EMPTY_TOKEN: "", URL: "http://u:hush-4@h/p?token=hush-5&x=1"}
  args: [--token=hush-6, --password, hush-7, --key-file=/k, --key-file, /k2, -v, --auth-token, --next,
         password=hush-8, "http://u:hush-9@h/"]
  version_command: [x, --api-key, hush-10]
  health_check: {http_endpoint: "http://u:hush-11@h/?a=b", command: [x, --secret=hush-12]}
  logs: {compress: false}
collectors:
  exec: [{name: x, command: [y, --secret, hush-13]}]
  plugins: {p: {password: hush-14, nested: [{token: {a: hush-15}}], ca_file: /ca, key_file: /kf, url: "x://:hush-16@h"}}
resources: {webhook: "https://hooks.example.com/services/hush-17"}
manager: {tls: {cert_file: /crt, key_file: /pem}}
"""


def test_no_secret_is_shown_and_the_rest_is(load_text):
    shown = effective(load_text(SECRETS).config)
    text = json.dumps(shown)
    assert "hush" not in text
    agent = shown["agents"][0]
    assert agent["env"] == {
        "API_KEY": REDACTED,
        "DB_PASSWORD": REDACTED,
        "PORT": "8081",
        "EMPTY_TOKEN": "",
        "URL": f"http://{REDACTED}@h/p?token={REDACTED}&x=1",
    }
    assert agent["args"] == [
        f"--token={REDACTED}",
        "--password",
        REDACTED,
        "--key-file=/k",
        "--key-file",
        "/k2",
        "-v",
        "--auth-token",
        "--next",
        f"password={REDACTED}",
        f"http://{REDACTED}@h/",
    ]
    assert shown["daemon"]["labels"] == {"site": "berlin", "join_token": REDACTED}
    assert shown["manager"]["tls"]["key_file"] == "/pem"
    assert shown["resources"]["webhook"] == f"https://hooks.example.com/{REDACTED}"
    options = shown["collectors"]["plugins"]["p"]
    assert (options["ca_file"], options["key_file"], options["password"]) == ("/ca", "/kf", REDACTED)


def test_a_webhook_without_a_path_is_shown(load_text):
    shown = effective(load_text("resources: {webhook: 'http://u:p@h:80/'}").config)
    assert shown["resources"]["webhook"] == f"http://{REDACTED}@h:80/"


def test_the_effective_configuration_written_to_a_file_says_the_same(load_text):
    loaded = load_text(
        "daemon: {work_dir: /w, grpc: {}}\nagent_defaults: {restart: {jitter: 0.5}}\nagents:\n"
        "- {id: a, type: filebeat, binary_path: /b, config_file: /c, umask: '077', limits: {core: 7}}\n"
        "- {id: b, type: node_exporter, binary_path: /b, enabled: false}\n"
        "collectors: {exec: [{name: x, command: [y]}], plugins: {p: {q: [1, 2.5, null]}}}\n"
        "update: {allowed_urls: ['http://h']}\n"
    )
    again = load_text(yaml.safe_dump(effective(loaded.config)))
    assert again.config == loaded.config


def test_the_plan_is_json_ready_and_redacted(load_text):
    old = load_text("agents: [{id: a, type: custom, binary_path: /b, env: {TOKEN: hush-1}, umask: '022'}]")
    new = load_text(
        "daemon: {log_level: debug}\nagents: [{id: a, type: custom, binary_path: /b, env: {TOKEN: hush-2},"
        " umask: '077', args: [--token, hush-3]}]\nresources: {webhook: 'http://h/hush-4'}"
    )
    shown = plan(diff(old.config, new.config))
    assert "hush" not in json.dumps(shown)
    assert {"agent": "a", "key": "umask", "from": "022", "to": "077", "effect": "restart_agent"} in shown
    assert {"agent": "", "key": "daemon.log_level", "from": "info", "to": "debug", "effect": "live"} in shown
    assert {
        "agent": "a",
        "key": "env",
        "from": {"TOKEN": REDACTED},
        "to": {"TOKEN": REDACTED},
        "effect": "restart_agent",
    } in shown
