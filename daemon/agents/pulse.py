"""What an agent's heartbeats said last."""

from __future__ import annotations

from daemon.model.heartbeat import Heartbeat

ANNOUNCES_STOP = "stopping"


class Pulse:
    """The last heartbeat of one agent.

    Attributes:
        received_mono: monotonic seconds of the last one, None when none came yet.
        received_at: its wall time, 0 for none.
        cpu: reported percent of one core, None when not said.
        memory: reported resident bytes, None when not said.
        version: reported, or empty.
        announced_stop: the present process said that it is stopping.
        count_total: heartbeats since the daemon started.
    """

    __slots__ = (
        "announced_stop", "count_total", "cpu", "memory", "received_at", "received_mono", "status", "version",
    )

    def __init__(self) -> None:
        self.received_mono: float | None = None
        self.received_at = 0.0
        self.cpu: float | None = None
        self.memory: int | None = None
        self.version = ""
        self.status = ""
        self.announced_stop = False
        self.count_total = 0

    def take(self, beat: Heartbeat, now_s: float, at: float) -> bool:
        """Takes a heartbeat.

        Returns:
            whether more changed than the numbers: the first one, or another version.
        """
        news = self.received_mono is None or (beat.version != self.version and beat.version != "")
        self.received_mono = now_s
        self.received_at = at
        self.count_total += 1
        if beat.cpu is not None:
            self.cpu = beat.cpu
        if beat.memory is not None:
            self.memory = beat.memory
        if news and beat.version:
            self.version = beat.version
        self.status = beat.status
        self.announced_stop = beat.status == ANNOUNCES_STOP
        return news

    def restore(self, mono: float, at: float) -> None:
        """The last one an earlier daemon got; one that came since then wins."""
        if self.received_mono is None:
            self.received_mono, self.received_at = mono, at

    def new_process(self) -> None:
        """A new process: what the old one reported of itself no longer holds."""
        self.cpu = self.memory = None
        self.status = ""
        self.announced_stop = False
