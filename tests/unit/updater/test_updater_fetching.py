"""From a request to verified files: what was verified is what is unpacked, and nothing else ever is."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from msgspec.structs import replace as changed
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from daemon.config.schema import UpdateConfig
from daemon.errors import StorageError, UpdateDownloadError, UpdateVerifyError
from daemon.updater.download.downloader import Downloader
from daemon.updater.fetching import LANE, PackageIntake
from daemon.updater.known import KnownPackages
from daemon.updater.package.host import Host
from daemon.updater.record import UpdateRecord
from tests.fakes.packages import Signer, package_of, sha256
from tests.fakes.threads import InlineThreads
from tests.fakes.updates import FakeTarget

HOST = Host(os="linux", arch="amd64", python="cp311", libc="glibc-2.36")
PROGRAM = b"#!/bin/sh\nexec true\n"


class IntakeCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="hd-intake-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.staging = self.folder / "staging"
        self.staging.mkdir()
        self.signer = Signer(self.folder)
        self.clock = Clock()
        self.threads = InlineThreads(self.clock)
        self.config = UpdateConfig(public_key_file=str(self.signer.public), allowed_urls=("https://p.example.org/a/",))
        self.known = KnownPackages(self.folder / "known.json", self.threads)
        self.now = 1_800_000_000.0
        self.target = FakeTarget("thing")
        downloader = Downloader(self.clock, None, self.threads, boot_id="b", random_unit=lambda: 0.0)  # type: ignore[arg-type]
        self.intake = PackageIntake(
            self.threads, downloader, lambda: self.config, self.known, lambda: self.now, lambda: HOST
        )
        self.progress: list[float] = []

    def bring(self, package: bytes, version: str = "1.1.0", **changes: Any) -> UpdateRecord:
        """An inline package that was accepted."""
        (self.staging / "package").write_bytes(package)
        known: dict[str, Any] = {
            "id": "u", "target": "thing", "component": "thing", "version": version, "inline": True,
            "hash": sha256(package), "signature": self.signer.sign(package), "old_version": "1.0.0",
        }
        return UpdateRecord(**(known | changes))

    def verified(self, record: UpdateRecord) -> UpdateRecord:
        signed = self.successResultOf(Deferred.fromCoroutine(
            self.intake.signature(record, self.staging, self.progress.append)
        ))
        self.intake.digest(record, signed)
        return changed(record, package_sha256=signed.sha256, key=signed.key)

    def unpack(self, record: UpdateRecord) -> Any:
        return Deferred.fromCoroutine(
            self.intake.manifest(record, self.staging, self.target, self.progress.append)
        )

    def refused(self, record: UpdateRecord) -> str:
        """Why its files are not taken; whatever is there then was never made executable."""
        error = self.failureResultOf(self.unpack(record), UpdateVerifyError, StorageError).value
        for path in (self.staging / "files").rglob("*"):
            assert path.is_dir() or not path.stat().st_mode & 0o111, path
        return str(error)


class GoodTest(IntakeCase):
    def test_a_package_becomes_its_files_with_what_its_manifest_says(self) -> None:
        record = self.verified(self.bring(package_of({"thing": PROGRAM})))
        found = self.successResultOf(self.unpack(record))
        self.assertEqual((found.main, dict(found.sha256), dict(found.modes)),
                         ("thing", {"thing": sha256(PROGRAM)}, {"thing": 0o755}))
        self.assertEqual(found.files["thing"].read_bytes(), PROGRAM)
        self.assertEqual(self.progress[-1], 1.0)

    def test_a_second_attempt_begins_with_a_clean_folder(self) -> None:
        record = self.verified(self.bring(package_of({"thing": PROGRAM})))
        (self.staging / "files").mkdir()
        (self.staging / "files" / "left-over").write_bytes(b"x")
        self.successResultOf(self.unpack(record))
        self.assertEqual(sorted(p.name for p in (self.staging / "files").iterdir()), ["manifest.json", "thing"])

    def test_a_bare_executable_where_that_is_allowed(self) -> None:
        self.config = changed(self.config, allow_bare=True)
        found = self.successResultOf(self.unpack(self.verified(self.bring(PROGRAM))))
        self.assertEqual(found.files[found.main].read_bytes(), PROGRAM)


class RefusedTest(IntakeCase):
    def test_a_package_exchanged_after_its_signature_was_checked(self) -> None:
        record = self.verified(self.bring(package_of({"thing": PROGRAM})))
        (self.staging / "package").write_bytes(package_of({"thing": b"#!/bin/sh\nevil\n"}))
        self.assertIn("D4002", self.refused(record))

    def test_a_bare_executable_exchanged_likewise(self) -> None:
        self.config = changed(self.config, allow_bare=True)
        record = self.verified(self.bring(PROGRAM))
        (self.staging / "package").write_bytes(PROGRAM + b"evil\n")
        self.assertIn("D4002", self.refused(record))

    def test_links_and_pipes_in_the_place_of_a_package(self) -> None:
        record = self.bring(package_of({"thing": PROGRAM}))
        real = (self.staging / "package").rename(self.folder / "elsewhere")
        for make in (lambda path: path.symlink_to(real), os.mkfifo, lambda path: path.mkdir()):
            make(self.staging / "package")
            asking = Deferred.fromCoroutine(self.intake.signature(record, self.staging, self.progress.append))
            self.failureResultOf(asking, StorageError)
            path = self.staging / "package"
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()

    def test_another_hash_than_the_request_says(self) -> None:
        with self.assertRaisesRegex(UpdateVerifyError, "another package than the one"):
            self.verified(self.bring(package_of({"thing": PROGRAM}), hash="0" * 64))

    def test_bare_executables_are_off_by_default_and_never_the_daemon(self) -> None:
        self.assertIn("allow_bare", self.refused(self.verified(self.bring(PROGRAM))))
        self.config = changed(self.config, allow_bare=True)
        self.assertIn("tar.gz", self.refused(self.verified(self.bring(PROGRAM, target="daemon"))))

    def test_the_same_bare_bytes_under_another_version_are_a_replay(self) -> None:
        self.config = changed(self.config, allow_bare=True)
        self.known.keep("thing", sha256(PROGRAM), "0.9.0")
        self.assertIn("ran here as version 0.9.0", self.refused(self.verified(self.bring(PROGRAM, "9.9.9"))))

    def test_a_bare_executable_must_be_newer_by_what_is_said_of_it(self) -> None:
        self.config = changed(self.config, allow_bare=True)
        self.assertIn("not newer", self.refused(self.verified(self.bring(PROGRAM, "1.0.0"))))

    def test_what_a_reload_no_longer_allows(self) -> None:
        record = UpdateRecord(id="u", target="thing", component="thing", version="1", download_url="https://p.example.org/a/x")
        self.intake.source(record)
        self.config = changed(self.config, allowed_urls=())
        with self.assertRaises(UpdateDownloadError):
            self.intake.source(record)

    def test_a_package_larger_than_allowed_by_now(self) -> None:
        record = self.bring(package_of({"thing": PROGRAM}))
        self.config = changed(self.config, max_inline_size=10)
        asking = Deferred.fromCoroutine(self.intake.signature(record, self.staging, self.progress.append))
        self.assertIn("10 are allowed", str(self.failureResultOf(asking, UpdateVerifyError).value))


class LeavingTest(IntakeCase):
    def test_a_cancelled_update_stops_hashing_at_the_next_piece(self) -> None:
        record = self.bring(package_of({"thing": PROGRAM}))
        self.threads.hang(LANE)
        asking = Deferred.fromCoroutine(self.intake.signature(record, self.staging, self.progress.append))
        asking.cancel()
        self.failureResultOf(asking, CancelledError)
        self.threads.release(LANE)  # the work comes to its turn all the same
        self.assertEqual(self.progress, [])

    def test_a_disk_that_hangs_is_named(self) -> None:
        record = self.bring(package_of({"thing": PROGRAM}))
        self.threads.hang(LANE)
        asking = Deferred.fromCoroutine(self.intake.signature(record, self.staging, self.progress.append))
        self.clock.advance(3600)
        self.assertIn(str(self.staging), str(self.failureResultOf(asking, StorageError).value))
