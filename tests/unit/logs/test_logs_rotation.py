"""One log on real filesystems: every line exactly once, whatever dies, fills up or is truncated."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from logs_support import LIMITS, append, lines, rotated_text, whole_text

from daemon import faults
from daemon.config.schema import LogsConfig
from daemon.logs import kernel
from daemon.logs.agent_log import AgentLog
from daemon.logs.compressing import compress
from daemon.logs.holding import NotHeldError
from daemon.logs.layout import rotated_files
from daemon.logs.record import SLOT_BYTES, Pending, RotationRecord, State
from daemon.logs.rotation import Outcome

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def no_faults() -> Iterator[None]:
    yield
    faults.arm({})


def mounted(kind: str, tmp_path: Path) -> Iterator[Path]:
    """A folder on a filesystem of that kind."""
    if kind == "disk":
        yield tmp_path / "logs"
        return
    base, at = tmp_path / "base", tmp_path / "at"
    at.mkdir()
    for name in ("lower", "upper", "work"):
        (base / name).mkdir(parents=True)
    options = {
        "tmpfs": ["-t", "tmpfs", "tmpfs"],
        "overlay": ["-t", "overlay", "overlay", "-o",
                    f"lowerdir={base}/lower,upperdir={base}/upper,workdir={base}/work"],
        "small": ["-t", "tmpfs", "-o", "size=256k", "tmpfs"],
    }[kind]
    if os.geteuid() != 0 or subprocess.run(["mount", *options, str(at)], capture_output=True).returncode:
        if kind != "tmpfs":
            pytest.skip(f"a filesystem of kind {kind} cannot be mounted here")
        folder = Path("/dev/shm") / f"hd-{os.getpid()}"  # is one already
        folder.mkdir()
        yield folder
        subprocess.run(["rm", "-rf", str(folder)], check=True)
        return
    try:
        yield at / "logs"
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True)


@pytest.fixture(params=["disk", "overlay", "tmpfs"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    for path in mounted(request.param, tmp_path):
        path.mkdir(exist_ok=True)
        yield path


def no_writers() -> list[int]:
    return []


def new(folder: Path, writers: object = no_writers) -> AgentLog:
    log = AgentLog(folder, writers)  # type: ignore[arg-type]
    log.recover()
    return log


def test_twenty_rotations_lose_and_double_nothing(folder: Path) -> None:
    log, wrote = new(folder), 0
    for _ in range(20):
        append(log.live, lines(wrote, wrote + 700))
        wrote += 700
        outcome = log.rotate(LIMITS)
        assert outcome is not None and outcome.way in ("collapse", "truncate")
        assert log.look().size < 3 * 4096
    assert rotated_text(folder) == lines(0, rotated_text(folder).count(b"\n"))
    assert whole_text(log) == lines(0, wrote)
    assert len(rotated_files(folder)) == 20


def test_an_unfinished_line_stays_whole(folder: Path) -> None:
    log = new(folder)
    append(log.live, lines(0, 700) + b"line 700 of")
    log.rotate(LIMITS)
    append(log.live, b" the log\n" + lines(701, 1400))
    log.rotate(LIMITS)
    assert whole_text(log) == lines(0, 1400)
    assert rotated_text(folder) + b"".join(
        line + b"\n" for line in log.tail(10**6, b"")[rotated_text(folder).count(b"\n"):]) == lines(0, 1400)


def test_the_state_survives_the_daemon(folder: Path) -> None:
    wrote = 0
    for _ in range(6):
        log = new(folder)
        append(log.live, lines(wrote, wrote + 700))
        wrote += 700
        log.rotate(LIMITS)
        log.close()
    assert whole_text(new(folder)) == lines(0, wrote)


SCRIPT = """
import os, sys, traceback
from pathlib import Path
from daemon import faults
from daemon.logs.agent_log import AgentLog
from daemon.config.schema import LogsConfig

