"""What is secret in a text, by its name or form; and that no fault of a configuration tells it."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.config.load import load
from daemon.config.secrets import named_shown, url_shown, webhook_shown, word_shown, words_shown
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
    ("words", "shown"),
    [
        (("--token=hush", "-v"), ["--token=<redacted>", "-v"]),
        (("--password", "hush", "more"), ["--password", "<redacted>", "more"]),
        (("--password", "--verbose"), ["--password", "--verbose"]),
        (("--key-file", "/etc/key"), ["--key-file", "/etc/key"]),
        (("SECRET:hush",), ["SECRET:<redacted>"]),
        (("--db", "postgres://u:hush@h/"), ["--db", "postgres://<redacted>@h/"]),
    ],
)
def test_arguments_lose_what_stands_behind_a_secret_name(words: tuple[str, ...], shown: list[str]) -> None:
    assert words_shown(words) == shown


def test_the_path_of_a_webhook_is_its_password() -> None:
    assert webhook_shown("https://u:p@h:1/services/hush?x=hush") == "https://h:1/<redacted>"
    assert webhook_shown("https://h/") == "https://h/"


def test_names_decide_of_values() -> None:
    found = named_shown({"API_KEY": "hush", "rack": "7", "URL": "http://u:hush@h/", "EMPTY_TOKEN": ""})
    assert found == {"API_KEY": "<redacted>", "rack": "7", "URL": "http://<redacted>@h/", "EMPTY_TOKEN": ""}


def test_one_word() -> None:
    assert word_shown("token=hush") == "token=<redacted>" and word_shown("plain") == "plain"


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
