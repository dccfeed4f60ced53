"""The history of an agent on disk: newest points kept, over restarts, bad bytes and bad disks."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from daemon import faults
from daemon.errors import StorageError
from daemon.resources.history import History, Numbered, Stored, StoredPoints, points_of
from daemon.resources.ring import HEADER_BYTES, RECORD_BYTES, Ring
from daemon.resources.usage_record import USAGE, Sample, encode, sample_of

FULL = Sample(at=1_700_000_000, cpu=12.5, rss=2**40, vms=2**41, read=2**50, write=7, files=100_000, threads=300,
              reported_cpu=0.5, reported_memory=4096)
BARE = Sample(at=1_700_000_060)


def series(count: int, begin: int = 0) -> list[Sample]:
    return [Sample(at=1_700_000_000 + 60 * n, cpu=float(n % 100), rss=n) for n in range(begin, begin + count)]


def read(ring: Ring, since: float = 0) -> list[Sample]:
    return [sample_of(record) for record in ring.read_since(since)]


def numbered(samples: list[Sample], first: int = 1) -> list[Numbered]:
    return list(enumerate(samples, first))


def stored(history: History, agent_id: str, capacity: int = 10) -> list[Sample]:
    return [
        Sample(at=p.timestamp, cpu=p.cpu, rss=p.memory_rss) for p in history.query(agent_id, 0, 0, capacity)
    ]


@pytest.fixture(autouse=True)
def no_faults() -> object:
    yield
    faults.arm({})


@pytest.mark.parametrize("sample", [FULL, BARE])
def test_a_sample_survives_its_record(sample: Sample) -> None:
    record = encode(7, sample)
    assert len(record) == RECORD_BYTES == 64
    assert USAGE.decode(record) == (7, sample)


def test_absurd_numbers_are_clamped_and_not_refused() -> None:
    wild = Sample(at=2**40, cpu=1e300, rss=2**80, vms=-5, files=2**40, threads=2**40, reported_memory=2**60)
    found = USAGE.decode(encode(2**33 + 1, wild))
    assert found is not None and found[0] == 1
    assert found[1].vms == 0 and found[1].rss == 2**64 - 2 and found[1].files == 2**32 - 2


def test_a_torn_or_empty_record_is_none() -> None:
    assert USAGE.decode(bytes(RECORD_BYTES)) is None
    record = bytearray(encode(1, FULL))
    for at in (0, 5, 20, RECORD_BYTES - 1):
        torn = bytearray(record)
        torn[at] ^= 1
        assert USAGE.decode(bytes(torn)) is None


def test_the_newest_points_stay_over_any_number_of_starts(tmp_path: Path) -> None:
    path, wrote = tmp_path / "a.ring", 0
    for count in (1, 3, 10, 4, 25, 2):
        Ring(path, 10, USAGE).append(series(count, wrote))
        wrote += count
        expected = series(min(10, wrote), wrote - min(10, wrote))
        assert read(Ring(path, 10, USAGE)) == expected
    assert path.stat().st_size == HEADER_BYTES + 10 * RECORD_BYTES
    assert path.stat().st_blocks * 512 >= path.stat().st_size  # nothing is left to be allocated
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_query_by_wall_time(tmp_path: Path) -> None:
    ring = Ring(tmp_path / "a.ring", 1440, USAGE)
    ring.append(series(1440))
    assert read(ring, 1_700_000_000 + 60 * 1380) == series(60, 1380)
    assert read(ring, 2**33) == []


def test_a_clock_that_was_set_back_keeps_the_order_of_writing(tmp_path: Path) -> None:
    ring = Ring(tmp_path / "a.ring", 8, USAGE)
    ring.append([*series(4, 100), *series(3, 40)])
    assert [s.rss for s in read(ring)] == [100, 101, 102, 103, 40, 41, 42]


@pytest.mark.parametrize("capacity", [3, 50, 5000])
def test_another_capacity_keeps_the_newest_points(tmp_path: Path, capacity: int) -> None:
    path = tmp_path / "a.ring"
    Ring(path, 10, USAGE).append(series(25))
    ring = Ring(path, capacity, USAGE)
    kept = min(10, capacity)
    assert read(ring) == series(kept, 25 - kept)
    ring.append(series(1, 25))
    assert read(ring)[-1] == series(1, 25)[0]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"x", b"HDRING" + bytes(58), bytes(64 + 640), b"y" * 704, b"HDRING" * 200])
def test_what_is_no_ring_is_set_aside(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.ring"
    path.write_bytes(content)
    ring = Ring(path, 10, USAGE)
    assert Path(ring.set_aside).read_bytes() == content
    ring.append(series(2))
    assert read(ring) == series(2)


def test_torn_records_cost_themselves_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.ring"
    Ring(path, 10, USAGE).append(series(10))
    with open(path, "r+b") as file:
        file.seek(HEADER_BYTES + 9 * RECORD_BYTES + 9)
        file.write(b"\xff\xff")
        file.seek(HEADER_BYTES + 2 * RECORD_BYTES)
        file.write(b"\xff" * 4)
    ring = Ring(path, 10, USAGE)
    assert ring.torn == 2
    assert [s.rss for s in read(ring)] == [0, 1, 3, 4, 5, 6, 7, 8]
    ring.append(series(1, 99))
    assert [s.rss for s in read(ring)][-1] == 99


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_bytes(b"x" * 1000)
    (tmp_path / "a.ring").symlink_to(target)
    with pytest.raises(StorageError):
        Ring(tmp_path / "a.ring", 10, USAGE)
    assert target.read_bytes() == b"x" * 1000


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_pipe_or_a_folder_in_its_place_is_set_aside(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "a.ring")
    ring = Ring(tmp_path / "a.ring", 10, USAGE)
    assert Path(ring.set_aside).exists()
    ring.append(series(2))
    assert read(ring) == series(2)


def test_a_disk_that_has_no_room_for_a_longer_history_keeps_the_old_one(tmp_path: Path) -> None:
    history = History(tmp_path)
    assert history.append({"a": numbered(series(8))}, 5).trouble == ""
    faults.arm({"HOSTDAEMON_FAULT": "ring.make:1:enospc"})
    assert stored(history, "a", 10) == series(5, 3)
    outcome = history.append({"a": numbered(series(1, 8), 9)}, 10)
    assert "No space left" in outcome.trouble and outcome.newest == {"a": 9}
    assert stored(history, "a", 10) == series(5, 4)
    faults.arm({})
    assert history.append({"a": numbered(series(3, 9), 10)}, 10).trouble == ""
    assert stored(history, "a", 10) == series(8, 4)


def test_a_ring_is_numbered_anew_before_its_numbers_run_out(tmp_path: Path) -> None:
    path = tmp_path / "a.ring"
    ring = Ring(path, 10, USAGE)
    ring.next = 2**31 - 4
    ring.append(series(12))
    again = Ring(path, 10, USAGE)
    assert again.next == 10
    again.append(series(1, 12))
    assert read(Ring(path, 10, USAGE)) == series(10, 3)


def test_a_disk_that_refuses_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    for point, kind, says in (
        ("ring.make", "enospc", "No space left"), ("ring.make", "eio", "put/output"), ("ring.append", "eio", "put/output")
    ):
        directory = tmp_path / f"{point}-{kind}"
        faults.arm({"HOSTDAEMON_FAULT": f"{point}:1:{kind}"})
        history = History(directory)
        batch = {"a": numbered(series(1)), "b": numbered(series(1))}
        outcome = history.append(batch, 10)
        assert says in outcome.trouble and outcome.newest == {"a": 0, "b": 0}
        faults.arm({})
        assert history.append(batch, 10) == Stored(newest={"a": 1, "b": 1}, trouble="")
        assert stored(history, "a") == series(1)
        assert sorted(p.name for p in directory.iterdir()) == ["a.ring", "b.ring"]


def test_one_agents_trouble_does_not_hold_the_others_up(tmp_path: Path) -> None:
    (tmp_path / "a.ring").symlink_to(tmp_path / "elsewhere")
    outcome = History(tmp_path).append({"a": numbered(series(1)), "b": numbered(series(1))}, 10)
    assert outcome.newest == {"a": 0, "b": 1} and "symbolic link" in outcome.trouble
    assert not (tmp_path / "elsewhere").exists()


def test_a_batch_that_comes_again_is_not_written_twice(tmp_path: Path) -> None:
    history = History(tmp_path)
    faults.arm({"HOSTDAEMON_FAULT": "ring.append:3:eio"})
    batch = {"a": numbered(series(4))}
    assert history.append(batch, 10).newest == {"a": 2}  # the third is refused
    faults.arm({})
    assert history.append(batch, 10).newest == {"a": 4}
    assert history.append(batch, 10).newest == {"a": 4}
    assert stored(history, "a") == series(4)
    waiting = numbered(series(6))
    assert [p.memory_rss for p in history.query("a", 0, 0, 10, waiting)] == [0, 1, 2, 3, 4, 5]


def test_history_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    history = History(tmp_path)
    history.append({"a": numbered(series(3))}, 10)
    faults.arm({"HOSTDAEMON_FAULT": "ring.read:1:eio"})
    with pytest.raises(StorageError, match="check that disk"):
        history.query("a", 0, 0, 10)
    faults.arm({})
    assert stored(history, "a") == series(3)


def test_a_full_disk_later_takes_nothing(tmp_path: Path) -> None:
    history = History(tmp_path)
    history.append({"a": numbered(series(1))}, 100)
    faults.arm({"HOSTDAEMON_FAULT": "ring.make:1:enospc"})
    history.append({"a": numbered(series(99, 1), 2)}, 100)
    assert len(stored(history, "a", 100)) == 100


def test_forgotten_agents_leave_no_file(tmp_path: Path) -> None:
    history = History(tmp_path)
    history.append({name: numbered(series(1)) for name in ("a", "b", "c.d", "e")}, 10)
    history.forget("a")
    history.forget("nobody")
    history.forget_others({"c.d"})
    assert stored(history, "a") == []
    assert [p.name for p in tmp_path.iterdir()] == ["c.d.ring"]


def test_points_of_a_step_have_average_and_extremes() -> None:
    samples = [Sample(at=600 + 60 * n, cpu=cpu, rss=100 * n, files=n, reported_cpu=rep)
               for n, (cpu, rep) in enumerate([(10.0, None), (None, 1.0), (30.0, 3.0), (5.0, None)])]
    raw = StoredPoints(b"".join(encode(n, sample) for n, sample in enumerate(samples)))
    assert [p.timestamp for p in raw] == [600, 660, 720, 780]
    assert [p.cpu for p in raw] == [10.0, None, 30.0, 5.0]
    assert (len(raw), raw[-1].cpu, [p.timestamp for p in raw[1:3]]) == (4, 5.0, [660, 720])
    with pytest.raises(IndexError):
        raw[4]
    for point, sample in zip(raw, samples, strict=True):  # the short way comes to the same as the long one
        assert point == msgspec.structs.replace(points_of([sample], 1)[0], timestamp=sample.at)
    first, second = points_of(samples, 180)
    assert (first.timestamp, first.samples, second.samples) == (720, 2, 2)
    assert (first.cpu, first.cpu_min, first.cpu_max) == (10.0, 10.0, 10.0)
    assert (second.cpu, second.cpu_min, second.cpu_max, second.memory_rss) == (17.5, 5.0, 30.0, 250)
    assert (second.open_files, second.reported_cpu) == (3, 3.0)


def test_properties_of_ring_and_steps(tmp_path: Path) -> None:
    hypothesis = pytest.importorskip("hypothesis")
    st = hypothesis.strategies
    number = iter(range(10**9))
    samples = st.builds(
        Sample, at=st.integers(1, 2**32 - 2), cpu=st.none() | st.floats(0, 1e6, width=32),
        rss=st.none() | st.integers(0, 2**63), files=st.none() | st.integers(0, 2**20), threads=st.integers(0, 9999),
    )

    @hypothesis.settings(derandomize=True, deadline=None, max_examples=60)
    @hypothesis.given(st.lists(st.lists(samples, max_size=12), max_size=6), st.integers(1, 9), st.integers(1, 10**6))
    def check(batches: list[list[Sample]], capacity: int, step_s: int) -> None:
        path = tmp_path / f"{next(number)}.ring"
        every: list[Sample] = []
        for batch in batches:
            Ring(path, capacity, USAGE).append(batch)
            every += batch
        kept = read(Ring(path, capacity, USAGE))
        assert kept == every[-capacity:]
        points = points_of(kept, step_s)
        assert sum(p.samples for p in points) == len(kept)
        for point in points:
            if point.cpu is not None:
                assert point.cpu_min <= point.cpu <= point.cpu_max
            if point.memory_rss is not None:
                assert point.memory_rss_min <= point.memory_rss <= point.memory_rss_max
        path.unlink()

    check()
