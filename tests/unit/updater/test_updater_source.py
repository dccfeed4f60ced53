"""Whether a request for an update may be tried at all."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from daemon.config.schema import UpdateConfig
from daemon.errors import RequestError, RequestFault
from daemon.model.update import UpdateRequest
from daemon.updater.download.source import Source, check_source

URL = "https://good.example/packages/thing.tar.gz"
SIGNATURE = base64.b64encode(b"s" * 256).decode()
CONFIG = UpdateConfig(public_key_file="/k.pem", allowed_urls=("https://good.example/packages/",), max_inline_size=1000)


def request(**changed: Any) -> UpdateRequest:
    return UpdateRequest(**{
        "component": "thing", "version": "1.1.0", "hash": "ab" * 32, "signature": SIGNATURE, "download_url": URL, **changed})


def fault(asked: UpdateRequest, config: UpdateConfig = CONFIG) -> tuple[RequestFault, str]:
    with pytest.raises(RequestError) as caught:
        check_source(asked, config)
    return caught.value.fault, caught.value.message


def test_a_url_that_is_allowed_is_normalised() -> None:
    found = check_source(request(hash="AB" * 32, download_url=URL.replace("https", "HTTPS") + "?sig=1"), CONFIG)
    assert found == Source(version="1.1.0", sha256="ab" * 32, signature=SIGNATURE, url=URL + "?sig=1", url_shown=URL)


def test_a_signature_as_openssl_breaks_it() -> None:
    lines = "\n".join(SIGNATURE[begin:begin + 64] for begin in range(0, len(SIGNATURE), 64)) + "\n"
    assert check_source(request(signature=lines), CONFIG).signature == SIGNATURE


@pytest.mark.parametrize("version", ["1", "v1.2.3", "1.0.0-rc.1+build.5", "1.0~beta1", "2024.01.02-SNAPSHOT"])
def test_versions_of_every_make(version: str) -> None:
    assert check_source(request(version=version), CONFIG).version == version


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"version": ""}, "version"),
        ({"version": "../1"}, "version"),
        ({"version": "1/2"}, "version"),
        ({"version": ".1"}, "version"),
        ({"version": "1.0\n"}, "version"),
        ({"version": "1 0"}, "version"),
        ({"version": "１"}, "version"),
        ({"version": "1" * 129}, "version"),
        ({"hash": ""}, "hash"),
        ({"hash": "ab" * 31}, "hash"),
        ({"hash": "ab" * 32 + "\n"}, "hash"),
        ({"hash": "xy" * 32}, "hash"),
        ({"hash": "sha256:" + "ab" * 32}, "hash"),
        ({"signature": ""}, "signature"),
        ({"signature": "!!!!"}, "signature"),
        ({"signature": "YQ"}, "signature"),
        ({"signature": "ýQ=="}, "signature"),
        ({"signature": base64.b64encode(b"s" * 2049).decode()}, "signature"),
        ({"download_url": ""}, "exactly one"),
        ({"update_data": b"x"}, "exactly one"),
    ],
)
def test_a_wrong_form(changed: dict[str, Any], text: str) -> None:
    kind, message = fault(request(**changed))
    assert kind is RequestFault.INVALID
    assert text in message


def test_a_url_that_is_not_allowed() -> None:
    kind, message = fault(request(download_url="https://evil.example/packages/thing.tar.gz"))
    assert kind is RequestFault.FORBIDDEN
    assert "https://evil.example/packages/thing.tar.gz is not below any prefix in update.allowed_urls" in message


def test_without_prefixes_there_is_no_url_and_the_key_is_named() -> None:
    kind, message = fault(request(), UpdateConfig(public_key_file="/k.pem"))
    assert kind is RequestFault.PRECONDITION
    assert "update.allowed_urls" in message


def test_without_keys_there_are_no_updates() -> None:
    kind, message = fault(request(), UpdateConfig(allowed_urls=CONFIG.allowed_urls))
    assert kind is RequestFault.PRECONDITION
    assert "update.public_key_file" in message


def test_inline_data_needs_no_url() -> None:
    asked = request(download_url="", update_data=b"x" * 1000)
    found = check_source(asked, UpdateConfig(public_key_file="/k.pem", max_inline_size=1000))
    assert (found.data, found.url) == (asked.update_data, "")


@pytest.mark.parametrize(("key", "value"), [("max_inline_size", 999), ("max_package_size", 999)])
def test_inline_data_over_a_limit_names_the_limit(key: str, value: int) -> None:
    config = UpdateConfig(**{"public_key_file": "/k.pem", "max_inline_size": 5000, "max_package_size": 5000, key: value})
    kind, message = fault(request(download_url="", update_data=b"x" * 1000), config)
    assert kind is RequestFault.TOO_LARGE
    assert f"1000 bytes, 999 are allowed: raise update.{key}" in message
