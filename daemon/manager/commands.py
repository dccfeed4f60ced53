"""Operations that operators ask for: written down, forwarded, and their outcome written down."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from daemon.aio.reactor import Clock
from daemon.errors import DaemonError, RequestError, RequestFault
from daemon.interfaces import WallClock
from daemon.manager import queries, records
from daemon.manager.daemons import Answer, Target
from daemon.manager.intake import Intake
from daemon.manager.model import CommandRow, CommandState, NodeRow
from daemon.rpc.status import plain

UNDER_WAY_MAX = 64  # each holds a channel; more callers are told to come again
PEER_MAX = 250

Operate = Callable[[Target, str, str], Coroutine[Any, Any, Answer]]
Read = Callable[..., Deferred[Any]]


class Commands:
    """Forwards operations.

    A caller that leaves takes nothing back: the operation goes on, and its result is read later.

    Args:
        clock: bounds the stop.
        wall: what is stored.
        intake: writes.
        read: reads.
        target_of: where a node is called; raises RequestError.
        operate: calls it.

    Attributes:
        ended_total: operations by the state they ended in.
    """

    log = Logger()

    def __init__(
        self, clock: Clock, wall: WallClock, intake: Intake, read: Read, *,
        target_of: Callable[[NodeRow], Target], operate: Operate,
    ) -> None:
        self.ended_total: Counter[str] = Counter()
        self._clock = clock
        self._wall = wall
        self._intake = intake
        self._read = read
        self._target_of = target_of
        self._operate = operate
        self._under_way: set[Deferred[Any]] = set()
        self._stopping = False
        self._drained: Deferred[None] | None = None

    @property
    def under_way(self) -> int:
        """Operations that have not ended."""
        return len(self._under_way)

    def ask(
        self, node_id: str, agent_id: str, operation: str, peer: str
    ) -> Deferred[tuple[CommandRow, Answer]]:
        """Forwards an operation and waits for its outcome.

        Raises:
            RequestError: STOPPING; BUSY. The Deferred fails with UNKNOWN (no such node) or PRECONDITION.
        """
        if self._stopping:
            raise RequestError(RequestFault.STOPPING, "the Manager is stopping", retry_after_s=5)
        if len(self._under_way) >= UNDER_WAY_MAX:
            raise RequestError(
                RequestFault.BUSY, f"{UNDER_WAY_MAX} operations are under way already", retry_after_s=5
            )
        work = Deferred.fromCoroutine(self._carry_out(node_id, agent_id, operation, peer))
        self._under_way.add(work)
        waiter: Deferred[tuple[CommandRow, Answer]] = Deferred(lambda _deferred: None)
        work.addBoth(self._ended, work, waiter)
        return waiter

    def _ended(self, result: Any, work: Deferred[Any], waiter: Deferred[Any]) -> None:
        self._under_way.discard(work)
        if not self._under_way and self._drained is not None:
            drained, self._drained = self._drained, None
            drained.callback(None)
        if not waiter.called:
            waiter.callback(result)
        elif isinstance(result, Failure) and not result.check(RequestError, DaemonError, CancelledError):
            self.log.failure("an operation failed whose caller had left", failure=result)

    async def _carry_out(
        self, node_id: str, agent_id: str, operation: str, peer: str
    ) -> tuple[CommandRow, Answer]:
        target = self._target_of(await self._read(queries.node, node_id))
        command = CommandRow(
            command_id=str(uuid.uuid4()), node_id=node_id, agent_id=agent_id, operation=operation,
            peer=plain(peer, PEER_MAX), state=CommandState.RUNNING.value, message="", code="",
            asked_at=self._wall(), ended_at=0.0,
        )
        await self._intake.submit(lambda tx: records.begin_command(tx, command))
        try:
            answer = await self._operate(target, agent_id, operation)
        except CancelledError:
            answer = Answer(
                state=CommandState.UNKNOWN, status="CANCELLED",
                message="the Manager stopped before the answer came; look at the agent",
            )
        except Exception:
            await self._write_down(command, Answer(
                state=CommandState.UNKNOWN, status="INTERNAL",
                message="a fault of the Manager; its log says more",
            ))
            raise
        return await self._write_down(command, answer), answer

    async def _write_down(self, command: CommandRow, answer: Answer) -> CommandRow:
        now = self._wall()
        self.ended_total[answer.state.value] += 1
        self.log.info(
            "{operation} {agent_id} on {node_id} by {peer}: {state} {message}",
            operation=command.operation, agent_id=command.agent_id, node_id=command.node_id,
            peer=command.peer, state=answer.state.value, message=answer.message,
        )

        def write(tx: Any) -> None:
            records.end_command(tx, command.command_id, answer.state, answer.message, answer.code, now)
            good = answer.state in (CommandState.DONE, CommandState.IN_PROGRESS)
            records.notice(
                tx, command.node_id, "manager.operation",
                f"{command.operation} of {command.agent_id} by {command.peer}: {answer.state.value}"
                f"{f', {answer.message}' if answer.message else ''}",
                now, severity="info" if good else "warn", agent_id=command.agent_id,
            )

        await self._intake.submit(write)
        return command._replace(
            state=answer.state.value, message=answer.message, code=answer.code, ended_at=now
        )

    async def stop(self, grace_s: float) -> None:
        """Takes no more; waits for those under way, then leaves them with their outcome unknown."""
        self._stopping = True
        timer = self._clock.callLater(grace_s, self._give_up)
        if self._under_way:
            self._drained = Deferred()
            await self._drained
        if timer.active():
            timer.cancel()

    def _give_up(self) -> None:
        for work in tuple(self._under_way):
            work.cancel()