def rotate(folder, fault, writer):
    log = AgentLog(Path(folder), lambda: [int(writer)] if writer != "0" else [])
    faults.arm({"HOSTDAEMON_FAULT": fault})
    log.recover()
    log.rotate(LogsConfig(max_size=10_000))

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        try:
            rotate(*line.rstrip("\\n").split("\\t"))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
POINTS = ["logs.copy", "logs.record", "logs.journal", "logs.collapse", "logs.collapsed", "logs.rename", "logs.shift",
          "logs.renamed"]
Die = Callable[..., int]


@pytest.fixture(scope="module")
def rotate_and_die() -> Iterator[Die]:
    """Rotates a log in a process of its own, which dies at a step: 0 or -9. One interpreter forks them all, for
    starting one takes longer than everything they do."""
    parent = subprocess.Popen([sys.executable, "-c", SCRIPT], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdin is not None and parent.stdout is not None

    def die(folder: Path, fault: str, writer: int = 0) -> int:
        assert parent.stdin is not None and parent.stdout is not None
        print(folder, fault, writer, sep="\t", file=parent.stdin, flush=True)
        status = int(parent.stdout.readline())
        assert status in (0, -9), status
        return status

    yield die
    parent.stdin.close()
    assert parent.wait(10) == 0
    parent.stdout.close()


def test_a_death_at_every_step_loses_and_doubles_nothing(folder: Path, rotate_and_die: Die) -> None:
    log, wrote = new(folder), 0
    for _ in range(2):  # rotated files that have to move
        append(log.live, lines(wrote, wrote + 700))
        wrote += 700
        log.rotate(LIMITS)
    log.close()
    live, died = folder / "agent.log", 0
    for point in POINTS:
        for n in (1, 2, 3):
            append(live, lines(wrote, wrote + 700))
            wrote += 700
            died += rotate_and_die(folder, f"{point}:{n}") == -9
            append(live, lines(wrote, wrote + 50))  # before anybody mends it
            wrote += 50
            log = new(folder)
            assert whole_text(log) == lines(0, wrote), (point, n)
            assert rotated_text(folder) == lines(0, rotated_text(folder).count(b"\n")), (point, n)
            assert sorted(p.name for p in folder.iterdir() if p.name.startswith(".")) == [".rotation"]
            log.close()
    assert died >= 8


WRITER = """
import os, sys, time
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
n = 0
while n < int(sys.argv[2]) or not os.path.exists(sys.argv[3]):
    os.write(fd, b"".join(b"line %d of the log\\n" % i for i in range(n, n + 10))); n += 10
print(n, flush=True)
time.sleep(1000)
"""


def write_and_rotate(folder: Path, least: int, rotations: int) -> None:
    """Rotates under a writer, until both have done so much."""
    log, end = new(folder), folder / "end"
    writer = subprocess.Popen([sys.executable, "-S", "-E", "-c", WRITER, str(log.live), str(least), str(end)],
                              stdout=subprocess.PIPE)
    log = new(folder, lambda: [writer.pid])
    assert writer.stdout is not None
    try:
        done = 0
        while not select.select([writer.stdout], [], [], 0)[0]:
            size = log.live.stat().st_size if log.live.exists() else 0
            done += size > 100_000 and log.rotate(LogsConfig(max_size=100_000)) is not None
            if done >= rotations:
                end.touch()
        assert whole_text(log) == lines(0, int(writer.stdout.readline()))
    finally:
        writer.kill()
        writer.wait()
        writer.stdout.close()


def test_a_writer_at_full_speed_loses_nothing(folder: Path) -> None:
    write_and_rotate(folder, 120_000, 5)


@pytest.mark.slow
def test_three_million_lines_at_full_speed(folder: Path) -> None:
    write_and_rotate(folder, 3_000_000, 20)


def test_writers_left_stopped_by_a_death_go_on_with_the_next_daemon(tmp_path: Path, rotate_and_die: Die) -> None:
    for folder in mounted("tmpfs", tmp_path):
        folder.mkdir(exist_ok=True)
        sleeper = subprocess.Popen(["sleep", "1000"], start_new_session=True)
        try:
            append(folder / "agent.log", lines(0, 700))
            assert rotate_and_die(folder, "logs.journal:1", sleeper.pid) == -9
            state = Path(f"/proc/{sleeper.pid}/stat").read_text().rpartition(")")[2].split()[0]
            assert state == "T"
            assert whole_text(new(folder)) == lines(0, 700)
            for _ in range(500):  # it runs for a moment before it sleeps again
                state = Path(f"/proc/{sleeper.pid}/stat").read_text().rpartition(")")[2].split()[0]
                if state == "S":
                    break
                time.sleep(0.01)
            assert state == "S"
        finally:
            sleeper.kill()
            sleeper.wait()


def test_a_writer_that_cannot_be_held_costs_nothing(tmp_path: Path) -> None:
    for folder in mounted("tmpfs", tmp_path):
        folder.mkdir(exist_ok=True)
        log = new(folder, lambda: [1])  # may not be signalled, or ignores SIGSTOP
        append(log.live, lines(0, 700))
        with pytest.raises(NotHeldError):
            log.rotate(LIMITS)
        assert whole_text(log) == lines(0, 700)
        assert rotated_files(folder) == []


@pytest.mark.parametrize("kind", ["enospc", "eio"])
def test_a_disk_without_room_drops_and_counts_and_a_broken_one_raises(folder: Path, kind: str) -> None:
    log = new(folder)
    append(log.live, lines(0, 700))
    faults.arm({"HOSTDAEMON_FAULT": f"logs.copy:1:{kind}"})
    if kind == "eio":
        with pytest.raises(OSError, match="Input/output"):
            log.rotate(LIMITS)
        faults.arm({})
        assert whole_text(log) == lines(0, 700)
        return
    outcome = log.rotate(LIMITS)
    faults.arm({})
    assert outcome is not None and outcome.way == "drop"
    left = whole_text(log)
    assert outcome.dropped_lines + left.count(b"\n") == 700
    assert lines(0, 700).endswith(left) and outcome.dropped_bytes + len(left) == len(lines(0, 700))
    assert rotated_files(folder) == []
    append(log.live, lines(700, 1400))
    assert log.rotate(LIMITS) is not None
    assert whole_text(log) == left + lines(700, 1400)


def test_a_really_full_disk(tmp_path: Path) -> None:
    for folder in mounted("small", tmp_path):
        folder.mkdir()
        log = new(folder)
        append(log.live, lines(0, 9000))
        assert log.live.stat().st_size > 150_000
        outcome = log.rotate(LogsConfig(max_size=100_000))
        assert outcome is not None and (outcome.way, outcome.dropped_lines) == ("drop", 9000)
        append(log.live, lines(9000, 9100))
        assert whole_text(log) == lines(9000, 9100)


@pytest.mark.parametrize("point", ["logs.record", "logs.journal", "logs.collapse", "logs.collapsed", "logs.rename"])
def test_a_disk_that_breaks_in_the_middle_loses_nothing(folder: Path, point: str) -> None:
    log, wrote = new(folder), 0
    for _ in range(3):
        append(log.live, lines(wrote, wrote + 700))
        wrote += 700
        faults.arm({"HOSTDAEMON_FAULT": f"{point}:1:eio"})
        with pytest.raises(OSError, match="Input/output"):
            log.rotate(LIMITS)
        faults.arm({})
        log.rotate(LIMITS)
        assert whole_text(log) == lines(0, wrote)


@pytest.mark.parametrize("point", ["logs.record", "logs.journal", "logs.collapse", "logs.collapsed", "logs.rename"])
def test_a_look_finishes_a_rotation_that_broke_off_and_never_takes_it_for_somebody_elses(folder: Path, point: str) -> None:
    log, wrote = new(folder), 0
    for n in range(1, 4):  # from the second on a part of the live file is copied already
        append(log.live, lines(wrote, wrote + 700))
        wrote += 700
        faults.arm({"HOSTDAEMON_FAULT": f"{point}:1:eio"})
        with pytest.raises(OSError, match="Input/output"):
            log.rotate(LIMITS)
        faults.arm({})
        look = log.look()
        assert look is not None and not look.truncated
        if look.size > LIMITS.max_size:  # it had not come to the cut
            assert log.rotate(LIMITS) is not None
        news = [each for each in log.take_news() if isinstance(each, Outcome)]
        assert len(news) == 1 and log.take_news() == []
        assert len(rotated_files(folder)) == n
        assert whole_text(log) == lines(0, wrote)


def test_while_a_call_is_in_a_log_a_look_does_not_wait_for_it(tmp_path: Path) -> None:
    log, inside, out = new(tmp_path), threading.Event(), threading.Event()

    def writers() -> list[int]:
        inside.set()
        out.wait(10)
        return []

    append(log.live, lines(0, 700))
    log = new(tmp_path, writers)
    log._rotation._lossless = False  # as on tmpfs: the fallback asks who writes
    thread = threading.Thread(target=log.rotate, args=(LIMITS,))
    thread.start()
    try:
        assert inside.wait(10)
        assert log.look() is None
    finally:
        out.set()
        thread.join(10)
    look = log.look()
    assert look is not None and look.size == 0 and len(log.take_news()) == 1


def test_a_log_truncated_by_somebody_else_is_noticed_and_read_from_its_new_head(folder: Path) -> None:
    log = new(folder)
    append(log.live, lines(0, 700))
    log.rotate(LIMITS)
    before = rotated_text(folder)
    append(log.live, lines(700, 800))
    assert not log.look().truncated
    os.truncate(log.live, 0)
    if log._rotation.skip:
        append(log.live, lines(2000, 2700))  # longer than before: only its head tells
        assert log.look().truncated
    else:
        append(log.live, lines(2000, 2001))
        assert log.look().truncated
        append(log.live, lines(2001, 2700))
    assert not log.look().truncated
    assert whole_text(log) == before + lines(2000, 2700)
    log.live.unlink()
    assert log.look().truncated
    assert not log.look().truncated
    append(log.live, lines(3000, 3010))
    assert not log.look().truncated
    assert whole_text(log) == before + lines(3000, 3010)


def test_a_file_without_line_ends_is_split_at_last(folder: Path) -> None:
    log = new(folder)
    append(log.live, b"x" * 15_000)
    outcome = log.rotate(LIMITS)
    if outcome is None:
        append(log.live, b"y" * 15_000)
        outcome = log.rotate(LIMITS)
    assert outcome is not None
    text = b"".join(each.path.read_bytes() for each in reversed(rotated_files(folder)))
    assert text + log.live.read_bytes() in (b"x" * 15_000 + b"y" * 15_000, b"x" * 15_000)


def test_bounds_take_the_oldest_first(tmp_path: Path) -> None:
    log, now = new(tmp_path), time.time()
    for n in range(6):
        append(log.live, lines(n * 700, n * 700 + 700))
        log.rotate(LIMITS)
        os.utime(tmp_path / "agent.log.1", (now - 1000 + n * 100, now - 1000 + n * 100))
    assert log.enforce(LogsConfig(max_files=4), now).files == 2
    assert [f.number for f in rotated_files(tmp_path)] == [1, 2, 3, 4]
    assert log.enforce(LogsConfig(max_age=750.0), now).files == 1
    size = rotated_files(tmp_path)[0].size
    removed = log.enforce(LogsConfig(max_total=log.look().size + 2 * size + 100), now)
    assert removed.files == 1 and removed.bytes > 0
    assert log.enforce(LogsConfig(), now).files == 0


def test_compression_keeps_the_text_and_a_death_in_it_leaves_one_of_the_two(tmp_path: Path) -> None:
    log, wrote = new(tmp_path), 0
    for _ in range(3):
        append(log.live, lines(wrote, wrote + 700))
        wrote += 700
        log.rotate(LIMITS)
    first = log.uncompressed()[0]
    assert first.number == 3
    made = compress(first.path, first.inode)
    assert made is not None and whole_text(log) == lines(0, wrote)
    append(log.live, lines(wrote, wrote + 700))  # it moves on while it is compressed
    wrote += 700
    log.rotate(LIMITS)
    log.compressed(first.inode, made)
    assert [(f.number, f.compressed) for f in rotated_files(tmp_path)] == [(1, False), (2, False), (3, False), (4, True)]
    assert whole_text(log) == lines(0, wrote)
    assert compress(tmp_path / "agent.log.9", 1) is None and compress(tmp_path / "agent.log.1", 1) is None
    # as after a death between the two: both forms, and half a temporary
    (tmp_path / "agent.log.4").write_bytes(lines(0, 700))
    (tmp_path / ".agent.log.77.gz.tmp").write_bytes(b"half")
    assert whole_text(log) == lines(0, wrote)
    log.close()
    assert whole_text(new(tmp_path)) == lines(0, wrote)
    assert not (tmp_path / "agent.log.4").exists() and not (tmp_path / ".agent.log.77.gz.tmp").exists()


def test_a_compression_the_disk_refuses_leaves_the_plain_file(tmp_path: Path) -> None:
    log = new(tmp_path)
    append(log.live, lines(0, 700))
    log.rotate(LIMITS)
    faults.arm({"HOSTDAEMON_FAULT": "logs.compress:1:enospc"})
    [each] = log.uncompressed()
    with pytest.raises(OSError, match="No space"):
        compress(each.path, each.inode)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".rotation", "agent.log", "agent.log.1"]


