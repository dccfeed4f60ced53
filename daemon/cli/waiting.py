"""``--wait`` of an update: until it is over, also where the daemon becomes another version meanwhile."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from daemon.cli.client import segment
from daemon.cli.faults import CliFault, Refused, Unreachable
from daemon.cli.session import Session
from daemon.cli.words import printable

POLL_S = 0.3
LATE_S = 15.0  # a daemon becomes its new version in a second or two; past this somebody may have to start it
BACK_S = 60.0  # past verify_timeout, for the old version to be started again
AWAY_S = 600.0  # patience where verify_timeout cannot be asked for
_CHANGED = ("apply", "verify", "prune", "rollback")  # steps that are not called off any more
Update = Mapping[str, Any]


def under_way(view: Update) -> bool:
    """Whether something follows; a state that is newer than this program is no end by itself."""
    return view["success"] is None


def progress(view: Update) -> str:
    """``web 1.1.0: download (45%)``."""
    share = f" ({view['progress']:.0%})" if 0 < view["progress"] < 1 else ""
    step = "over" if view["step"] == "done" else view["step"]
    return f"{view['component']} {view['version']}: {step}{share}"


def away(seconds: float, patience_s: float) -> str:
    """What is said while no daemon answers."""
    if seconds < LATE_S:
        return f"waiting for the daemon ({seconds:.0f} s)"
    return (
        f"no daemon for {LATE_S:g} s; agents run on. A version that hangs is given up in its time; if "
        f"none runs: systemctl start hostdaemon. Waiting up to {patience_s:g} s ({seconds:.0f} s)"
    )


def interrupted(view: Update, update_id: str, *, silent: bool) -> str:
    """What is said at Ctrl-C.

    Args:
        view: the last one that came; empty for none.
        update_id: of the update.
        silent: whether no daemon answers, so that it may be further than the view says.
    """
    goes_on = f"the update goes on without you; hostctl updates {update_id} --wait looks on"
    if view and (silent or view["step"] in _CHANGED):
        return f"{goes_on}, and once it is over hostctl rollback {view['component']} goes back"
    return f"{goes_on}, --cancel calls it off"


def until_over(session: Session, update_id: str) -> Update:
    """Shows how far an update is, until it is over.

    Returns:
        its last view.

    Raises:
        CliFault: the daemon refuses, or stays away for longer than an update may take.
    """
    view: Update = {}
    said, silent = "", False
    patience_s = _patience(session)
    answered_at = time.monotonic()
    try:
        with session.busy("the update is accepted") as spinner:
            while True:
                try:
                    view = session.client.get(f"/v1/updates/{segment(update_id)}")
                    if not under_way(view):
                        return view
                    answered_at, silent = time.monotonic(), False
                    text = progress(view)
                except (Unreachable, Refused) as fault:
                    away_s = time.monotonic() - answered_at
                    if not _comes_back(fault):
                        raise
                    if away_s > patience_s:
                        session.say(
                            f"the update is not over; the next daemon ends or undoes it, and then hostctl "
                            f"updates {update_id} has what came of it"
                        )
                        raise
                    text, silent = away(away_s, patience_s), True
                if spinner is not None:
                    spinner.update(printable(text).replace("[", "\\["))
                elif text.partition(" (")[0] != said:
                    said = text.partition(" (")[0]
                    session.say(said)
                time.sleep(POLL_S)
    except KeyboardInterrupt:
        session.say(interrupted(view, update_id, silent=silent))
        raise


def _comes_back(fault: CliFault) -> bool:
    """Whether the daemon is between two lives, or leaves."""
    if isinstance(fault, Refused):
        return fault.http_status == 503
    return isinstance(fault, Unreachable) and fault.away


def _patience(session: Session) -> float:
    """How long a daemon may be away: a new version that hangs is away for ``update.verify_timeout``."""
    try:
        return float(session.client.get("/v1/config")["update"]["verify_timeout"]) + BACK_S
    except (CliFault, LookupError, TypeError, ValueError):
        return AWAY_S
