"""The durable queue: order, bounds, counts that stay exact over kills, full disks and lost lines."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon import faults
from daemon.durable.cursor import SLOT_BYTES, Cursor
from daemon.durable.queue import CURSOR_FILE, DurableQueue, QueueCounts
from daemon.errors import StorageError

DAY = 86400.0
T0 = 1_700_000_000.0

# Appends and delivers in turn; says on stdout what it appended ("a N"), and what was delivered ("d N").
WORKER = (
    "import os, sys\n"
    "from pathlib import Path\n"
    "from daemon import faults\n"
    "from daemon.durable.queue import DurableQueue\n"
    "faults.arm(os.environ)\n"
    "queue = DurableQueue(Path(sys.argv[1]), max_bytes=65536, max_age_s=86400)\n"
    "say = lambda text: os.write(1, text.encode() + b'\\n')\n"
    "for round in range(int(sys.argv[2])):\n"
    "    for _ in range(3):\n"
    "        number = queue.next_number\n"
    "        queue.append([b'%d %s' % (number, b'x' * 300)], 1e9)\n"
    "        say(f'a {number}')\n"
    "    items = queue.peek(1e9, 2, 10**6)\n"
    "    for item in items:\n"
    "        say(f'd {item.number}')\n"
    "    queue.settle(items[-1].number, delivered=len(items))\n"
)


@pytest.fixture(autouse=True)
def _disarm() -> Iterator[None]:
    yield
    faults.arm({})


def open_queue(folder: Path, max_bytes: int = 2**20, max_age_s: float = DAY) -> DurableQueue:
    return DurableQueue(folder / "q", max_bytes=max_bytes, max_age_s=max_age_s)


def payloads(queue: DurableQueue, count: int = 1000, at: float = T0) -> list[bytes]:
    found = [item.payload for item in queue.peek(at, count, 2**30)]
    queue.release()
    return found


def total(counts: QueueCounts) -> int:
    return counts.waiting + counts.delivered_total + counts.refused_total + counts.dropped_total


def test_what_was_appended_comes_out_in_order_also_by_the_next_process(tmp_path: Path) -> None:
    queue = open_queue(tmp_path)
    queue.append([b"one", b"two"], T0)
    queue.append([b"three"], T0 + 1)
    again = open_queue(tmp_path)  # the first one was killed: nothing was closed
    assert payloads(again) == [b"one", b"two", b"three"]
    assert [item.number for item in again.peek(T0, 2, 100)] == [1, 2]


def test_a_page_is_bounded_by_number_and_by_bytes_but_never_empty(tmp_path: Path) -> None:
    queue = open_queue(tmp_path)
    queue.append([b"x" * 1000] * 5, T0)
    assert len(queue.peek(T0, 3, 10**6)) == 3
    assert len(queue.peek(T0, 5, 2500)) == 2
    assert len(queue.peek(T0, 5, 10)) == 1


def test_settled_entries_are_gone_and_counted_over_restarts(tmp_path: Path) -> None:
    queue = open_queue(tmp_path)
    queue.append([b"%d" % n for n in range(5)], T0)
    queue.peek(T0, 2, 100)
    queue.settle(2, delivered=2)
    queue.peek(T0, 1, 100)
    queue.settle(3, refused=1)
    again = open_queue(tmp_path)
    assert payloads(again) == [b"3", b"4"]
    assert again.counts == QueueCounts(waiting=2, delivered_total=2, refused_total=1, dropped_total=0)


def test_what_was_peeked_at_and_not_settled_comes_again(tmp_path: Path) -> None:
    queue = open_queue(tmp_path)
    queue.append([b"one"], T0)
    queue.peek(T0, 1, 100)
    assert payloads(open_queue(tmp_path)) == [b"one"]


def test_the_oldest_go_when_it_is_too_much_and_each_is_counted(tmp_path: Path) -> None:
    queue = open_queue(tmp_path, max_bytes=64 * 1024)
    for number in range(1000):
        queue.append([b"%d %s" % (number, b"x" * 500)], T0)
    size = sum(path.stat().st_size for path in (tmp_path / "q").glob("*.log"))
    assert size <= 64 * 1024 + 8 * 1024
    kept = [int(payload.split()[0]) for payload in payloads(queue)]
    assert kept == list(range(kept[0], 1000))
    assert queue.counts.waiting == len(kept)
    assert queue.counts.dropped_total == kept[0]
    assert open_queue(tmp_path, max_bytes=64 * 1024).counts == queue.counts


def test_the_old_go_by_age_and_each_is_counted(tmp_path: Path) -> None:
    queue = open_queue(tmp_path)
    for hour in range(30):
        queue.append([b"%d" % hour], T0 + hour * 3600)
    assert payloads(queue, at=T0 + 29 * 3600)[0] == b"5"
    assert queue.counts.dropped_total == 5
    assert payloads(queue, at=T0 + 500 * 3600) == []
    assert queue.counts == QueueCounts(waiting=0, delivered_total=0, refused_total=0, dropped_total=30)
    queue.append([b"new"], T0 + 501 * 3600)
    assert payloads(queue, at=T0 + 501 * 3600) == [b"new"]


def test_bounds_take_nothing_that_is_in_hand(tmp_path: Path) -> None:
    queue = open_queue(tmp_path, max_bytes=32 * 1024)
    queue.append([b"first"], T0)
    queue.peek(T0, 1, 100)
    queue.append([b"x" * 500] * 100, T0 + 2 * DAY)
    queue.settle(1, delivered=1)
    assert queue.counts.delivered_total == 1
    assert queue.counts.dropped_total == 0
    queue.append([b"y"], T0 + 2 * DAY)
    assert queue.counts.dropped_total > 0
    assert total(queue.counts) == 102


def test_smaller_bounds_hold_at_once(tmp_path: Path) -> None:
    queue = open_queue(tmp_path, max_bytes=1024 * 1024)
    queue.append([b"x" * 1000] * 700, T0)
    queue.set_bounds(max_bytes=200 * 1024, max_age_s=DAY)
    queue.trim(T0)
    assert queue.counts.waiting < 330
    assert total(queue.counts) == 700


def test_delivered_entries_leave_the_disk(tmp_path: Path) -> None:
    queue = open_queue(tmp_path, max_bytes=64 * 1024)
    for _ in range(200):
        queue.append([b"x" * 1000] * 4, T0)
        items = queue.peek(T0, 10, 10**6)
        queue.settle(items[-1].number, delivered=len(items))
    assert queue.counts == QueueCounts(waiting=0, delivered_total=800, refused_total=0, dropped_total=0)
    assert sum(path.stat().st_size for path in (tmp_path / "q").glob("*.log")) < 17 * 1024
    assert len(queue._firsts) <= 3


def test_lines_that_the_disk_lost_are_counted_as_dropped(tmp_path: Path) -> None:
    queue = open_queue(tmp_path, max_bytes=64 * 1024)
    queue.append([b"%03d %s" % (n, b"x" * 500) for n in range(60)], T0)
    files = sorted((tmp_path / "q").glob("*.log"))
    assert len(files) > 3
    files[1].unlink()
    data = bytearray(files[2].read_bytes())
    data[30] ^= 0xFF
    files[2].write_bytes(data)
    again = open_queue(tmp_path, max_bytes=64 * 1024)
    seen = 0
    while items := again.peek(T0, 7, 10**6):
        seen += len(items)
        again.settle(items[-1].number, delivered=len(items))
    assert again.counts.dropped_total == 60 - seen > 1
    assert total(again.counts) == 60


def test_a_queue_whose_segments_are_all_deleted_counts_and_goes_on(tmp_path: Path) -> None:
    queue = open_queue(tmp_path)
    queue.append([b"a", b"b"], T0)
    queue.peek(T0, 1, 10)
    queue.settle(1, delivered=1)
    for path in (tmp_path / "q").glob("*.log"):
        path.unlink()
    again = open_queue(tmp_path)
    again.append([b"c"], T0)
    assert payloads(again) == [b"c"]
    assert again.counts.delivered_total == 1


def test_a_power_failure_that_took_delivered_lines_takes_no_later_ones(tmp_path: Path) -> None:
    queue = open_queue(tmp_path)
    queue.append([b"%d" % n for n in range(10)], T0)
    queue.peek(T0, 10, 1000)
    queue.settle(10, delivered=10)
    next((tmp_path / "q").glob("*.log")).write_bytes(b"")  # never reached the platter; the cursor did
    again = open_queue(tmp_path)
    again.append([b"new"], T0)
    assert payloads(again) == [b"new"]


def test_a_lost_cursor_costs_repeats_but_no_entry(tmp_path: Path) -> None:
    queue = open_queue(tmp_path)
    queue.append([b"one", b"two"], T0)
    queue.peek(T0, 1, 10)
    queue.settle(1, delivered=1)
    (tmp_path / "q" / CURSOR_FILE).write_bytes(b"junk" * 100)
    assert payloads(open_queue(tmp_path)) == [b"one", b"two"]
    assert (tmp_path / "q" / f"{CURSOR_FILE}.corrupt").exists()


def test_an_append_that_is_repeated_with_its_number_adds_nothing_twice(tmp_path: Path) -> None:
    queue = open_queue(tmp_path)
    first = queue.next_number
    queue.append([b"a", b"b"], T0, first=first)
    queue.append([b"a", b"b", b"c"], T0, first=first)
    assert payloads(queue) == [b"a", b"b", b"c"]


def test_a_full_disk_refuses_and_takes_up_where_it_was(tmp_path: Path) -> None:
    queue = open_queue(tmp_path)
    first = queue.next_number
    faults.arm({faults.VARIABLE: "journal.append:2:enospc"})
    with pytest.raises(StorageError):
        queue.append([b"a", b"b", b"c"], T0, first=first)
    faults.arm({})
    queue.append([b"a", b"b", b"c"], T0, first=first)
    assert payloads(queue) == [b"a", b"b", b"c"]


def test_an_acknowledgement_that_could_not_be_stored_holds_and_is_stored_later(tmp_path: Path) -> None:
    queue = open_queue(tmp_path)
    queue.append([b"a", b"b"], T0)
    queue.peek(T0, 1, 10)
    faults.arm({faults.VARIABLE: "cursor.write:1:eio"})
    with pytest.raises(StorageError):
        queue.settle(1, delivered=1)
    assert queue.counts.delivered_total == 1
    faults.arm({})
    assert payloads(queue) == [b"b"]
    assert open_queue(tmp_path).counts == queue.counts


def test_an_entry_that_is_too_long_or_no_line_is_refused(tmp_path: Path) -> None:
    queue = open_queue(tmp_path)
    with pytest.raises(ValueError, match="line"):
        queue.append([b"x" * (queue.max_payload_bytes + 100)], T0)
    with pytest.raises(ValueError, match="line"):
        queue.append([b"a\nb"], T0)
    queue.append([b"x" * queue.max_payload_bytes], T0)


def test_junk_in_the_directory_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "q").mkdir()
    (tmp_path / "q" / ("0" * 20 + ".log")).mkdir()
    (tmp_path / "q" / "notes.txt").write_text("hello")
    queue = open_queue(tmp_path)
    queue.append([b"a"], T0)
    assert payloads(open_queue(tmp_path)) == [b"a"]


@pytest.mark.parametrize("made", ["fifo", "directory", "link"])
def test_something_else_in_place_of_the_cursor_is_an_error_not_a_hang(tmp_path: Path, made: str) -> None:
    (tmp_path / "q").mkdir()
    cursor = tmp_path / "q" / CURSOR_FILE
    {"fifo": lambda: os.mkfifo(cursor), "directory": cursor.mkdir,
     "link": lambda: cursor.symlink_to("/dev/null")}[made]()
    with pytest.raises(StorageError):
        open_queue(tmp_path)


@pytest.mark.parametrize("point", [
    "journal.append:5", "journal.rotate:3", "queue.appended:7", "queue.settle:4", "cursor.write:9",
    "queue.stored:6", "queue.settled:8",
])
def test_a_kill_at_any_moment_loses_nothing_and_repeats_only_what_was_not_stored(
    tmp_path: Path, point: str
) -> None:
    child = subprocess.run(
        [sys.executable, "-c", WORKER, str(tmp_path / "q"), "40"], stdout=subprocess.PIPE,
        env={**os.environ, "HOSTDAEMON_FAULT": point}, timeout=30,
    )
    assert child.returncode == -signal.SIGKILL
    said = [line.split() for line in child.stdout.decode().splitlines()]
    appended = [int(number) for what, number in said if what == "a"]
    delivered = [int(number) for what, number in said if what == "d"]
    queue = DurableQueue(tmp_path / "q", max_bytes=65536, max_age_s=DAY)
    left = [item.number for item in queue.peek(1e9, 10_000, 2**30)]
    assert set(appended) <= set(delivered) | set(left)
    assert left == list(range(left[0], left[-1] + 1))
    assert len(set(left) & set(delivered)) <= 2  # the batch in hand, whose end was not stored
    assert total(queue.counts) == queue.next_number - 1
    assert queue.counts.dropped_total == 0


def test_a_torn_slot_leaves_the_one_before(tmp_path: Path) -> None:
    cursor = Cursor(tmp_path / "c")
    for number in range(1, 6):
        cursor.write({"n": number})
    data = bytearray((tmp_path / "c").read_bytes())
    assert len(data) == 2 * SLOT_BYTES
    data[SLOT_BYTES + 20] ^= 0xFF  # generation 5 is in the second slot
    (tmp_path / "c").write_bytes(data)
    again = Cursor(tmp_path / "c")
    assert again.values == {"n": 4}
    again.write({"n": 7})
    assert Cursor(tmp_path / "c").values == {"n": 7}


def test_a_shortened_cursor_keeps_what_it_can(tmp_path: Path) -> None:
    cursor = Cursor(tmp_path / "c")
    cursor.write({"n": 1})
    cursor.write({"n": 2})  # in the first slot
    os.truncate(tmp_path / "c", 200)
    again = Cursor(tmp_path / "c")
    assert again.values == {"n": 2}
    assert (tmp_path / "c").stat().st_size == 2 * SLOT_BYTES
    assert Cursor(tmp_path / "c").values == {"n": 2}


def test_it_is_dirty_until_what_was_settled_is_synced_too(tmp_path: Path) -> None:
    queue = DurableQueue(tmp_path / "q", max_bytes=65536, max_age_s=DAY)
    assert not queue.dirty
    queue.append([b"a"], 0.0)
    queue.sync()
    assert not queue.dirty
    queue.settle(1, delivered=1)
    assert queue.dirty
    queue.sync()
    assert not queue.dirty
    queue.close()


def test_counts_that_are_unreadable_are_set_aside_and_named(tmp_path: Path) -> None:
    queue = DurableQueue(tmp_path / "q", max_bytes=65536, max_age_s=DAY)
    assert queue.unreadable is None
    queue.close()
    (tmp_path / "q" / CURSOR_FILE).write_bytes(b"junk" * 300)
    queue = DurableQueue(tmp_path / "q", max_bytes=65536, max_age_s=DAY)
    assert queue.unreadable is not None
    assert queue.unreadable.read_bytes() == b"junk" * 300
    queue.close()
