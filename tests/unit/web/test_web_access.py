"""Who may do what over HTTP: Host, Origin and token."""

from __future__ import annotations

from dataclasses import replace

import pytest

from daemon.errors import RequestError, RequestFault
from daemon.web.access import Asker, check_access, host_name, names_us
from daemon.web.names import names_of_host

TOKEN = "0123456789abcdef" * 4
OURS = names_of_host("Host7.example.org", "127.0.0.1")
ASKER = Asker(method="GET", host="localhost:8084", origin="", authorization="", peer="p")


def refusal(asker: Asker, *, mutates: bool = False, token: str = TOKEN) -> RequestFault | None:
    try:
        check_access(asker, token=token, our_names=OURS, mutates=mutates)
    except RequestError as error:
        assert error.message
        return error.fault
    return None


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("localhost", "localhost"), ("LOCALHOST:8084", "localhost"), (" localhost ", "localhost"),
        ("[::1]:8084", "::1"), ("[::1]", "::1"), ("[fe80::1%eth0]:1", "fe80::1%eth0"), ("a.b:1", "a.b"),
        ("localhost:", "localhost"), ("", ""), (":80", ""), ("[::1", ""), ("[]", ""), ("localhost:80@evil", ""),
        ("localhost@evil", ""), ("[::1].evil.example", ""), ("localhost:x", ""), ("::1", ""), ("a b", ""),
        ("localhost/x", ""), ("localhost#", ""), ("localhost:80:80", ""), ("\ufffd", "\ufffd"),
    ],
)
def test_the_name_in_a_host_header(host: str, name: str) -> None:
    assert host_name(host) == name


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:8084", "dev.localhost", "127.0.0.1", "127.0.0.1:8084", "192.0.2.7", "[::1]:8084",
     "[fe80::1%eth0]", "host7.example.org", "HOST7.EXAMPLE.ORG:8084", "host7"],
)
def test_addresses_localhost_and_our_names_are_us(host: str) -> None:
    assert names_us(host, OURS)
    assert refusal(replace(ASKER, host=host)) is None


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8084", "localhost.evil.example", "127.0.0.1.evil.example", "notlocalhost",
     "host7.example.org.evil.example", "xhost7", "example.org", "localhost:80@evil.example", "127.1",
     "0x7f000001", "2130706433", "[::1].evil.example", "[evil.example]", "127.0.0.1, evil.example", "*",
     "127.0.0.1 evil.example", "\ufffd", "localhost%00", "[::1", "rebind.127.0.0.1.nip.io"],
)
def test_a_rebound_name_of_somebody_else_is_refused_even_for_reading(host: str) -> None:
    assert not names_us(host, OURS)
    for authorization in ("", f"Bearer {TOKEN}"):
        asker = replace(ASKER, host=host, authorization=authorization)
        assert refusal(asker) is RequestFault.FORBIDDEN
        assert refusal(asker, mutates=True) is RequestFault.FORBIDDEN


def test_a_request_without_host_is_no_browsers_and_passes() -> None:
    assert refusal(replace(ASKER, host="")) is None
    assert refusal(replace(ASKER, host=""), mutates=True) is RequestFault.UNAUTHORIZED


@pytest.mark.parametrize(
    ("origin", "secure", "passes"),
    [
        ("http://localhost:8084", False, True), ("HTTP://LOCALHOST:8084", False, True),
        ("https://localhost:8084", True, True), ("https://localhost:8084", False, False),
        ("http://localhost:8084", True, False), ("http://localhost", False, False),
        ("http://localhost:3000", False, False), ("http://evil.example", False, False), ("null", False, False),
        ("file://", False, False), ("http://localhost:8084.evil.example", False, False),
        ("http://localhost:8084/", False, False), ("\ufffd", False, False),
    ],
)
def test_only_a_page_of_ours_may_use_the_daemon_from_a_browser(origin: str, secure: bool, passes: bool) -> None:
    asker = replace(ASKER, origin=origin, secure=secure, authorization=f"Bearer {TOKEN}")
    for mutates in (False, True):
        assert refusal(asker, mutates=mutates) is (None if passes else RequestFault.FORBIDDEN)


@pytest.mark.parametrize(
    ("authorization", "passes"),
    [
        (f"Bearer {TOKEN}", True), (f"bearer {TOKEN}", True), (f"BEARER  {TOKEN} ", True),
        ("", False), (TOKEN, False), ("Bearer", False), ("Bearer ", False), (f"Basic {TOKEN}", False),
        (f"Bearer {TOKEN[:-1]}", False), (f"Bearer {TOKEN}x", False), (f"Bearer {TOKEN.upper()}", False),
        (f"Bearer {TOKEN} {TOKEN}", False), (f"Bearer\t{TOKEN}", False), ("Bearer \ufffd\x00", False),
        ("Bearer " + "x" * 10_000, False),
    ],
)
def test_a_change_needs_the_token(authorization: str, passes: bool) -> None:
    asker = replace(ASKER, method="POST", authorization=authorization)
    assert refusal(asker, mutates=True) is (None if passes else RequestFault.UNAUTHORIZED)
    assert refusal(asker, mutates=False) is None


def test_an_empty_token_of_ours_opens_nothing() -> None:
    for authorization in ("", "Bearer", "Bearer "):
        asker = replace(ASKER, authorization=authorization)
        assert refusal(asker, mutates=True, token="") is RequestFault.UNAUTHORIZED


def test_a_client_certificate_stands_for_the_token_but_not_for_the_host() -> None:
    assert refusal(replace(ASKER, client_certificate=True), mutates=True) is None
    foreign = replace(ASKER, client_certificate=True, host="evil.example")
    assert refusal(foreign, mutates=True) is RequestFault.FORBIDDEN


def test_the_control_socket_needs_none_of_it() -> None:
    asker = replace(ASKER, local=True, host="anything at all", origin="null")
    assert refusal(asker, mutates=True) is None


def test_our_names_are_host_first_label_and_address_in_lower_case() -> None:
    assert frozenset({"host7.example.org", "host7", "127.0.0.1"}) == OURS
    assert names_of_host("", "") == frozenset()
