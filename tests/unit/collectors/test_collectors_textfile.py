"""The textfile collector: one bad file never costs the others."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from collectors_support import sample_of
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from daemon.collectors import textfile
from daemon.collectors.flatten import flatten
from daemon.collectors.textfile import FileRefused, TextfileCollector, list_prom_files, read_regular
from daemon.errors import CollectError
from tests.fakes.threads import InlineThreads


class Shelf:
    """A directory and its collector."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.threads = InlineThreads(Clock())
        self.collector = TextfileCollector(
            directory=str(path), interval_s=60, timeout_s=10, threads=self.threads, wall=lambda: 4.0
        )
        self.put("good.prom", "good 1\n")

    def put(self, name: str, text: str | bytes) -> Path:
        file = self.path / name
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        os.utime(file, (1000, 1000))
        return file

    def values(self) -> Mapping[str, Any]:
        return sample_of(self.collector.collect()).values

    def refusal(self, name: str) -> str:
        """Why ``name`` is refused, where all else is well."""
        values = self.values()
        assert values["good"] == 1.0
        assert values["textfile_files_refused"] == 1
        return str(values[f'textfile_error{{file="{name}"}}'])


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def test_samples_of_all_files_and_their_age(shelf: Shelf) -> None:
    shelf.put("b.prom", 'jobs{queue="mail"} 3\n')
    shelf.put("ignored.txt", "junk")
    shelf.put(".hidden.prom", "half a li")
    sample = sample_of(shelf.collector.collect())
    assert (sample.name, sample.timestamp) == ("textfile", 4.0)
    assert sample.values == {
        "good": 1.0,
        'jobs{queue="mail"}': 3.0,
        'textfile_mtime_seconds{file="good.prom"}': 1000.0,
        'textfile_mtime_seconds{file="b.prom"}': 1000.0,
        "textfile_files_refused": 0,
    }
    assert shelf.threads.calls == ["collector:textfile"]


@pytest.mark.parametrize(
    "junk", [b"\x7fELF\x00\xff\xfe", b"half a li", b"good line 1 2 3\n", b"<html>\n", b"\n\x00\n"]
)
def test_junk_file_is_named(shelf: Shelf, junk: bytes) -> None:
    shelf.put("junk.prom", junk)
    assert shelf.refusal("junk.prom")


def test_refusals_are_text_and_so_not_reported_as_numbers(shelf: Shelf) -> None:
    shelf.put("junk.prom", "junk")
    numbers = flatten(sample_of(shelf.collector.collect()))
    assert numbers["textfile_files_refused"] == 1.0
    assert not any("textfile_error" in key for key in numbers)


def test_fifo_is_not_waited_for(shelf: Shelf) -> None:
    os.mkfifo(shelf.path / "pipe.prom")
    assert shelf.refusal("pipe.prom") == "not a regular file"


