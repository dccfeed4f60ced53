"""What a manifest may say, and where a package may be installed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from daemon.errors import UpdateVerifyError
from daemon.updater.package.manifest import (
    DEPTH_MAX,
    PATH_MAX,
    SIZE_MAX,
    check,
    fault_of_name,
    fault_of_names,
    parse,
)

SHA = "a" * 64
GOOD: dict[str, Any] = {
    "component": "thing", "version": "1.1.0", "os": "linux", "arch": "amd64", "files": {"thing": {"sha256": SHA}},
}
DAEMON = GOOD | {"component": "daemon", "python": "cp311", "libc": "glibc-2.28"}
HERE: dict[str, Any] = {
    "components": {"thing"}, "version": "1.1.0", "installed": "1.0.0", "os": "linux", "arch": "amd64",
    "python": "cp311", "libc": "glibc-2.36", "now": 1_800_000_000.0,
}


def text(manifest: dict[str, Any] = GOOD, **keys: Any) -> bytes:
    return json.dumps(manifest | keys).encode()


def test_a_small_one_gets_its_defaults() -> None:
    found = parse(text())
    assert (found.component, found.version, found.main, found.expires) == ("thing", "1.1.0", "thing", "")
    assert found.mode_of("thing") == 0o755


def test_modes_are_those_written_else_by_what_the_file_is() -> None:
    files = {"bin/x": {"sha256": SHA}, "data": {"sha256": SHA}, "key": {"sha256": SHA, "mode": "0600"}}
    found = parse(text(files=files, main="bin/x"))
    assert [found.mode_of(name) for name in files] == [0o755, 0o644, 0o600]


def test_keys_of_a_newer_maker_are_left_alone() -> None:
    assert parse(text(newer={"deep": [1]}, files={"thing": {"sha256": SHA, "newer": 1}})) == parse(text())


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", "truncated"), (b"[]", "Expected `object`"), (b"null", "Expected `object`"), (b"{}", "component"),
        (text() + b"x", "trailing"), (b"\xef\xbb\xbf" + text(), "malformed"),
        (text(component=1), "component"), (text(version=None), "version"), (text(files=[]), "files"),
        (text(files={"thing": SHA}), "files"), (text(files={"thing": {}}), "sha256"), (text(main=["a"]), "main"),
        (text(files={"thing": {"sha256": SHA, "mode": 0o755}}), "mode"), (text(expires=1), "expires"),
        (text()[:-1] + b',"x":NaN}', "malformed"), (text()[:-1] + b',"x":"\xff"}', "not UTF-8"),
        (text()[:-1] + b',"x":' + b"[" * 200_000 + b"]" * 200_000 + b"}", "nested too deeply"),
        (b" " * SIZE_MAX + text(), f"more than {SIZE_MAX} bytes"),
        (text(component=""), "component"), (text(component="../x"), "component"), (text(component="x" * 129), "component"),
        (text(os="linux\n"), "os"), (text(arch="a/b"), "arch"), (text(version=""), "version"),
        (text(version="latest"), "version"), (text(min_from="old"), "min_from"),
        (text(expires="soon"), "expires"), (text(expires="2027-01-01"), "expires"),
        (text(expires="2027-13-01T00:00:00Z"), "expires"), (text(expires="2027-01-01T00:00:00"), "expires"),
        (text(files={}), "files is empty"), (text(main="other"), "none of its files"),
        (text(files={"a": {"sha256": SHA}, "b": {"sha256": SHA}}), "main does not say"),
        (text(files={"thing": {"sha256": SHA[:-1]}}), "64 lower-case hex"),
        (text(files={"thing": {"sha256": SHA.upper()}}), "64 lower-case hex"),
        (text(files={"thing": {"sha256": SHA, "mode": "4755"}}), "octal"),
        (text(files={"thing": {"sha256": SHA, "mode": "755x"}}), "octal"),
        (text(files={"thing": {"sha256": SHA, "mode": "0000"}}), "its owner must be able to read it"),
        (text(files={"thing": {"sha256": SHA, "mode": "0757"}}), "not everybody to write it"),
        (text(files={"thing": {"sha256": SHA, "mode": "0644"}}), "execute"),
        (text(files={"../thing": {"sha256": SHA}}), "not a plain path"),
        (text(DAEMON, python=""), "python"), (text(DAEMON, python="x" * 200), "python"),
        (text(DAEMON, libc=""), "libc"), (text(DAEMON, libc="bionic-1"), "libc"), (text(DAEMON, libc="glibc-"), "libc"),
    ],
)
def test_what_is_wrong_with_it_is_told(data: bytes, fault: str) -> None:
    with pytest.raises(UpdateVerifyError) as caught:
        parse(data)
    message = caught.value.message
    assert message.startswith("manifest.json of the package: ") and fault in message
    assert len(message) < 500 and message.isprintable() and message.endswith("(scripts/bundle makes them)")


@pytest.mark.parametrize("name", ["a", "a/b", "lib/x-1.0~rc+1/é (1).txt", ".hidden", "a..b", "...", "x" * 255])
def test_plain_names(name: str) -> None:
    assert fault_of_name(name) == ""


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "/etc/passwd", "../x", "a/../b", "a/..", "./a", "a/./b", "a//b", "a/", "a\0b", "a\nb", "a\\b",
     "\u202ea", "e\u0301", "\ud800", "x" * 256, "a/" * 600 + "a", "/".join("a" * (DEPTH_MAX + 1)), "é" * PATH_MAX],
)
def test_names_that_are_not(name: str) -> None:
    fault = fault_of_name(name)
    assert fault.startswith("the name ") and fault.isprintable() and len(fault) < 300


@pytest.mark.parametrize(
    "names",
    [["a", "A"], ["lib/a", "LIB/b"], ["a", "a/b"], ["a/b", "a"], ["a", "A/b"], ["straße", "STRASSE"],
     ["manifest.json"], ["Manifest.JSON"], ["manifest.json/x"]],
)
def test_names_that_cannot_be_together(names: list[str]) -> None:
    assert "cannot both be files of one package" in fault_of_names(names)


def test_names_that_can() -> None:
    assert fault_of_names(["a/b", "a/c", "ab", "a.b", "x/manifest.json"]) == ""


@pytest.mark.parametrize(
    "here",
    [{}, {"components": {"other", "thing"}}, {"installed": ""}, {"installed": "git-3f2a"}, {"version": "v1.1.0"},
     {"installed": "1.1.0-rc.1"}, {"python": "cp399", "libc": ""}],
)
def test_it_may_be_installed(here: dict[str, Any]) -> None:
    check(parse(text()), **(HERE | here))


@pytest.mark.parametrize(
    ("manifest", "here", "words"),
    [
        ({}, {"components": {"b", "a"}}, "is for thing, not for a or b; send it to"),
        ({}, {"version": "1.2.0"}, "holds version 1.1.0 and 1.2.0 was asked for; ask for 1.1.0"),
        ({"version": "1.1.0+b"}, {"version": "1.1.0+a"}, "holds version 1.1.0"),
        ({}, {"version": "new"}, "'new' is no version"),
        ({}, {"arch": "arm64"}, "is for linux/amd64 and this host is linux/arm64; send"),
        ({"os": "windows"}, {}, "is for windows/amd64"),
        ({"expires": "2027-01-15T07:59:59Z"}, {}, "expired at 2027-01-15T07:59:59Z and this host's clock says 2027-"),
        ({}, {"installed": "1.1.0"}, "is not newer than 1.1.0, the one installed; send a newer"),
        ({}, {"installed": "v1.1.0+x"}, "is not newer"),
        ({}, {"installed": "1.2.0"}, "is not newer"),
        ({"version": "1.1.0-rc.1"}, {"version": "1.1.0-rc.1", "installed": "1.1.0"}, "is not newer"),
        ({"min_from": "1.0.1"}, {}, "updates 1.0.1 or newer, and 1.0.0 is installed; update to 1.0.1 first"),
        ({"min_from": "1.0.1"}, {"installed": ""}, "an unknown version is installed"),
    ],
)
def test_why_it_may_not(manifest: dict[str, Any], here: dict[str, Any], words: str) -> None:
    with pytest.raises(UpdateVerifyError) as caught:
        check(parse(text(**manifest)), **(HERE | here))
    assert words in caught.value.message


def test_it_expires_at_that_second_in_its_own_zone() -> None:
    found = parse(text(expires="2027-01-15T09:00:00.5+01:00"))
    check(found, **(HERE | {"now": 1_800_000_000.0}))
    with pytest.raises(UpdateVerifyError, match="expired"):
        check(found, **(HERE | {"now": 1_800_000_000.5}))


@pytest.mark.parametrize(
    ("libc", "host", "fits"),
    [("glibc-2.28", "glibc-2.28", True), ("glibc-2.28", "glibc-2.36", True), ("glibc-2.9", "glibc-2.10", True),
     ("glibc-2.36", "glibc-2.28", False), ("glibc-2.28", "musl-9.9", False), ("musl-1.2", "musl-1.2.3", True),
     ("musl-1.2.4", "musl-1.2.3", False), ("glibc-2.28", "", False)],
)
def test_the_daemon_needs_its_c_library(libc: str, host: str, fits: bool) -> None:
    found, here = parse(text(DAEMON, libc=libc)), HERE | {"components": {"daemon"}, "libc": host}
    if fits:
        check(found, **here)
        return
    with pytest.raises(UpdateVerifyError, match=f"needs {libc} and this host has {host or 'a C library nobody knows'}"):
        check(found, **here)


def test_the_daemon_needs_its_python() -> None:
    here = HERE | {"components": {"daemon"}, "python": "cp312"}
    with pytest.raises(UpdateVerifyError, match="is for Python cp311 and the daemon runs on cp312"):
        check(parse(text(DAEMON)), **here)
