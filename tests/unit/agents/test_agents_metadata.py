"""What is remembered of agents: coalesced, newest wins, a bad disk or file costs no more than it must."""

from __future__ import annotations

import gc
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from daemon import faults
from daemon.agents.metadata import (
    FILE_MAX,
    LANE,
    RETRY_S,
    SAVE_WITHIN_S,
    SCHEMA,
    AgentMetadata,
    FileMetadataStore,
)
from daemon.durable import snapshot
from daemon.errors import StorageError
from daemon.model.agent import Identity, LastExit, Wanted
from daemon.model.event import Severity
from tests.fakes.directory import FakeEvents
from tests.fakes.supervised import FakeAlerts
from tests.fakes.threads import InlineThreads

FULL = AgentMetadata(
    id="a", type="filebeat", wanted=Wanted.STOPPED, mark="ab" * 16, run="r-1",
    identity=Identity(boot_id="b", pid=7, start_ticks=8), spec_hash="h", stop_signal="INT", stop_timeout=1.5,
    started_at=1.0, created_at=2.0, updated_at=3.0, exits_in_a_row=4, restart_count=5, lifetime_restarts=6,
    last_restart_at=7.0, restarts_mono=(1.0, 2.5), next_try_mono=9.5, gave_up=True, settled=True, boot_id="b",
    last_exit=LastExit(code=1, signal=None, reason="exit code 1", at=4.0), ever_heartbeat=True,
    version="1.2.3", version_key="1:2:3:4",
)


class StoreCase(SynchronousTestCase):
    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.directory = Path(folder.name)
        self.clock = Clock()
        self.threads = InlineThreads(self.clock)
        self.events = FakeEvents()
        self.alerts = FakeAlerts()
        self.store = self.new_store()
        self.addCleanup(faults.arm, {})

    def new_store(self) -> FileMetadataStore:
        return FileMetadataStore(self.directory, self.clock, self.threads, self.events, self.alerts)

    def on_disk(self, agent_id: str = "a") -> AgentMetadata:
        return msgspec.json.decode((self.directory / f"{agent_id}.json").read_bytes(), type=AgentMetadata)

    def names(self) -> list[str]:
        return sorted(path.name for path in self.directory.iterdir())

    def types(self) -> list[str]:
        return [event.type for event in self.events.published]

    def break_disk(self, how: str = "metadata.save:1:enospc") -> None:
        faults.arm({faults.VARIABLE: how})

    def mend_disk(self) -> None:
        faults.arm({})


