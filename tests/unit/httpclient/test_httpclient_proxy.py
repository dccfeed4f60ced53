"""Which proxy the environment asks for."""

from __future__ import annotations

import pytest

from daemon.httpclient import HttpError
from daemon.httpclient.proxy import Proxy, proxy_for

HTTP, HTTPS = "http://packages.example/x", "https://packages.example/x"


@pytest.mark.parametrize(
    ("url", "environ", "host", "port"),
    [
        (HTTP, {"http_proxy": "http://proxy.example:3128"}, "proxy.example", 3128),
        (HTTP, {"http_proxy": "http://proxy.example:3128/"}, "proxy.example", 3128),
        (HTTP, {"http_proxy": " proxy.example:3128 "}, "proxy.example", 3128),
        (HTTP, {"http_proxy": "proxy.example"}, "proxy.example", 80),
        (HTTP, {"HTTP_PROXY": "http://proxy.example:1"}, "proxy.example", 1),
        (HTTP, {"http_proxy": "low:1", "HTTP_PROXY": "up:2"}, "low", 1),
        (HTTPS, {"https_proxy": "low:1", "HTTPS_PROXY": "up:2"}, "low", 1),
        (HTTPS, {"HTTPS_PROXY": "up:2", "REQUEST_METHOD": "GET"}, "up", 2),
        (HTTP, {"http_proxy": "low:1", "REQUEST_METHOD": "GET"}, "low", 1),
        (HTTPS, {"https_proxy": "http://[::1]:3128"}, "::1", 3128),
        (HTTPS, {"https_proxy": "HTTP://proxy.example:3128"}, "proxy.example", 3128),
    ],
)
def test_it_is_named(url: str, environ: dict[str, str], host: str, port: int) -> None:
    assert proxy_for(url, environ) == Proxy(host=host, port=port)


@pytest.mark.parametrize(
    ("url", "environ"),
    [
        (HTTP, {}),
        (HTTP, {"https_proxy": "p:1"}),
        (HTTPS, {"http_proxy": "p:1"}),
        (HTTP, {"HTTP_PROXY": "p:1", "REQUEST_METHOD": "GET"}),  # a header of whoever asks a CGI program
        (HTTP, {"http_proxy": "", "HTTP_PROXY": "p:1"}),  # switched off on purpose
    ],
)
def test_there_is_none(url: str, environ: dict[str, str]) -> None:
    assert proxy_for(url, environ) is None


@pytest.mark.parametrize(
    ("url", "listed", "direct"),
    [
        (HTTP, "*", True),
        (HTTP, "packages.example", True),
        (HTTP, "PACKAGES.Example", True),
        ("http://packages.example./x", "packages.example", True),
        ("http://Packages.Example/x", "packages.example", True),
        (HTTP, "example", True),
        (HTTP, ".example", True),
        (HTTP, "*.example", True),
        (HTTP, "a.b, ,example", True),
        (HTTP, "a.b example", True),
        (HTTP, "ages.example", False),
        (HTTP, "packages.example.org", False),
        (HTTP, "", False),
        (HTTP, ".", False),
        (HTTP, "packages.example:80", True),
        (HTTP, "packages.example:8080", False),
        ("http://packages.example:8080/", "packages.example:8080", True),
        (HTTPS, "packages.example:443", True),
        (HTTPS, "packages.example:80", False),
        ("http://10.1.2.3/", "10.0.0.0/8", True),
        ("http://11.1.2.3/", "10.0.0.0/8", False),
        ("http://10.1.2.3/", "10.1.2.3", True),
        ("http://10.1.2.3:81/", "10.1.2.3:80", False),
        ("http://10.1.2.3:81/", "10.1.2.3:81", True),
        ("http://110.1.2.3/", "10.1.2.3", False),
        ("http://[fd00::1]/", "fd00::/8", True),
        ("http://[fd00::1]:81/", "[fd00:0::1]", True),
        ("http://[fd00::1]:81/", "[fd00::1]:81", True),
        ("http://[fd00::1]:81/", "[fd00::1]:82", False),
        (HTTP, "10.0.0.0/8", False),
    ],
)
def test_exceptions(url: str, listed: str, direct: bool) -> None:
    proxies = {"http_proxy": "p:1", "https_proxy": "p:1"}
    assert (proxy_for(url, {**proxies, "no_proxy": listed}) is None) is direct
    assert (proxy_for(url, {**proxies, "NO_PROXY": listed}) is None) is direct


def test_the_lower_case_exceptions_win() -> None:
    assert proxy_for(HTTP, {"http_proxy": "p:1", "no_proxy": "", "NO_PROXY": "*"}) is not None


def test_user_and_password_become_a_header_and_are_not_shown() -> None:
    proxy = proxy_for(HTTP, {"http_proxy": "http://us%40er:p%3Ass@p:1"})
    assert proxy is not None
    assert (proxy.host, proxy.authorization) == ("p", "Basic dXNAZXI6cDpzcw==")
    assert "Basic" not in repr(proxy)


@pytest.mark.parametrize(
    "written", ["socks5://p:1", "https://p:1", "http://", "http://p:0", "http://p:99999", "http://p:x", "http://[::1", "http://prôxy:1"]
)
def test_what_is_no_proxy_of_ours_is_refused_and_not_gone_round(written: str) -> None:
    with pytest.raises(HttpError) as caught:
        proxy_for(HTTP, {"http_proxy": written})
    assert caught.value.final
    assert "http_proxy" in str(caught.value)
