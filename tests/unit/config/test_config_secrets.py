"""What is secret in a text, by its name or form; and that no fault of a configuration tells it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from daemon.config.load import load
from daemon.config.secrets import named_shown, script_shown, smells, text_shown, url_shown, webhook_shown
from daemon.errors import ConfigValidateError


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://u:hush@h/x", "http://<redacted>@h/x"),
        ("http://u:hu@sh@h:1/x?a=1", "http://<redacted>@h:1/x?a=1"),
        ("http://hush@h", "http://<redacted>@h"),
        ("http://h/x?a=1&token=hush&b=2", "http://h/x?a=1&token=<redacted>&b=2"),
        ("https://h/x?X-Amz-Signature=hush", "https://h/x?X-Amz-Signature=<redacted>"),
        ("http://h/a@b?mail=a@b", "http://h/a@b?mail=a@b"),
        ("user@host", "user@host"),
    ],
)
def test_a_url_keeps_its_place_and_loses_its_secrets(text: str, shown: str) -> None:
    assert url_shown(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgres://me:hu/sh@db/x", "postgres://<redacted>@db/x"),
        ("http://h:80/a@b", "http://h:80/a@b"),
        ("said https://me:hush@h/x?token=hush&a=1 and more", "said https://<redacted>@h/x?token=<redacted>&a=1 and more"),
        ("http://h/#access_token=hush", "http://h/#access_token=<redacted>"),
        ("password=hush,user=me", "password=<redacted>,user=me"),
        ("password=hush,hush user=me", "password=<redacted> user=me"),
        ('password="cut off hu', 'password="<redacted>"'),
        ('{\\"secret\\": \\"hush\\", \\"a\\": 1}', '{\\"secret\\": \\"<redacted>\\", \\"a\\": 1}'),
        ("set-cookie: sid=hush; path=/", "set-cookie: <redacted>"),
        ("got eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJodXNoIn0.aHVzaA back", "got <redacted> back"),
        ("key=web auth=ok state=running", "key=web auth=ok state=running"),
        ("secret=\nthe next line", "secret=\nthe next line"),
        ("token: null, tokens: 12", "token: null, tokens: 12"),
        ("the private network, passed", "the private network, passed"),
    ],
)
def test_what_a_program_prints_keeps_its_words(text: str, shown: str) -> None:
    assert text_shown(text) == shown


@pytest.mark.parametrize("shape", ["a-" * 50_000, "token" * 20_000, "://a:b" * 20_000, "--a" * 30_000,
                                   "mysql " * 20_000, '\\"key' * 20_000, "=" * 100_000, "'" * 100_001])
def test_a_hostile_line_does_not_cost_the_square_of_its_length(shape: str) -> None:
    started = time.process_time()
    text_shown(shape)
    script_shown(shape)
    assert time.process_time() - started < 5  # it takes a tenth; the square would be minutes


@pytest.mark.parametrize(
    ("name", "secret"),
    [("API_KEY", True), ("DB_PASS", True), ("MYSQL_PWD", True), ("SENTRY_DSN", True), ("SLACK_WEBHOOK_URL", True),
     ("requirepass", True), ("authorization", True), ("PWD", False), ("OLDPWD", False), ("API_KEY_FILE", False),
     ("TOKEN_TTL", False), ("author", False), ("KEYSPACE", False), ("PATH", False), ("BYPASS", False)],
)
def test_names_smell_or_do_not(name: str, secret: bool) -> None:
    assert smells(name) is secret


def test_the_path_of_a_webhook_is_its_password() -> None:
    assert webhook_shown("https://u:p@h:1/services/hush?x=hush") == "https://h:1/<redacted>"
    assert webhook_shown("https://h/") == "https://h/"


def test_names_decide_of_values() -> None:
    found = named_shown({"API_KEY": "hush", "rack": "7", "URL": "http://u:hush@h/", "EMPTY_TOKEN": ""})
    assert found == {"API_KEY": "<redacted>", "rack": "7", "URL": "http://<redacted>@h/", "EMPTY_TOKEN": ""}
    found = named_shown({"JAVA_OPTS": "-Xmx1g -Dtrust.password=hush -v", "API_KEY_FILE": "/run/key", "PWD": "/srv"})
    assert found == {"JAVA_OPTS": "-Xmx1g -Dtrust.password=<redacted> -v", "API_KEY_FILE": "/run/key", "PWD": "/srv"}


@pytest.mark.parametrize(
    "yaml",
    [
        "agents: [{id: a, binary_path: /x, env: {TOKEN: 0417}}]",
        "agents: [{id: a, binary_path: /x, env: {TOKEN: on}}]",
        "agents: [{id: a, binary_path: /x, env: {'DB.PASSWORD': 0417}}]",
        "agents: [{id: a, binary_path: /x, args: '--token=0417'}]",
        "agents: [{id: a, binary_path: /x, health_check: {http_endpoint: 'htp://u:0417@h/?token=0417'}}]",
        "daemon: {labels: {api_key: 0417}}",
        "daemon: {labels: {api_key: 2026-11-20}}",
        "resources: {webhook: 'htp://h/services/0417'}",
        "resources: {webhook: 'https:///services/0417'}",
        "resources: {webhook: 0417}",
        "update: {allowed_urls: ['htp://u:0417@h/?key=0417']}",
        "collectors: {plugins: {x: {token: 0417}}}",
        "collectors: {exec: [{name: a, command: '--password=0417'}]}",
    ],
)
def test_no_fault_of_a_configuration_tells_a_secret(tmp_path: Path, yaml: str) -> None:
    path = tmp_path / "daemon.yaml"
    path.write_text(yaml + "\nunknown: 1\n")
    with pytest.raises(ConfigValidateError) as caught:
        load(path)
    told = str(caught.value) + str(caught.value.details)
    for secret in ("0417", "271", " on ", '"on"', "2026-11-20"):  # 0417 is 271
        assert secret not in told.replace(str(tmp_path), ""), told


def test_a_fault_still_quotes_what_is_no_secret(tmp_path: Path) -> None:
    path = tmp_path / "daemon.yaml"
    path.write_text("agents: [{id: a, binary_path: /x, env: {ANSWER: 0417}}]\ndaemon: {http_host: 'a b'}\n")
    with pytest.raises(ConfigValidateError) as caught:
        load(path)
    assert "0417" in str(caught.value.details) and '"a b"' in str(caught.value.details)
