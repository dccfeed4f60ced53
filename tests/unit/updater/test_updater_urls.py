"""Prefixes of allowed_urls against URLs that want to look like what is below them."""

from __future__ import annotations

import pytest

from daemon.updater.download.urls import BadUrlError, allowed_url, parse_prefix, parse_url

ALLOWED = ("https://good.example/packages/", "http://[2001:db8::1]:8080/p", "http://192.0.2.7/")


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("https://good.example/packages/a.tar.gz", "https://good.example/packages/a.tar.gz"),
        ("HTTPS://GOOD.example:443/packages/a", "https://good.example/packages/a"),
        ("https://good.example:0443/packages/a", "https://good.example/packages/a"),
        ("https://good.example:/packages/a", "https://good.example/packages/a"),
        ("https://good.example./packages/a", "https://good.example/packages/a"),
        ("https://good.example/packages/", "https://good.example/packages/"),
        ("https://good.example/packages/a//b", "https://good.example/packages/a//b"),
        ("https://good.example/%70ackages/a%7eb%2bc%e4", "https://good.example/packages/a~b%2Bc%E4"),
        ("https://good.example/packages/a?sig=..%2f&x=/../#part", "https://good.example/packages/a?sig=..%2f&x=/../"),
        ("https://good.example/packages/..a/b..", "https://good.example/packages/..a/b.."),
        ("https://u%40x:p@good.example/packages/a", "https://u%40x:p@good.example/packages/a"),
        ("http://[2001:DB8:0::1]:8080/p/a", "http://[2001:db8::1]:8080/p/a"),
        ("http://[2001:db8::1]:8080/p", "http://[2001:db8::1]:8080/p"),
        ("http://192.0.2.7:80/anything", "http://192.0.2.7/anything"),
        ("http://192.0.2.7", "http://192.0.2.7/"),
    ],
)
def test_what_is_below_a_prefix_is_asked_for_in_its_one_spelling(url: str, asked: str) -> None:
    assert allowed_url(url, ALLOWED).text == asked
    assert parse_url(asked).text == asked


@pytest.mark.parametrize(
    "url",
    [
        # another host that begins, ends or looks like ours
        "https://good.example.evil.example/packages/a",
        "https://good.exampleevil/packages/a",
        "https://evil-good.example/packages/a",
        "https://evil.example/packages/a",
        "https://evil.example/https://good.example/packages/a",
        "https://good.example:pw@evil.example/packages/a",
        "https://good.example@evil.example/packages/a",
        "https://good.example%2fpackages@evil.example/packages/a",
        "https://good.example%00.evil.example/packages/a",
        "https://good.example%2eevil.example/packages/a",
        "https://evil.example#@good.example/packages/a",
        "https://evil.example?@good.example/packages/a",
        "https://evil.example\\@good.example/packages/a",
        "https://good.example\\packages\\a",
        "https://evil.example/@good.example/packages/a",
        "https://u@evil.example@good.example/packages/a",
        "https://g\u043eod.example/packages/a",  # a Cyrillic o
        "https://good\u3002example/packages/a",  # an ideographic full stop
        "https://good.example\uff0fpackages/a",  # a full-width slash
        "https://\uff47ood.example/packages/a",
        "https://xn--god-0qa.example/packages/a",
        "https://good..example/packages/a",
        "https://good.example../packages/a",
        "https://.good.example/packages/a",
        "https://[good.example]/packages/a",
        "https://good.example[::1]/packages/a",
        "https:///packages/a",
        "https://:443/packages/a",
        "https:good.example/packages/a",
        "https:/good.example/packages/a",
        "//good.example/packages/a",
        "good.example/packages/a",
        # another scheme or port
        "http://good.example/packages/a",
        "file:///packages/a",
        "ftp://good.example/packages/a",
        "javascript://good.example/packages/a",
        "https+x://good.example/packages/a",
        "https://good.example:8443/packages/a",
        "https://good.example:80/packages/a",
        "https://good.example:0/packages/a",
        "https://good.example:65536/packages/a",
        "https://good.example:443443/packages/a",
        "https://good.example:4\u0664\u0663/packages/a",
        "https://good.example:+443/packages/a",
        "https://good.example:443:443/packages/a",
        "https://good.example:443@evil.example/packages/a",
        # another path
        "https://good.example/",
        "https://good.example/packages",
        "https://good.example/packagesevil/a",
        "https://good.example/Packages/a",
        "https://good.example//packages/a",
        "https://good.example/packages/../secret",
        "https://good.example/packages/..",
        "https://good.example/packages/./../secret",
        "https://good.example/packages/%2e%2e/secret",
        "https://good.example/packages/.%2E/secret",
        "https://good.example/packages/%2e./secret",
        "https://good.example/packages/..%2fsecret",
        "https://good.example/packages/..%5csecret",
        "https://good.example/packages/a%2f..%2f..%2fsecret",
        "https://good.example/packages/%252e%252e/secret",
        "https://good.example/packages/..;/secret",
        "https://good.example/packages/..;x=y/secret",
        "https://good.example/packages/..%3b/secret",
        "https://good.example/packages/..%20/secret",
        "https://good.example/packages/%2e%2e%09/secret",
        "https://good.example/packages/.../secret",
        "https://good.example/packages/%00",
        "https://good.example/packages/a%0d%0aHost:%20evil",
        "https://good.example/packages/%zz",
        "https://good.example/packages/%c0%ae%c0%ae%2fsecret",
        "https://good.example/packages%2fa",
        "https://good.example?/packages/a",
        "https://good.example;/packages/a",
        # what does not belong into a URL
        " https://good.example/packages/a",
        "https://good.example/packages/a b",
        "https://good.example/packages/a\n",
        "https://good.example/packages/a\r\nHost: evil.example",
        "https://good.\texample/packages/a",
        "https://good.example/packages/\x00",
        "https://good.example/packages/\x7f",
        "https://good.example/packages/<a>",
        "https://good.example/packages/" + "a" * 9000,
        "",
        # other spellings of an address
        "http://192.0.2.07/a",
        "http://192.0.519/a",
        "http://3221225991/a",
        "http://0xc0000207/a",
        "http://0xc0.0x00.0x02.0x07/a",
        "http://0300.0.2.7/a",
        "http://192.0.2.7.1/a",
        "http://192.0.2.8/a",
        "http://[::ffff:192.0.2.7]/a",
        "http://[2001:db8::1]/p/a",
        "http://[2001:db8::1%25eth0]:8080/p/a",
        "http://[2001:db8::2]:8080/p/a",
        "http://[2001:db8::1:8080/p/a",
        "http://2001:db8::1:8080/p/a",
        "http://[2001:db8::1]:8080/pp",
    ],
)
def test_what_only_looks_like_it_is_refused(url: str) -> None:
    with pytest.raises(BadUrlError):
        allowed_url(url, ALLOWED)


