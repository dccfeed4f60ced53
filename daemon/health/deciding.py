"""The rules of health, pure: what counts as silent, as sustained, as failed; and how it is said."""

from __future__ import annotations

from dataclasses import dataclass, replace

from daemon.config.schema import AgentConfig, HealthCheckConfig
from daemon.model.agent import HealthStatus
from daemon.model.health import HealthVerdict

MIB = 2**20
SLACK_S = 0.1  # timers are never exact: a sample that comes so little too early is taken when it is due
ROUNDING_S = 1e-6  # of sums of seconds


@dataclass(frozen=True, slots=True)
class Sustained:
    """How long a value has been above its limit at every sample.

    The end of the first sample above counts as the beginning, so that a spike shorter than the duration can
    never look longer than it was.

    Attributes:
        since_s: monotonic seconds; None while it is not above.
    """

    since_s: float | None = None

    def after(self, above: bool, now_s: float) -> Sustained:
        """With one more sample."""
        if not above:
            return Sustained()
        return self if self.since_s is not None else Sustained(now_s)

    def over_s(self, now_s: float, duration_s: float) -> float | None:
        """Seconds above, once they reach the duration; else None."""
        if self.since_s is None or now_s - self.since_s < duration_s - ROUNDING_S:
            return None
        return now_s - self.since_s

    def early_s(self, now_s: float, duration_s: float) -> float | None:
        """By how many seconds a sample now would come a hair before the duration is over; else None."""
        if self.since_s is None:
            return None
        left_s = self.since_s + duration_s - now_s
        return left_s if ROUNDING_S < left_s <= SLACK_S else None


@dataclass(frozen=True, slots=True)
class Misses:
    """The recent results of one probe of one process.

    Attributes:
        count: misses in a row that count.
        reason: why the last one missed.
        succeeded: whether it ever went well.
    """

    count: int = 0
    reason: str = ""
    succeeded: bool = False

    def after(self, error: str, *, forgiven: bool) -> Misses:
        """With one more result: empty means well; a forgiven miss does not count."""
        if not error:
            return Misses(succeeded=True)
        return replace(self, count=0 if forgiven else self.count + 1, reason=error)


@dataclass(frozen=True, slots=True, kw_only=True)
class Vitals:
    """What is known of one live process.

    Attributes:
        now_s: monotonic seconds.
        started_s: when the process began.
        heartbeat_from_s: from when its silence counts; None while the check is not armed.
        heard: whether this process sent a heartbeat.
        cpu_percent, rss_bytes: the newest sample.
        cpu, rss: how long above the limits.
        misses: by kind of probe, in the order of the verdict.
    """

    now_s: float
    started_s: float
    heartbeat_from_s: float | None = None
    heard: bool = False
    cpu_percent: float | None = None
    rss_bytes: int = 0
    cpu: Sustained = Sustained()
    rss: Sustained = Sustained()
    misses: tuple[tuple[str, Misses], ...] = ()


def silence_from(
    spec: AgentConfig, *, started_s: float, heartbeat_s: float | None, ever: bool, watched_s: float
) -> float | None:
    """From when an agent's silence counts, monotonic seconds; None where the check is not armed.

    It arms with the first heartbeat ever, or from the start for type ``custom`` with the timeout written on
    the agent itself. Time before ``watched_s`` does not count: nobody listened, or another timeout held.
    """
    if spec.health_check.heartbeat_timeout <= 0 or not (ever or spec.heartbeat_from_start):
        return None
    return max(started_s, watched_s, heartbeat_s if heartbeat_s is not None else started_s)


def silence_limit_s(check: HealthCheckConfig, vitals: Vitals) -> float | None:
    """When silence becomes a verdict, monotonic seconds; None where the check is not armed."""
    if vitals.heartbeat_from_s is None:
        return None
    return max(vitals.heartbeat_from_s + check.heartbeat_timeout, vitals.started_s + check.start_period)


def judge(spec: AgentConfig, vitals: Vitals, pid: int) -> HealthVerdict:
    """The verdict; of several faults the first decides: heartbeat, cpu, memory, http, tcp, command."""
    check, now = spec.health_check, vitals.now_s
    starting = now < vitals.started_s + check.start_period
    if not starting:
        fault = _silent(check, vitals) or _over(check, vitals) or _failed(spec, vitals)
        if fault is not None:
            return fault
    waits = [kind for kind, misses in vitals.misses if not misses.succeeded]
    if vitals.heartbeat_from_s is not None and not vitals.heard:
        waits.insert(0, "heartbeat")
    if starting and waits:
        left_s = vitals.started_s + check.start_period - now
        return HealthVerdict(
            status=HealthStatus.STARTING, check=waits[0], waits=tuple(waits),
            reason=f"waiting for {', '.join(waits)}; start_period forgives {left_s:.0f} s more",
        )
    return HealthVerdict(
        status=HealthStatus.HEALTHY, reason=f"pid {pid} lives, every check passes", waits=tuple(waits)
    )


def _silent(check: HealthCheckConfig, vitals: Vitals) -> HealthVerdict | None:
    limit_s, since_s = silence_limit_s(check, vitals), vitals.heartbeat_from_s
    if limit_s is None or since_s is None or vitals.now_s < limit_s:
        return None
    age_s = vitals.now_s - since_s
    return HealthVerdict(
        status=HealthStatus.NO_HEARTBEAT, check="heartbeat", value=round(age_s, 3),
        limit=check.heartbeat_timeout, duration_s=round(age_s, 3),
        reason=f"no heartbeat for {age_s:.1f} s, the limit is {check.heartbeat_timeout:g} s",
    )


def _over(check: HealthCheckConfig, vitals: Vitals) -> HealthVerdict | None:
    limit = check.threshold_duration
    cpu_s = vitals.cpu.over_s(vitals.now_s, limit) if check.cpu_threshold else None
    if cpu_s is not None and vitals.cpu_percent is not None:
        return HealthVerdict(
            status=HealthStatus.OVER_THRESHOLD, check="cpu", value=round(vitals.cpu_percent, 1),
            limit=check.cpu_threshold, duration_s=round(cpu_s, 3),
            reason=f"CPU {vitals.cpu_percent:.1f} % of one core, above {check.cpu_threshold:g} % for "
            f"{cpu_s:.1f} s (threshold_duration {limit:g} s)",
        )
    rss_s = vitals.rss.over_s(vitals.now_s, limit) if check.memory_threshold else None
    if rss_s is not None:
        return HealthVerdict(
            status=HealthStatus.OVER_THRESHOLD, check="memory", value=float(vitals.rss_bytes),
            limit=float(check.memory_threshold), duration_s=round(rss_s, 3),
            reason=f"memory {vitals.rss_bytes / MIB:.1f} MiB, above {check.memory_threshold / MIB:.1f} MiB "
            f"for {rss_s:.1f} s (threshold_duration {limit:g} s)",
        )
    return None


def _failed(spec: AgentConfig, vitals: Vitals) -> HealthVerdict | None:
    threshold = spec.health_check.failure_threshold
    for kind, misses in vitals.misses:
        if misses.count >= threshold:
            return HealthVerdict(
                status=HealthStatus.ENDPOINT_FAILED, check=kind, value=float(misses.count),
                limit=float(threshold),
                reason=f"{misses.reason}; {_times(misses.count)} (failure_threshold {threshold})",
            )
    return None


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times in a row"