def test_links_and_other_kinds_of_file_are_never_written_through(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(lines(0, 700))
    folder = tmp_path / "logs"
    folder.mkdir()
    (folder / "agent.log").symlink_to(precious)
    log = AgentLog(folder, no_writers)
    with pytest.raises(OSError):
        log.rotate(LIMITS)
    (folder / "agent.log").unlink()
    os.mkfifo(folder / "agent.log")
    with pytest.raises(OSError):
        log.look()
    (folder / "agent.log").unlink()
    append(folder / "agent.log", lines(0, 700))
    (folder / ".agent.log.copy").symlink_to(precious)
    with pytest.raises(OSError):
        log.rotate(LIMITS)
    assert precious.read_bytes() == lines(0, 700)


@pytest.mark.parametrize("damage", [b"", b"\0" * 8192, b"\xff" * 8192, os.urandom(8192)])
def test_a_damaged_record_costs_a_skip_at_most(tmp_path: Path, damage: bytes) -> None:
    log = new(tmp_path)
    append(log.live, lines(0, 700))
    log.rotate(LIMITS)
    log.close()
    (tmp_path / ".rotation").write_bytes(damage)
    text = whole_text(new(tmp_path))
    assert text.startswith(lines(0, 600)) and text.endswith(lines(699, 700))


def test_the_record_keeps_the_newer_of_two_slots_and_survives_a_torn_one(tmp_path: Path) -> None:
    path = tmp_path / ".rotation"
    record = RotationRecord(path)
    for skip in range(1, 6):
        record.write(State(inode=7, skip=skip, pending=Pending(kind="drop", inode=7)))
    record.close()
    assert RotationRecord(path).state.skip == 5
    data = bytearray(path.read_bytes())
    data[SLOT_BYTES + 30] ^= 0xFF  # the fifth write is in the second slot
    path.write_bytes(data)
    assert RotationRecord(path).state.skip == 4
    assert path.stat().st_size < 2 * SLOT_BYTES


def test_the_kernel_says_what_it_cannot(tmp_path: Path) -> None:
    with open("/dev/shm/x" if Path("/dev/shm").is_dir() else tmp_path / "x", "w+b") as file:
        file.write(b"x" * 10_000)
        file.flush()
        with pytest.raises(kernel.Unsupported):
            kernel.collapse(file.fileno(), 5)
    os.unlink(file.name)
    with open("/proc/self/stat", "rb") as file, pytest.raises((kernel.Unsupported, OSError)):
        kernel.first_block(file.fileno())


