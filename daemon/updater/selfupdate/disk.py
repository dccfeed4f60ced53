"""What blocks on the disk during an update of the daemon: one lane, and one kind of error."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from daemon.aio.threads import LaneBusy, LaneTimeout, Threads
from daemon.errors import StorageError, UpdateApplyError

P = ParamSpec("P")
T = TypeVar("T")

LANE = "daemon-update"
DISK_S = 30.0  # for small files
PLACE_S = 600.0  # for moving and hashing a package of 512 MiB on a slow disk


async def on_disk(
    threads: Threads, deadline_s: float, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> T:
    """Runs a call on the lane.

    Raises:
        UpdateApplyError: D4003, the disk refuses or does not answer; or what the call raises of that kind.
    """
    try:
        return await threads.run(LANE, deadline_s, call, *args, **kwargs)
    except OSError as error:
        raise UpdateApplyError(f"{error}; see to that disk") from error
    except StorageError as error:
        raise UpdateApplyError(error.message) from error
    except (LaneBusy, LaneTimeout) as error:
        raise UpdateApplyError(f"the disk does not answer: {error}") from error
