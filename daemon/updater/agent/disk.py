"""File work of an agent's update: on a lane of its own, and what the disk refuses told as D4003."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from daemon.aio.threads import LaneBusy, LaneTimeout, Threads
from daemon.durable.explain import storage_error
from daemon.errors import StorageError, UpdateApplyError
from daemon.interfaces import UpdatableAgent

P = ParamSpec("P")
T = TypeVar("T")

LANE = "update-agent"
FILES_DEADLINE_S = 900.0  # copying a package of 512 MiB on a slow disk
LOG_DEADLINE_S = 10.0


class Disk:
    """The disk as one target sees it.

    Args:
        agent_id: whose update it is, for what is told.
        threads: whose lane is used.
    """

    def __init__(self, agent_id: str, threads: Threads) -> None:
        self._agent_id = agent_id
        self._threads = threads

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What the call gives.

        Raises:
            UpdateApplyError: D4003, also for what the disk refuses and when it does not answer.
        """
        try:
            return await self._threads.run(LANE, FILES_DEADLINE_S, call, *args, **kwargs)
        except (LaneBusy, LaneTimeout) as error:
            raise UpdateApplyError(
                f"the disk does not answer ({error}); mend it, then update {self._agent_id} again"
            ) from error
        except StorageError as error:
            raise UpdateApplyError(error.message) from error
        except OSError as error:
            told = storage_error("update", Path(error.filename or self._agent_id), error).message
            raise UpdateApplyError(told, errno=error.errno or 0) from error

    async def last_lines(self, agent: UpdatableAgent) -> list[str]:
        """The end of an agent's log, or why it cannot be had: evidence, for which nothing fails."""
        try:
            return list(await self._threads.run(LANE, LOG_DEADLINE_S, agent.last_lines))
        except (LaneBusy, LaneTimeout) as error:
            return [f"(the log cannot be read: {error})"]