def test_fifo_that_takes_the_place_of_a_file_is_not_waited_for(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    regular = (shelf.path / "good.prom").stat()
    os.mkfifo(shelf.path / "pipe.prom")
    monkeypatch.setattr(textfile.os, "stat", lambda path: regular)
    with pytest.raises(FileRefused, match="not a regular file"):
        read_regular(str(shelf.path / "pipe.prom"))


def test_directory_named_like_a_file(shelf: Shelf) -> None:
    (shelf.path / "x.prom").mkdir()
    assert shelf.refusal("x.prom") == "not a regular file"


def test_socket_named_like_a_file(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shelf.path)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("s.prom")
        assert shelf.refusal("s.prom") == "not a regular file"


def test_loop_of_links(shelf: Shelf) -> None:
    (shelf.path / "a.prom").symlink_to("a.prom")
    assert "symbolic links" in shelf.refusal("a.prom")


def test_dangling_link(shelf: Shelf) -> None:
    (shelf.path / "a.prom").symlink_to("nowhere")
    assert "No such file" in shelf.refusal("a.prom")


def test_link_to_a_regular_file_is_followed(shelf: Shelf, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "real").write_text("linked 5\n")
    (shelf.path / "a.prom").symlink_to("sub/real")
    assert shelf.values()["linked"] == 5.0


def test_device_is_not_opened(shelf: Shelf) -> None:
    (shelf.path / "zero.prom").symlink_to("/dev/zero")
    assert shelf.refusal("zero.prom") == "not a regular file"


def test_too_large_a_file(shelf: Shelf) -> None:
    line = b"# filler\n"
    fits = line * (textfile.MAX_FILE_BYTES // len(line))
    shelf.put("fits.prom", fits)
    assert shelf.values()["textfile_files_refused"] == 0
    shelf.put("fits.prom", fits + line)
    assert "larger than 1048576 bytes" in shelf.refusal("fits.prom")


def test_file_that_grows_while_it_is_read_is_refused(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    file = shelf.put("a.prom", "a 1\n")
    real, asked = os.fstat, []

    def fstat(fd: int) -> os.stat_result:
        result = real(fd)
        if not asked:
            asked.append(fd)
            with file.open("a") as writer:
                writer.write("b 2\n")
        return result

    monkeypatch.setattr(textfile.os, "fstat", fstat)
    with pytest.raises(FileRefused, match="written to while it was read"):
        read_regular(str(file))


def test_file_replaced_by_rename_while_it_is_read_is_read_as_it_was(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = shelf.put("a.prom", "a 1\n")
    real, done = os.fstat, []

    def fstat(fd: int) -> os.stat_result:
        if not done:
            done.append(fd)
            shelf.put("new", "a 2\n").rename(file)
        return real(fd)

    monkeypatch.setattr(textfile.os, "fstat", fstat)
    assert read_regular(str(file))[0] == b"a 1\n"
    assert read_regular(str(file))[0] == b"a 2\n"


def test_file_that_vanishes_between_list_and_read_costs_nothing_else(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(textfile, "list_prom_files", lambda _directory: ["gone.prom", "good.prom"])
    assert "No such file" in shelf.refusal("gone.prom")


def test_sample_of_an_earlier_file_is_refused_in_a_later_one(shelf: Shelf) -> None:
    shelf.put("later.prom", "good 2\nother 3\n")
    assert "earlier file" in shelf.refusal("later.prom")
    assert "other" not in shelf.values()


def test_more_files_than_allowed_are_named(shelf: Shelf) -> None:
    for number in range(textfile.MAX_FILES):
        shelf.put(f"z{number:03}.prom", f"z{number} 1\n")
    assert "more than 200 files" in shelf.refusal("z199.prom")


def test_samples_of_all_files_are_bounded(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(textfile, "MAX_SAMPLES", 3)
    shelf.put("h.prom", "h1 1\nh2 2\nh3 3\n")
    assert "still free" in shelf.refusal("h.prom")


def test_directory_with_far_too_much_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Shelf(tmp_path)
    shelf.put("b.prom", "b 1\n")
    monkeypatch.setattr(textfile, "MAX_ENTRIES", 1)
    with pytest.raises(CollectError, match="clear it out"):
        list_prom_files(str(tmp_path))


def test_missing_directory_is_a_collect_error(tmp_path: Path) -> None:
    with pytest.raises(CollectError, match=r"check collectors\.textfile\.directory"):
        list_prom_files(str(tmp_path / "none"))


def test_file_name_of_any_bytes_can_be_told(shelf: Shelf) -> None:
    name = os.fsencode(shelf.path) + b'/we"ird\\\n\xff.prom'
    with open(name, "w") as file:
        file.write("weird 1\n")
    values = shelf.values()
    assert values["weird"] == 1.0
    assert 'textfile_mtime_seconds{file="we\\"ird\\\\\\n\\\\xff.prom"}' in values
    str(values).encode()


def test_refusal_is_logged_at_changes_only(shelf: Shelf) -> None:
    file = shelf.put("junk.prom", "junk")
    with capturedLogs() as logs:
        for _round in range(3):
            shelf.values()
    assert [entry["file"] for entry in logs] == ["junk.prom"]
    file.write_text("junk 1\n")
    with capturedLogs() as logs:
        shelf.values()
        shelf.values()
    assert len(logs) == 1
