"""Notices that the configuration file changed, however it was changed, and asks for a reload."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from daemon.aio.notify import Notifier, TakeBack
from daemon.aio.periodic import Periodic, periodic
from daemon.aio.reactor import Clock, DelayedCall
from daemon.aio.threads import LaneBusy, LaneTimeout, Threads
from daemon.control.config_file import LANE, READ_DEADLINE_S, Places, Sight, look_at
from daemon.control.config_manager import ConfigManager
from daemon.errors import ConfigLoadError, ConfigValidateError, RequestError

log = Logger()

QUIET_S = 0.3  # after the last event: an editor writes in several steps
PATIENCE_S = 2.0  # but never longer after the first one
LOOK_EVERY_S = 30.0  # where no watch is to be had, and before another try where a look came to nothing
LOOKS_MAX = 4  # in a row while the way to the file keeps changing; then an event tells of the next change

_Watched = tuple[Path, bool]
"""A directory, and whether its entries are watched or only the directory itself."""


def delay_s(first_s: float, now_s: float) -> float:
    """Seconds to wait after an event at ``now_s`` of a burst that began at ``first_s``, both monotonic."""
    return min(QUIET_S, max(0.0, first_s + PATIENCE_S - now_s))


class ConfigWatch(Service):
    """Watches the file of a :class:`ConfigManager`, which stops with it: its end is the end of all reloads.

    What the path leads to is found on a thread, and a watch is set only after the file has answered there;
    what happened before a watch stood is found by looking again.

    Args:
        clock: waits for the end of a change.
        notifier: tells of changes.
        threads: reads the file.
        manager: reloads it.
    """

    def __init__(self, clock: Clock, notifier: Notifier, threads: Threads, manager: ConfigManager) -> None:
        self._clock = clock
        self._notifier = notifier
        self._threads = threads
        self._manager = manager
        self._watches: dict[_Watched, TakeBack] = {}
        self._places = Places(names={}, above=frozenset())
        self._quiet: DelayedCall | None = None  # until the burst of events is over
        self._retry: DelayedCall | None = None
        self._burst_s = 0.0
        self._rounds: Periodic | None = None
        self._looking = False
        self._again = False
        self._reading: Deferred[Sight] | None = None
        self._ends: list[Deferred[None]] = []
        self._refused = ""  # what was refused last: not to be refused again at every event near it
        self._said = ""  # why the file cannot be looked at, said once

    @property
    def watched(self) -> tuple[Path, ...]:
        """The directories under watch."""
        return tuple(sorted({path for path, _entries in self._watches}))

    def startService(self) -> None:
        """Begins to watch; what changed since the file was loaded is taken."""
        super().startService()
        self._look_now()

    def stopService(self) -> Deferred[None]:
        """Ends it; fires when a look or a reload under way has ended."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._disarm(self._watches)
        for call in (self._quiet, self._retry):
            if call is not None:
                call.cancel()
        self._quiet = self._retry = None
        if self._rounds is not None:
            await self._rounds.stop()
            self._rounds = None
        if self._reading is not None:
            self._reading.cancel()
        await self._manager.stop()
        if self._looking:
            end: Deferred[None] = Deferred()
            self._ends.append(end)
            await end

    # ------------------------------------------------------------------ events

    def _event(self, directory: Path, name: str) -> None:
        """An entry of a directory changed; without a name the directory itself, or events were lost."""
        if not name:  # what went below it went with it, and its watches look at what has moved away
            self._disarm([key for key in self._watches if key[0].is_relative_to(directory)])
        elif name not in self._places.names.get(directory, ()):
            return
        now_s = self._clock.seconds()
        if self._quiet is None:
            self._burst_s = now_s
        else:
            self._quiet.cancel()
        self._quiet = self._clock.callLater(delay_s(self._burst_s, now_s), self._burst_over)

    def _burst_over(self) -> None:
        self._quiet = None
        self._look_now()

    def _retry_later(self) -> None:
        if self._retry is None and self.running:
            self._retry = self._clock.callLater(LOOK_EVERY_S, self._retry_due)

    def _retry_due(self) -> None:
        self._retry = None
        self._look_now()

    # ------------------------------------------------------------------- looks

    def _look_now(self) -> None:
        self._again = True
        if not self._looking and self.running:
            work = Deferred.fromCoroutine(self._looks())
            work.addErrback(lambda failure: log.failure("looks at the configuration file", failure=failure))

    async def _looks(self) -> None:
        """One look, and one more as long as somebody asked meanwhile."""
        self._looking = True
        try:
            while self._again and self.running:
                self._again = False
                try:
                    await self._look()
                except Exception:  # noqa: BLE001 - logged; the next look may go well
                    log.failure("a look at the configuration file")
                    self._retry_later()
        finally:
            self._looking = False
            ends, self._ends = self._ends, []
            for end in ends:
                end.callback(None)

    async def _look(self) -> None:
        for _look in range(LOOKS_MAX):
            sight = await self._seen()
            if sight is None or not self.running:
                return
            fresh, unwatched = self._arm(sight.places)
            if not fresh:
                break
        else:
            sight = None  # the way to it changes faster than we look
            self._retry_later()
        await self._watch_or_poll(unwatched)
        if sight is not None:
            await self._take(sight)

    async def _seen(self) -> Sight | None:
        self._reading = self._threads.run(LANE, READ_DEADLINE_S, look_at, self._manager.path)
        try:
            return await self._reading
        except CancelledError:
            return None  # we stop
        except (LaneBusy, LaneTimeout) as error:
            self._say(f"does not answer ({error}); check the mount it is on")
            self._retry_later()
            return None
        finally:
            self._reading = None

    async def _take(self, sight: Sight) -> None:
        """Asks for a reload when the text is another than the one in force, or than the one refused last."""
        if sight.missing:
            self._say("is gone")
            return
        self._said = ""
        if sight.busy:  # the end of the writing is an event; unless it is written by another name
            self._retry_later()
            return
        state = self._manager.state()
        text = sight.digest or sight.error
        if text == (state.digest if state.ok else self._refused):
            return
        self._refused = text
        try:
            await self._manager.reload(reason="file changed")
        except RequestError:
            return  # we stop
        except (ConfigLoadError, ConfigValidateError) as error:  # told by the manager
            if error.details.get("unanswered"):
                self._refused = ""
                self._retry_later()

    def _say(self, what: str) -> None:
        if what != self._said:
            self._said = what
            path = str(self._manager.path)
            log.warn("{path} {what}; the configuration in force stays", path=path, what=what)

    # ----------------------------------------------------------------- watches

    def _arm(self, places: Places) -> tuple[bool, OSError | None]:
        """Watches what the path leads through now.

        Returns:
            whether a watch is new, so that changes before it were missed; and why one is not to be had.
        """
        self._places = places
        wanted = [*((path, True) for path in places.names), *((path, False) for path in places.above)]
        self._disarm(self._watches.keys() - set(wanted))
        fresh, refused = False, None
        for key in wanted:
            if key in self._watches:
                continue
            path, entries = key
            try:
                if entries:
                    self._watches[key] = self._notifier.entries(path, partial(self._event, path))
                else:
                    self._watches[key] = self._notifier.once(path, partial(self._event, path, ""))
                fresh = True
            except OSError as error:
                if entries:  # a directory above may be closed to us: its renaming goes unnoticed, no more
                    refused = error
        return fresh, refused

    def _disarm(self, keys: Iterable[_Watched]) -> None:
        for key in tuple(keys):
            self._watches.pop(key)()

    async def _watch_or_poll(self, refused: OSError | None) -> None:
        """Looks at the file regularly as long as a watch is not to be had."""
        if refused is not None and self._rounds is None:
            log.warn(
                "{path} cannot be watched ({error}); it is looked at every {seconds} s instead",
                path=str(self._manager.path), error=refused.strerror or str(refused), seconds=LOOK_EVERY_S,
            )
            self._rounds = periodic(
                self._clock, LOOK_EVERY_S, self._look_now, name="configuration file", phase_s=LOOK_EVERY_S
            )
        elif refused is None and self._rounds is not None:
            rounds, self._rounds = self._rounds, None
            log.info("{path} is watched again", path=str(self._manager.path))
            await rounds.stop()
