"""The textfile collector: metrics that other programs leave as ``*.prom`` files in a directory."""

from __future__ import annotations

import os
import stat
from typing import Any

from twisted.logger import Logger

from daemon.aio.threads import Threads
from daemon.collectors.base import lane_of
from daemon.collectors.promtext import PromTextError, parse_prom_text
from daemon.errors import CollectError
from daemon.interfaces import WallClock
from daemon.model.metrics import Metrics

log = Logger()

NAME = "textfile"
SUFFIX = ".prom"
MAX_FILE_BYTES = 1 << 20
MAX_FILES = 200
MAX_SAMPLES = 10_000  # of all files together: what every report carries
MAX_ENTRIES = 100_000  # looked at in the directory

Files = dict[str, tuple[dict[str, float], float]]  # name to samples and the time it was written
Refused = dict[str, str]  # name to why


class FileRefused(Exception):
    """One file cannot be used; the others can."""


def _same(a: os.stat_result, b: os.stat_result) -> bool:
    return (a.st_size, a.st_mtime_ns) == (b.st_size, b.st_mtime_ns)


def read_regular(path: str, max_bytes: int = MAX_FILE_BYTES) -> tuple[bytes, float]:
    """A regular file as a whole, and when it was written (Unix seconds).

    Whatever else bears the name (a FIFO, a directory, a device, a loop of links) is refused without being
    waited for, and so is a file that is written to meanwhile. One that is replaced by rename is read as it
    was: the descriptor stays with the old file.

    Raises:
        FileRefused: why.
    """
    try:
        # Asked first: the mere opening of a device may do something.
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 - one call, no Path object a file
            raise FileRefused("not a regular file")
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise FileRefused(error.strerror or str(error)) from error
    try:
        with os.fdopen(fd, "rb", buffering=0) as file:
            before = os.fstat(fd)
            if not stat.S_ISREG(before.st_mode):
                raise FileRefused("not a regular file")
            if before.st_size > max_bytes:
                raise FileRefused(f"larger than {max_bytes} bytes")
            parts: list[bytes] = []
            room = max_bytes + 1
            while room > 0 and (part := file.read(room)):
                parts.append(part)
                room -= len(part)
            if room <= 0 or not _same(before, os.fstat(fd)):
                raise FileRefused("it was written to while it was read; write elsewhere and rename")
    except OSError as error:
        raise FileRefused(error.strerror or str(error)) from error
    return b"".join(parts), before.st_mtime


def _label(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def textfile_values(files: Files, refused: Refused) -> dict[str, Any]:
    """The values of one sample.

    Args:
        files: file name to its samples and the time it was written.
        refused: file name to why it was not used; told as text.
    """
    values: dict[str, Any] = {}
    for name, (samples, written_at) in files.items():
        values.update(samples)
        values[f'textfile_mtime_seconds{{file="{_label(name)}"}}'] = written_at
    for name, why in refused.items():
        values[f'textfile_error{{file="{_label(name)}"}}'] = why
    values["textfile_files_refused"] = len(refused)
    return values


def list_prom_files(directory: str) -> list[str]:
    """The names to read, sorted; hidden files (half-written ones of many tools) do not count.

    Raises:
        CollectError: the directory cannot be listed, or holds far too much.
    """
    names: list[str] = []
    try:
        with os.scandir(directory) as entries:
            for count, entry in enumerate(entries):
                if count >= MAX_ENTRIES:
                    raise CollectError(
                        f"{directory}: more than {MAX_ENTRIES} entries; clear it out", directory=directory
                    )
                if entry.name.endswith(SUFFIX) and not entry.name.startswith("."):
                    names.append(entry.name)
    except OSError as error:
        raise CollectError(
            f"cannot list {directory}: {error.strerror or error}; check collectors.textfile.directory",
            directory=directory,
        ) from error
    return sorted(names)


def read_directory(directory: str) -> tuple[Files, Refused]:
    """All that a directory gives; blocks.

    Raises:
        CollectError: it cannot be listed.
    """
    files: Files = {}
    refused: Refused = {}
    taken: set[str] = set()
    for index, name in enumerate(list_prom_files(directory)):
        shown = os.fsencode(name).decode("utf-8", "backslashreplace")
        try:
            if index >= MAX_FILES:
                raise FileRefused(f"more than {MAX_FILES} files")
            data, written_at = read_regular(f"{directory}/{name}")
            samples = parse_prom_text(data, MAX_SAMPLES - len(taken))
            if not taken.isdisjoint(samples):
                raise FileRefused("a sample of it is in an earlier file too")
        except (FileRefused, PromTextError) as error:
            refused[shown] = str(error)
            continue
        taken.update(samples)
        files[shown] = (samples, written_at)
    return files, refused


class TextfileCollector:
    """Reads every ``*.prom`` of a directory, on a thread, since the directory may be anywhere.

    A file that cannot be used is named in the values (``textfile_error{file="x.prom"}``) and logged when
    that changes; it costs only its own samples. Files come in the order of their names; one that repeats a
    sample of an earlier one is refused.
    """

    def __init__(
        self, *, directory: str, interval_s: float, timeout_s: float, threads: Threads, wall: WallClock
    ) -> None:
        self.name = NAME
        self.interval_s = interval_s
        self.timeout_s = timeout_s
        self._directory = directory
        self._threads = threads
        self._wall = wall
        self._refused: dict[str, str] = {}

    async def collect(self) -> Metrics:
        """See Collector.

        Raises:
            CollectError: the directory cannot be listed.
        """
        files, refused = await self._threads.run(
            lane_of(self.name), self.timeout_s, read_directory, self._directory
        )
        self._tell_changes(refused)
        return Metrics(name=self.name, timestamp=self._wall(), values=textfile_values(files, refused))

    def _tell_changes(self, refused: Refused) -> None:
        for name, why in refused.items():
            if self._refused.get(name) != why:
                log.warn(
                    "textfile collector: {file} is not used: {why}",
                    file=name, why=why, directory=self._directory, collector=self.name,
                )  # fmt: skip
        for name in self._refused.keys() - refused.keys():
            log.info("textfile collector: {file} is used again or gone", file=name, collector=self.name)
        self._refused = refused