class SavingTest(StoreCase):
    def test_everything_reads_back_as_it_was_saved(self) -> None:
        self.store.save_soon(FULL)
        self.clock.advance(SAVE_WITHIN_S)
        self.assertEqual(self.new_store().load_all(), {"a": FULL})
        self.assertEqual((self.directory / "a.json").stat().st_mode & 0o777, 0o600)

    def test_changes_within_the_window_are_one_write_per_agent_and_the_newest_wins(self) -> None:
        self.assertLessEqual(SAVE_WITHIN_S, 0.2)
        for count in range(50):
            self.store.save_soon(AgentMetadata(id="a", lifetime_restarts=count))
            self.store.save_soon(AgentMetadata(id="b", lifetime_restarts=count))
        self.clock.advance(SAVE_WITHIN_S * 0.9)
        self.assertEqual(self.threads.calls, [])
        self.clock.advance(SAVE_WITHIN_S * 0.1)
        self.assertEqual(self.threads.calls, [LANE])
        self.assertEqual(self.on_disk("a").lifetime_restarts, 49)
        self.assertEqual(self.on_disk("b").lifetime_restarts, 49)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_stream_of_changes_does_not_put_the_save_off(self) -> None:
        for count in range(10):
            self.store.save_soon(AgentMetadata(id="a", lifetime_restarts=count))
            self.clock.advance(SAVE_WITHIN_S / 4)
        self.assertGreaterEqual(len(self.threads.calls), 2)

    def test_an_intent_is_on_disk_before_its_deferred_fires(self) -> None:
        self.store.save_soon(AgentMetadata(id="a", lifetime_restarts=1))
        saved = self.store.save_now(AgentMetadata(id="a", wanted=Wanted.STOPPED, lifetime_restarts=2))
        self.successResultOf(saved)
        self.assertEqual(self.on_disk().wanted, Wanted.STOPPED)
        self.clock.advance(SAVE_WITHIN_S)
        self.assertEqual(self.on_disk().lifetime_restarts, 2)
        self.assertEqual(self.threads.calls, [LANE])

    def test_a_forgotten_agents_file_goes_and_comes_back_with_it(self) -> None:
        self.store.save_soon(FULL)
        self.clock.advance(1)
        self.store.forget("a")
        self.clock.advance(1)
        self.assertEqual(self.names(), [])
        self.store.forget("never-was")
        self.store.forget("a")
        self.store.save_soon(FULL)
        self.clock.advance(1)
        self.assertEqual(self.on_disk(), FULL)

    def test_what_is_on_disk_is_not_held_in_memory(self) -> None:
        def held() -> int:
            return sum(isinstance(each, AgentMetadata) for each in gc.get_objects())

        before = held()
        for number in range(50):
            self.store.save_soon(msgspec.structs.replace(FULL, id=f"a{number}"))
        self.clock.advance(1)
        self.assertEqual(len(self.names()), 50)
        self.assertEqual(held(), before)

    def test_stopping_writes_what_is_left_and_leaves_no_timer(self) -> None:
        self.store.save_soon(FULL)
        self.successResultOf(Deferred.fromCoroutine(self.store.stop()))
        self.assertEqual(self.on_disk(), FULL)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stopping_waits_for_the_write_under_way(self) -> None:
        self.threads.hang(LANE)
        saving = self.store.save_now(FULL)
        stopping = Deferred.fromCoroutine(self.store.stop())
        self.assertNoResult(stopping)
        self.threads.release(LANE)
        self.successResultOf(saving)
        self.successResultOf(stopping)


