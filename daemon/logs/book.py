"""One agent's log under care: what the service remembers of it between two looks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType

from daemon.aio.notify import TakeBack
from daemon.config.schema import LogsConfig
from daemon.logs.agent_log import AgentLog
from daemon.logs.following import LogFollower

RETRY_FIRST_S = 5.0
RETRY_MOST_S = 300.0


class Illness(Enum):
    """What is wrong with a log, and what ends it."""

    UNMENDED = "what an earlier daemon left of its log cannot be mended"  # until a look, which mends
    UNSEEN = "its log cannot be looked at"  # until a look
    UNROTATED = "its log cannot be rotated"  # until a rotation, or until there is nothing to rotate
    DROPPING = "lines of its log were dropped"  # until a rotation that keeps them
    UNBOUNDED = "its rotated logs cannot be kept within their bounds"  # until they are


WELL: Mapping[Illness, str] = MappingProxyType({})


@dataclass(slots=True, eq=False)
class LogBook:
    """One agent's log under care.

    Attributes:
        size: of the live file, as of the last look.
        uncut: a size at which nothing could be cut: not tried again before it changes.
        busy: a call on it is under way.
        ready: what a daemon that died left is mended, or was tried to be.
        ills: what is wrong now, each with its message.
        retry_s, not_before_s: when the disk that refused is asked again.
        watch: the kernel tells when it grows; nobody looks meanwhile.
        followers: its readers.
    """

    agent_id: str
    log: AgentLog
    limits: LogsConfig
    size: int = 0
    uncut: int = -1
    busy: bool = False
    ready: bool = False
    ills: Mapping[Illness, str] = field(default_factory=lambda: WELL)
    retry_s: float = RETRY_FIRST_S
    not_before_s: float = 0.0
    watch: TakeBack | None = None
    followers: frozenset[LogFollower] = frozenset()

    @property
    def lane(self) -> str:
        """Its own: a rotation or a reader of one log holds up nobody else's. Made when it is first used."""
        return f"logs:{self.agent_id}"

    @property
    def refused(self) -> bool:
        """Whether the disk refused something that is to be tried again."""
        return any(illness is not Illness.DROPPING for illness in self.ills)

    def postpone(self, now_s: float) -> None:
        """The disk refused: it is asked again after 5 s, then ever later, 300 s at most."""
        self.not_before_s = now_s + self.retry_s
        self.retry_s = min(RETRY_MOST_S, self.retry_s * 2)

    def forgive(self) -> None:
        """The disk answers: the next trouble is a new one."""
        self.retry_s, self.not_before_s = RETRY_FIRST_S, 0.0
