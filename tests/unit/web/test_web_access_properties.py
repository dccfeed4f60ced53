"""Properties of access: no text that is not the token opens a change, no foreign name reads."""

from __future__ import annotations

import ipaddress

import pytest

from daemon.errors import RequestError, RequestFault
from daemon.web.access import Asker, check_access, names_us

pytest.importorskip("hypothesis")
from hypothesis import given, settings
from hypothesis import strategies as st

SETTINGS = settings(derandomize=True, deadline=None, max_examples=200)
TOKEN = "t" * 64
LABEL = st.from_regex(r"[a-z][a-z0-9-]{0,20}", fullmatch=True)
ADDRESS = st.ip_addresses().map(lambda a: f"[{a}]" if a.version == 6 else str(a))
PORT = st.just("") | st.integers(0, 65535).map(lambda port: f":{port}")


def refusal(asker: Asker, mutates: bool) -> RequestFault | None:
    try:
        check_access(asker, token=TOKEN, our_names=frozenset({"host7"}), mutates=mutates)
    except RequestError as error:
        return error.fault
    return None


@SETTINGS
@given(host=st.text(max_size=40), origin=st.text(max_size=40), given_=st.text(max_size=80), mutates=st.booleans())
def test_hostile_headers_never_raise_anything_else_and_never_open_a_change(
    host: str, origin: str, given_: str, mutates: bool
) -> None:
    asker = Asker(method="POST", host=host, origin=origin, authorization=given_, peer="p")
    answer = refusal(asker, mutates)
    assert answer in (None, RequestFault.FORBIDDEN, RequestFault.UNAUTHORIZED)
    if mutates:
        assert answer is not None or given_.partition(" ")[2].strip() == TOKEN


@SETTINGS
@given(address=ADDRESS, port=PORT)
def test_every_address_is_us(address: str, port: str) -> None:
    assert names_us(address + port, frozenset())


@SETTINGS
@given(labels=st.lists(LABEL, min_size=2, max_size=4), prefix=ADDRESS | st.just("localhost"), port=PORT)
def test_a_name_below_a_foreign_domain_is_never_us(labels: list[str], prefix: str, port: str) -> None:
    domain = ".".join(labels)
    if domain.endswith(".localhost"):
        return
    for host in (domain, f"{prefix}.{domain}", f"{prefix}@{domain}", f"{prefix}:1@{domain}"):
        assert not names_us(host + port, frozenset({"host7"}))


@SETTINGS
@given(host=st.text(max_size=30))
def test_what_names_us_is_localhost_an_address_or_a_name_of_ours(host: str) -> None:
    if names_us(host, frozenset({"host7"})):
        name = host.strip().lower().removeprefix("[").partition("]")[0]
        if not host.strip().startswith("["):
            name = name.partition(":")[0]
        if not (name in ("localhost", "host7") or name.endswith(".localhost")):
            ipaddress.ip_address(name.partition("%")[0])


@SETTINGS
@given(wrong=st.text(max_size=70).filter(lambda text: text.strip() != TOKEN))
def test_only_the_token_itself_opens_a_change(wrong: str) -> None:
    asker = Asker(method="POST", host="localhost", origin="", authorization=f"Bearer {wrong}", peer="p")
    assert refusal(asker, True) is RequestFault.UNAUTHORIZED