def test_without_a_prefix_there_is_no_url() -> None:
    with pytest.raises(BadUrlError, match="not below any prefix"):
        allowed_url("https://good.example/packages/a", ())


@pytest.mark.parametrize(
    ("prefix", "url", "good"),
    [
        ("https://good.example/packages", "https://good.example/packages", True),
        ("https://good.example/packages", "https://good.example/packages/a", True),
        ("https://good.example/packages", "https://good.example/packages?a", True),
        ("https://good.example/packages", "https://good.example/packages-evil/a", False),
        ("https://good.example", "https://good.example/a", True),
        ("https://good.example", "https://good.example.evil/a", False),
        ("https://good.example:443/", "https://good.example/a", True),
        ("HTTPS://Good.Example./", "https://good.example/a", True),
        ("https://good.example/a/thing-1.0.tar.gz", "https://good.example/a/thing-1.0.tar.gz", True),
        ("https://good.example/a/thing-1.0.tar.gz", "https://good.example/a/thing-1.0.tar.gz.evil", False),
        ("https://good.example/%70", "https://good.example/p/a", True),
    ],
)
def test_a_prefix_ends_between_segments(prefix: str, url: str, good: bool) -> None:
    if good:
        assert allowed_url(url, (prefix,))
    else:
        with pytest.raises(BadUrlError):
            allowed_url(url, (prefix,))


@pytest.mark.parametrize("entry", ["https://good.example/a?b=", "https://good.example/#a", "https://u:p@good.example/", "https://good.example/../"])
def test_an_entry_that_is_no_prefix_permits_nothing_and_is_told(entry: str) -> None:
    with pytest.raises(BadUrlError):
        parse_prefix(entry)
    with pytest.raises(BadUrlError, match=r"allowed_urls\[1\] permits nothing"):
        allowed_url("https://good.example/a?b=c", ("https://other.example/", entry))
    assert allowed_url("https://good.example/a", (entry, "https://good.example/"))


def test_passwords_and_signatures_are_not_shown() -> None:
    url = parse_url("https://user:hunter2@good.example:8443/a?X-Signature=hunter3")
    assert url.shown == "https://good.example:8443/a"
    assert "hunter" not in repr(url)
    with pytest.raises(BadUrlError) as caught:
        allowed_url("https://user:hunter2@evil.example/a?s=hunter3", ALLOWED)
    assert "evil.example/a" in str(caught.value)
    assert "hunter" not in str(caught.value)
