"""Compresses rotated logs, one file after another on a thread of its own."""

from __future__ import annotations

import gzip
import os
import shutil
from contextlib import suppress
from pathlib import Path

from twisted.internet.defer import DeferredLock
from twisted.logger import Logger

from daemon import faults
from daemon.aio.threads import LaneBusy, LaneTimeout, Threads
from daemon.logs.agent_log import AgentLog
from daemon.logs.layout import opened

log = Logger()

LANE = "logs-gzip"
DEADLINE_S = 3600.0
LOOK_DEADLINE_S = 20.0
CHUNK = 256 * 1024
GZIP_LEVEL = 6


class Press:
    """Shared by all logs, so that never two files are compressed at once.

    Args:
        threads: where it happens.
    """

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._turn = DeferredLock()

    async def compress(self, agent_log: AgentLog, lane: str) -> int:
        """Compresses every rotated file of a log that is not.

        Returns:
            how many stay as they are because the disk refused (logged).
        """
        tried: set[int] = set()
        await self._turn.acquire()
        try:
            while True:
                waiting = await self._threads.run(lane, LOOK_DEADLINE_S, agent_log.uncompressed)
                source = next((each for each in waiting if each.inode not in tried), None)
                if source is None:
                    return 0
                made = await self._threads.run(LANE, DEADLINE_S, compress, source.path, source.inode)
                if made is not None:  # else it has moved meanwhile, and the next look has its new name
                    tried.add(source.inode)
                    await self._threads.run(lane, LOOK_DEADLINE_S, agent_log.compressed, source.inode, made)
        except (OSError, LaneBusy, LaneTimeout) as error:
            log.warn("rotated logs in {folder} stay uncompressed for now: {error}",
                     folder=str(agent_log.folder), error=str(error))
            return 1
        finally:
            self._turn.release()


def compress(source: Path, inode: int) -> Path | None:
    """Compresses a rotated file beside it; the result has a temporary name. Blocks for long: a lane of its
    own.

    Returns:
        None when the file is no longer there.

    Raises:
        OSError: the disk refuses; nothing is left behind.
    """
    made = source.with_name(f".{source.name.rpartition('.')[0]}.{inode}.gz.tmp")
    try:
        with opened(source) as fd:
            if os.fstat(fd).st_ino != inode:
                return None  # it has moved on; the next look finds it
            faults.hit("logs.compress")
            with opened(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as out:
                with os.fdopen(os.dup(out), "wb") as raw, gzip.GzipFile(
                    fileobj=raw, mode="wb", compresslevel=GZIP_LEVEL, filename="", mtime=0
                ) as packed, os.fdopen(os.dup(fd), "rb") as plain:
                    shutil.copyfileobj(plain, packed, CHUNK)
                os.fchmod(out, 0o640)
                os.fsync(out)
    except FileNotFoundError:
        return None
    except OSError:
        with suppress(OSError):  # the disk is in trouble already
            made.unlink()
        raise
    return made
