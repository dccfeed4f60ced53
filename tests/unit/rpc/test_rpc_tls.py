"""Certificates of gRPC: what each mistake says, and renewal that never takes a half-written file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from daemon.alerts.expiry import EXPIRY_ALERT, tell_expiry
from daemon.errors import ErrorCode, ListenError, ManagerConnectError
from daemon.rpc.grpc_env import prepare
from daemon.rpc.tls import FILE_MAX_BYTES, IdentityFiles, load_identity
from tests.fakes.rpc_certs import Cert
from tests.fakes.supervised import FakeAlerts

CA = Cert("authority", ca=True)
OWN = Cert("node-1", CA, dns=("node-1.example.org", "10.0.0.7", "spiffe://fleet/node-1"))
OTHER = Cert("other", CA)
NOW = time.time()


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str, str]:
    """A good set."""
    cert, key = OWN.write(tmp_path, "own")
    (tmp_path / "ca.pem").write_bytes(CA.pem)
    return cert, key, str(tmp_path / "ca.pem")


def test_a_good_set_says_whose_it_is_and_until_when(files: tuple[str, str, str]) -> None:
    pem = load_identity(*files)
    assert pem.names == ("node-1", "node-1.example.org", "10.0.0.7", "spiffe://fleet/node-1")
    assert pem.not_after == OWN.certificate.not_valid_after_utc.timestamp()
    assert (pem.cert, pem.ca, pem.warnings) == (OWN.pem, CA.pem, ())
    assert len(pem.digest) == 64


def test_the_key_shows_nowhere(files: tuple[str, str, str]) -> None:
    assert "PRIVATE" not in repr(load_identity(*files))


def test_an_authority_alone_is_enough_for_a_client(files: tuple[str, str, str]) -> None:
    pem = load_identity("", "", files[2])
    assert (pem.cert, pem.key, pem.names) == (b"", b"", ())
    assert pem.not_after == CA.certificate.not_valid_after_utc.timestamp()
    assert load_identity("", "", "").not_after is None


def test_a_chain_and_several_authorities_are_taken(files: tuple[str, str, str], tmp_path: Path) -> None:
    middle = Cert("middle", CA, ca=True)
    leaf = Cert("leaf", middle)
    cert, key = leaf.write(tmp_path, "leaf")
    Path(cert).write_bytes(leaf.pem + middle.pem)
    old = Cert("old authority", ca=True, days=-1)
    Path(files[2]).write_bytes(old.pem + CA.pem)
    assert load_identity(cert, key, files[2]).names == ("leaf",)


def test_links_are_followed(files: tuple[str, str, str], tmp_path: Path) -> None:
    link = tmp_path / "live.pem"
    link.symlink_to(files[0])
    assert load_identity(str(link), files[1], files[2]).names[0] == "node-1"


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, False), (0o644, True), (0o604, True), (0o602, True)])
def test_a_key_open_to_all_is_a_warning(files: tuple[str, str, str], mode: int, warned: bool) -> None:
    Path(files[1]).chmod(mode)
    pem = load_identity(*files)
    assert bool(pem.warnings) is warned
    if warned:
        assert "chmod 0600" in pem.warnings[0]


HALF = OWN.pem[: len(OWN.pem) // 2]


@pytest.mark.parametrize(("which", "data", "words"), [
    (0, None, "cannot be read: No such file"),
    (1, None, "cannot be read: No such file"),
    (2, None, "cannot be read: No such file"),
    (0, b"", "is empty"),
    (0, b"\n \n", "is empty"),
    (0, HALF, "half-written"),
    (0, OWN.pem + HALF, "half-written"),
    (0, b"no PEM", "holds no PEM certificate"),
    (0, OWN.key_pem(), "holds no PEM certificate"),
    (0, b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "cannot be read"),
    (0, b"x" * (FILE_MAX_BYTES + 1), "is larger than"),
    (0, Cert("late", CA, days=-1).pem, "expired at"),
    (0, Cert("early", CA, begins=5).pem, "valid only from"),
    (1, OTHER.key_pem(), "does not belong to the certificate"),
    (1, OWN.key_pem(b"secret"), "has a passphrase"),
    (1, OWN.key_pem()[:80], "half-written"),
    (1, b"\xff\x00", "no PEM key"),
    (1, OWN.pem, "no PEM key"),
    (2, Cert("over", ca=True, days=-1).pem, "expired at"),
    (2, CA.pem[:100], "half-written"),
], ids=lambda value: value if isinstance(value, str) else "" if isinstance(value, bytes) else str(value))
def test_each_mistake_has_its_sentence(
    files: tuple[str, str, str], which: int, data: bytes | None, words: str
) -> None:
    path = Path(files[which])
    path.unlink() if data is None else path.write_bytes(data)
    with pytest.raises(ManagerConnectError) as caught:
        load_identity(*files)
    assert caught.value.code is ErrorCode.MANAGER_CONNECT
    assert words in caught.value.message
    assert caught.value.message.startswith("manager.tls: ")
    assert path.name in caught.value.message
    assert "PRIVATE" not in caught.value.message


def test_what_is_no_file_is_refused_at_once(files: tuple[str, str, str], tmp_path: Path) -> None:
    import os

    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (str(tmp_path), str(fifo), "/dev/null"):
        with pytest.raises(ManagerConnectError, match="is no file"):
            load_identity(path, files[1], files[2])


@pytest.mark.parametrize("key", [ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP521R1())])
def test_a_key_of_a_kind_grpc_does_not_speak_is_refused(tmp_path: Path, key: Any) -> None:
    odd = Cert("node-1", CA, key=key)
    path, key_path = odd.write(tmp_path, "odd")
    with pytest.raises(ListenError, match="of a kind that gRPC does not speak"):
        load_identity(path, key_path, "", section="daemon.grpc.tls", fault=ListenError)


def test_a_certificate_and_its_key_come_together(files: tuple[str, str, str]) -> None:
    for cert, key, missing in ((files[0], "", "key_file"), ("", files[1], "cert_file")):
        with pytest.raises(ListenError, match=f"daemon.grpc.tls: {missing} is not written"):
            load_identity(cert, key, files[2], section="daemon.grpc.tls", fault=ListenError)


class TestRenewal:
    def test_nothing_is_read_while_nothing_changes(self, files: tuple[str, str, str]) -> None:
        watched = IdentityFiles(*files)
        watched.load()
        assert (watched.peek(), watched.refresh()) == (None, None)

    def test_a_new_pair_is_found(self, files: tuple[str, str, str], tmp_path: Path) -> None:
        watched = IdentityFiles(*files)
        first = watched.load()
        Cert("node-1", CA, dns=("new",)).write(tmp_path, "own")
        looked = watched.peek()
        assert looked is not None
        assert looked.names == ("node-1", "new")
        renewed = watched.refresh()  # the look before took nothing away
        assert renewed is not None
        assert renewed.names == ("node-1", "new")
        assert renewed.digest != first.digest
        assert watched.refresh() is None

    def test_the_same_content_again_is_nothing_new(self, files: tuple[str, str, str], tmp_path: Path) -> None:
        watched = IdentityFiles(*files)
        watched.load()
        OWN.write(tmp_path, "own")
        assert watched.peek() is not None
        assert watched.refresh() is None
        assert watched.peek() is None

    def test_a_half_written_pair_keeps_the_last_good_one(self, files: tuple[str, str, str], tmp_path: Path) -> None:
        watched = IdentityFiles(*files)
        watched.load()
        new = Cert("node-1", CA, dns=("new",))
        Path(files[0]).write_bytes(new.pem[:200])
        assert watched.refresh() is None
        assert "half-written" in watched.problem
        Path(files[0]).write_bytes(new.pem)  # the certificate is there, the key still the old one
        assert watched.refresh() is None
        assert "does not belong" in watched.problem
        Path(files[1]).write_bytes(new.key_pem())
        renewed = watched.refresh()
        assert renewed is not None
        assert (renewed.names, watched.problem) == (("node-1", "new"), "")

    def test_files_that_went_and_came_back_are_good_again(self, files: tuple[str, str, str], tmp_path: Path) -> None:
        watched = IdentityFiles(*files)
        first = watched.load()
        Path(files[1]).rename(tmp_path / "away")
        assert watched.refresh() is None
        assert "No such file" in watched.problem
        (tmp_path / "away").rename(files[1])
        again = watched.refresh()  # told although it is the old one: whoever raised an alert has to end it
        assert again is not None
        assert again.digest == first.digest
        assert (watched.problem, watched.refresh()) == ("", None)

    def test_rights_that_are_mended_are_noticed(self, files: tuple[str, str, str]) -> None:
        watched = IdentityFiles(*files)
        watched.load()
        Path(files[1]).chmod(0o644)  # no byte changed
        assert watched.peek() is not None


class TestExpiry:
    @pytest.mark.parametrize(("days", "standing"), [(31, None), (29, "warn"), (0.01, "warn"), (-1, "error")])
    def test_the_alert_stands_from_30_days_ahead(self, days: float, standing: str | None) -> None:
        alerts = FakeAlerts()
        tell_expiry(alerts, NOW + days * 86400, NOW, where="daemon.grpc.tls")
        found = alerts.standing.get(("", EXPIRY_ALERT))
        assert (found.severity.value if found else None) == standing

    def test_a_renewal_ends_it(self) -> None:
        alerts = FakeAlerts()
        tell_expiry(alerts, NOW + 86400, NOW, where="daemon.grpc.tls")
        tell_expiry(alerts, NOW + 90 * 86400, NOW, where="daemon.grpc.tls")
        assert alerts.standing == {}


class TestEnvironment:
    def test_both_are_set_before_the_import(self) -> None:
        environ = {"GRPC_SSL_CIPHER_SUITES": "ALL"}
        prepare(environ, imported=False)
        assert environ["GRPC_ENABLE_FORK_SUPPORT"] == "0"
        assert environ["GRPC_SSL_CIPHER_SUITES"] == "ECDHE-PSK-CHACHA20-POLY1305"
        prepare(environ, imported=True)

    def test_grpc_is_quiet_unless_the_operator_wants_it_otherwise(self) -> None:
        for said, found in (({}, "NONE"), ({"GRPC_VERBOSITY": "debug"}, "debug")):
            environ = dict(said)
            prepare(environ, imported=False)
            assert environ["GRPC_VERBOSITY"] == found

    def test_too_late_is_an_error_not_an_open_door(self) -> None:
        for environ in ({}, {"GRPC_SSL_CIPHER_SUITES": "ALL"}):
            with pytest.raises(ImportError, match="TLS 1.2"):
                prepare(environ, imported=True)