class BadDiskTest(StoreCase):
    def test_a_full_disk_is_reported_once_tried_again_and_recovers(self) -> None:
        self.break_disk()
        for count in range(3):
            self.store.save_soon(AgentMetadata(id="a", lifetime_restarts=count))
            self.clock.advance(RETRY_S)
        self.assertEqual(self.types(), ["storage.failed"])
        (event,) = self.events.published
        self.assertIs(event.severity, Severity.ERROR)
        self.assertEqual(event.data["code"], "D1004")
        self.assertIn("No space left", event.message)
        self.assertIn("free space", event.message)
        self.assertIn("No space left", self.store.failing)
        self.assertGreaterEqual(self.store.write_failures_total, 3)
        self.mend_disk()
        self.clock.advance(RETRY_S)
        self.assertEqual(self.on_disk().lifetime_restarts, 2)
        self.assertEqual(self.types(), ["storage.failed", "storage.recovered"])
        self.assertEqual(self.store.failing, "")
        self.clock.advance(100)
        self.assertEqual(self.types(), ["storage.failed", "storage.recovered"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_one_file_that_cannot_be_written_does_not_hold_the_others_up(self) -> None:
        (self.directory / "a.json").mkdir()
        (self.directory / "a.json" / "inside").touch()
        for agent_id in "ab":
            self.store.save_soon(AgentMetadata(id=agent_id, lifetime_restarts=7))
        self.clock.advance(1)
        self.assertEqual(self.on_disk("b").lifetime_restarts, 7)
        self.assertEqual(self.types(), ["storage.failed"])

    def test_a_disk_that_fails_again_later_is_reported_again(self) -> None:
        for _ in range(2):
            self.break_disk()
            self.store.save_soon(FULL)
            self.clock.advance(SAVE_WITHIN_S)
            self.mend_disk()
            self.clock.advance(RETRY_S)
        self.assertEqual(self.types(), ["storage.failed", "storage.recovered"] * 2)

    def test_an_intent_that_cannot_be_stored_says_so_and_is_kept_for_later(self) -> None:
        self.break_disk("metadata.save:1:eio")
        saving = self.store.save_now(FULL)
        error = self.failureResultOf(saving, StorageError).value
        self.assertEqual(error.code.value, "D1004")
        self.assertIn("Input/output error", error.message)
        self.mend_disk()
        self.clock.advance(RETRY_S)
        self.assertEqual(self.on_disk(), FULL)

    def test_a_retry_never_stores_an_older_value_over_a_newer_one(self) -> None:
        self.break_disk()
        self.store.save_soon(AgentMetadata(id="a", lifetime_restarts=1))
        self.clock.advance(SAVE_WITHIN_S)
        self.mend_disk()
        self.successResultOf(self.store.save_now(AgentMetadata(id="a", lifetime_restarts=2)))
        self.clock.advance(RETRY_S * 2)
        self.assertEqual(self.on_disk().lifetime_restarts, 2)

    def test_a_write_that_fails_late_does_not_bring_back_what_was_overtaken(self) -> None:
        self.threads.hang(LANE)
        old = self.store.save_now(AgentMetadata(id="a", lifetime_restarts=1))
        new = self.store.save_now(AgentMetadata(id="a", lifetime_restarts=2))
        self.store.forget("b")
        self.clock.advance(SAVE_WITHIN_S)
        self.break_disk()
        self.threads.release(LANE)
        self.failureResultOf(old, StorageError)
        self.failureResultOf(new, StorageError)
        self.mend_disk()
        self.clock.advance(RETRY_S)
        self.assertEqual(self.on_disk().lifetime_restarts, 2)

    def test_a_failed_removal_is_tried_again(self) -> None:
        self.successResultOf(self.store.save_now(FULL))
        self.break_disk()
        self.store.forget("a")
        self.clock.advance(SAVE_WITHIN_S)
        self.assertEqual(self.names(), ["a.json"])
        self.mend_disk()
        self.clock.advance(RETRY_S)
        self.assertEqual(self.names(), [])

    def test_a_disk_that_hangs_fails_the_save_at_its_deadline_and_loses_nothing(self) -> None:
        self.threads.hang(LANE)
        saving = self.store.save_now(FULL)
        self.clock.advance(30)
        self.failureResultOf(saving, StorageError)
        self.assertEqual(self.types(), ["storage.failed"])
        self.clock.advance(RETRY_S)  # the lane is still stuck
        self.threads.release(LANE)
        self.clock.advance(RETRY_S)
        self.assertEqual(self.on_disk(), FULL)
        self.assertEqual(self.types(), ["storage.failed", "storage.recovered"])

    def test_a_half_written_file_never_shows(self) -> None:
        self.successResultOf(self.store.save_now(AgentMetadata(id="a", lifetime_restarts=1)))
        for point in ("atomic.write", "atomic.fsync", "atomic.rename"):
            self.break_disk(f"{point}:1:enospc")
            self.failureResultOf(self.store.save_now(FULL), StorageError)
            self.assertEqual(self.on_disk().lifetime_restarts, 1)
            self.assertEqual(self.names(), ["a.json"])
        self.successResultOf(Deferred.fromCoroutine(self.store.stop()))

    def test_stopping_on_a_full_disk_ends_and_names_whose_changes_are_lost(self) -> None:
        self.break_disk()
        self.store.save_soon(FULL)
        self.successResultOf(Deferred.fromCoroutine(self.store.stop()))
        self.assertEqual(self.types(), ["storage.failed"])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.names(), [])


GOOD = msgspec.json.encode(FULL)
CORRUPT: dict[str, bytes] = {
    "empty": b"",
    "zeros": b"\0" * 100,
    "cut": GOOD[:-5],
    "list": b"[]",
    "null": b"null",
    "no-id": b"{}",
    "not-utf8": b'{"id":"not-utf8","run":"\xff"}',
    "bad-wanted": b'{"id":"bad-wanted","wanted":"maybe"}',
    "bad-type": b'{"id":"bad-type","exits_in_a_row":"many"}',
    "bad-identity": b'{"id":"bad-identity","identity":{"pid":1}}',
    "infinite": b'{"id":"infinite","next_try_mono":1e999}',
    "other-id": GOOD,
    "newer-of-another": msgspec.json.encode(msgspec.structs.replace(FULL, schema=SCHEMA + 1)),
    "deep": b'{"id":"deep","x":' + b"[" * 100_000,
    "oversized": b'{"id":"oversized","run":"' + b"x" * FILE_MAX + b'"}',
}


class RangesTest(StoreCase):
    def test_what_no_agent_can_be_is_set_aside(self) -> None:
        good = AgentMetadata(id="a", mark="ab" * 16)
        for wrong in (
            {"identity": Identity(boot_id="b", pid=2**62, start_ticks=1)}, {"created_at": 1e300},
            {"last_restart_at": 1e18}, {"last_exit": LastExit(at=-1.0)}, {"lifetime_restarts": 2**60},
            {"mark": "a\0b"}, {"mark": "short"},
        ):
            with self.subTest(wrong):
                (self.directory / "a.json").write_bytes(msgspec.json.encode(msgspec.structs.replace(good, **wrong)))
                self.assertEqual(self.new_store().load_all(), {})
                self.assertEqual(self.types()[-1], "agent.metadata_corrupt")


class LoadingTest(StoreCase):
    def put(self, name: str, data: bytes) -> Path:
        path = self.directory / f"{name}.json"
        path.write_bytes(data)
        return path

    def test_a_corrupt_file_is_set_aside_and_costs_its_own_agent_only(self) -> None:
        for name, data in CORRUPT.items():
            with self.subTest(name):
                self.put("a", GOOD)
                self.put(name, data)
                self.assertEqual(self.store.load_all(), {"a": FULL})
                self.assertEqual((self.directory / f"{name}.json.corrupt").read_bytes(), data)
                self.assertNotIn(f"{name}.json", self.names())
                event = self.events.published[-1]
                self.assertEqual((event.type, event.agent_id), ("agent.metadata_corrupt", name))
                self.assertEqual(event.data["code"], "D1004")
                self.assertIn("its history begins anew", event.message)
        self.assertEqual(len(self.events.published), len(CORRUPT))

    def test_what_is_no_plain_file_is_set_aside_without_following_or_hanging(self) -> None:
        outside = self.directory / "outside"
        outside.write_bytes(msgspec.json.encode(AgentMetadata(id="link")))
        (self.directory / "link.json").symlink_to(outside)
        (self.directory / "dangling.json").symlink_to(self.directory / "nowhere")
        os.mkfifo(self.directory / "fifo.json")
        (self.directory / "folder.json").mkdir()
        (self.directory / "folder.json" / "inside").touch()
        begun = time.monotonic()
        self.assertEqual(self.store.load_all(), {})
        self.assertLess(time.monotonic() - begun, 5)
        self.assertEqual(self.types(), ["agent.metadata_corrupt"] * 4)
        self.assertEqual(
            self.names(),
            ["dangling.json.corrupt", "fifo.json.corrupt", "folder.json.corrupt", "link.json.corrupt", "outside"],
        )
        self.assertTrue(outside.exists())

    def test_what_cannot_even_be_set_aside_does_not_stop_the_others(self) -> None:
        for name in ("folder.json.corrupt", "folder.json.corrupt.1"):
            (self.directory / name).mkdir()
            (self.directory / name / "inside").touch()
        (self.directory / "folder.json").mkdir()
        self.put("a", GOOD)
        self.assertEqual(self.store.load_all(), {"a": FULL})
        self.assertIn("its place", self.events.published[0].data["kept"])

    def test_other_files_and_stale_temporaries_are_not_agents(self) -> None:
        self.put("a", GOOD)
        (self.directory / "b.json.corrupt").write_bytes(GOOD)
        (self.directory / "notes.txt").write_bytes(b"x")
        (self.directory / ".a.json.0123456789ab.tmp").write_bytes(b"half")
        self.assertEqual(self.store.load_all(), {"a": FULL})
        self.assertEqual(self.names(), ["a.json", "b.json.corrupt", "notes.txt"])
        self.assertEqual(self.types(), [])

    def test_fields_of_a_later_daemon_are_ignored_and_missing_ones_get_their_default(self) -> None:
        self.put("a", b'{"id":"a","invented_later":{"x":[1]}}')
        self.assertEqual(self.store.load_all(), {"a": AgentMetadata(id="a")})

    def test_an_empty_or_missing_directory_holds_no_agents(self) -> None:
        self.assertEqual(self.store.load_all(), {})
        missing: Any = FileMetadataStore(self.directory / "none", self.clock, self.threads, self.events, self.alerts)
        self.assertEqual(missing.load_all(), {})

    def test_a_directory_that_cannot_be_read_is_fatal_with_the_next_step(self) -> None:
        (self.directory / "file").touch()
        store = FileMetadataStore(self.directory / "file", self.clock, self.threads, self.events, self.alerts)
        error = self.assertRaises(StorageError, store.load_all)
        self.assertEqual(error.code.value, "D1004")


class NewerDaemonTest(StoreCase):
    """A newer daemon wrote the files and was rolled back: the agents run, and stay known."""

    def setUp(self) -> None:
        super().setUp()
        self.root = self.directory
        self.directory = self.root / "agents"
        self.directory.mkdir()
        self.store = self.new_store()

    def write(self, **changes: Any) -> bytes:
        fields = msgspec.to_builtins(FULL) | {"schema": SCHEMA + 1, "invented": {"later": True}} | changes
        data = msgspec.json.encode(fields)
        (self.directory / "a.json").write_bytes(data)
        return data

    def test_what_is_known_of_it_is_used_and_saved_and_the_file_is_kept(self) -> None:
        data = self.write()
        self.assertEqual(self.store.load_all(), {"a": FULL})
        self.assertEqual((self.directory / "a.json.newer").read_bytes(), data)
        self.assertEqual((self.directory / "a.json").read_bytes(), data)
        self.assertEqual(self.types(), ["agent.metadata_newer"])
        self.clock.advance(SAVE_WITHIN_S)
        self.assertEqual(self.on_disk(), FULL)
        again = self.new_store()
        self.assertEqual(again.load_all(), {"a": FULL})
        self.assertEqual(self.types(), ["agent.metadata_newer"])

    def test_a_field_that_changed_its_meaning_is_taken_from_before_the_update(self) -> None:
        older = msgspec.structs.replace(FULL, wanted=Wanted.RUNNING, exits_in_a_row=2, created_at=1.5)
        (self.directory / "a.json").write_bytes(msgspec.json.encode(older))
        snapshot.take(self.directory, "u1")
        self.write(exits_in_a_row={"of": "another kind"}, created_at=1e300, wanted="stopped")
        (found,) = self.store.load_all().values()
        self.assertEqual(found, msgspec.structs.replace(FULL, exits_in_a_row=2, created_at=1.5))

    def test_without_a_copy_such_a_field_has_its_default(self) -> None:
        self.write(identity="pid 7", mark="AB" * 16, restarts_mono=None)
        (found,) = self.store.load_all().values()
        self.assertEqual((found.identity, found.mark, found.restarts_mono), (None, "", ()))
        self.assertEqual((found.wanted, found.run, found.schema), (Wanted.STOPPED, FULL.run, SCHEMA))

    def test_a_file_in_a_form_nobody_knows_is_replaced_by_the_copy(self) -> None:
        (self.directory / "a.json").write_bytes(GOOD)
        snapshot.take(self.directory, "u1")
        (self.directory / "a.json").write_bytes(b"\xa1abinary")
        self.assertEqual(self.store.load_all(), {"a": FULL})
        self.assertEqual((self.directory / "a.json.corrupt").read_bytes(), b"\xa1abinary")
        self.clock.advance(SAVE_WITHIN_S)
        self.assertEqual(self.on_disk(), FULL)

    def test_a_copy_that_is_damaged_too_is_no_help_and_no_harm(self) -> None:
        (self.directory / "a.json").write_bytes(b"{")
        snapshot.take(self.directory, "u1")
        self.write()
        self.assertEqual(self.store.load_all(), {"a": FULL})

    def test_a_disk_without_room_for_the_newer_file_costs_that_file_alone(self) -> None:
        self.write()
        self.break_disk("atomic.write:1:enospc")
        self.assertEqual(self.store.load_all(), {"a": FULL})
