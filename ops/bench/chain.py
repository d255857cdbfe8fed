"""The work that is measured: six steps of real handlers, each with one recorded effect of 1 KB.

execute → tool-call → execute → tool-call → execute → reflect, on one rollout. Only the outside
world is a stub: it answers at once, or after a time drawn from exp(mean).
"""

from __future__ import annotations

import asyncio
import json
import random
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Final
from uuid import UUID

from mia_events import ids, topics
from mia_events.chain import GENESIS, chain_hash
from mia_events.effects import Call, ModelReply, ToolResult, UseTool
from mia_events.lifecycle import Kind
from schemas import events as ev
from schemas.envelope import encode_payload

if TYPE_CHECKING:
    import asyncpg

    from mia_events.effect_codec import Reply
    from mia_events.effects import AnyEffect
    from mia_events.steps import RunView, Task
    from schemas.events import Event

STEPS: Final = 6
_SEARCHES: Final = 2
_PAD: Final = "x" * 850


class StubPerformer:
    """Answers for the world after exp(`mean_s`) seconds; 0: at once. Counts what it was asked."""

    def __init__(self, *, mean_s: float, seed: int = 0) -> None:
        self._mean_s = mean_s
        self._random = random.Random(seed)  # noqa: S311 - a benchmark's latencies
        self.calls = 0

    async def perform(self, effect: AnyEffect, task: Task) -> Reply:
        """See the port."""
        self.calls += 1
        if self._mean_s:
            await asyncio.sleep(self._random.expovariate(1 / self._mean_s))
        match effect:
            case UseTool():
                return ToolResult(ok=True, text=_PAD, sources=("a passage",))
            case Call():
                return ModelReply(text=_said(task), model="stub", completion_tokens=100)
            case _:
                message = f"the chain does not ask for {type(effect).__name__}"
                raise TypeError(message)


def _said(task: Task) -> str:
    if isinstance(task.command, ev.TurnAnswered):
        return "no"
    searches = sum(isinstance(event, ev.TurnToolCalled) for event in task.history)
    if searches < _SEARCHES:
        return json.dumps({"thought": _PAD[:200], "action": "search", "query": f"query {searches}"})
    return json.dumps({"thought": _PAD[:200], "action": "answer", "answer": "forty-two"})


class Seeded:
    """The columns of rollouts that were ordered to run and whose command is not sent yet."""

    def __init__(self, run: RunView, count: int, *, first: int = 0) -> None:
        self.run = run
        self.at = datetime.now(UTC)
        self.events: list[tuple[object, ...]] = []
        self.active: list[tuple[object, ...]] = []
        self.questions: list[tuple[object, ...]] = []
        self.commands: list[tuple[UUID, int]] = []
        for number in range(first, first + count):
            self._rollout(number)

    def _rollout(self, number: int) -> None:
        question = ids.question_id(self.run.id, "bench", str(number))
        asked = ev.QuestionAsked(
            text=f"What is the answer to {number}?", source="bench", row=str(number)
        )
        head, _ = self._log(question, Kind.QUESTION, question, (asked,))
        self.questions.append(
            (
                question,
                self.run.run_no,
                number,
                "bench",
                str(number),
                0,
                "open",
                1,
                head,
                ids.join_id(question, "opened"),
                self.at,
            )
        )
        rollout = ids.rollout_id(question, 0)
        history: tuple[Event, ...] = (
            ev.RolloutOpened(number=0, generation=0),
            ev.RolloutPlanned(plan="1. search\n2. answer"),
            ev.RolloutChosen(role="sibling"),
        )
        head, last = self._log(rollout, Kind.ROLLOUT, question, history)
        self.active.append(
            (
                rollout,
                self.run.run_no,
                Kind.ROLLOUT,
                "executing",
                len(history),
                head,
                last,
                topics.EXECUTE,
                question,
                self.at,
            )
        )
        self.commands.append((rollout, len(history)))

    def _log(
        self, stream: UUID, kind: Kind, question: UUID, history: tuple[Event, ...]
    ) -> tuple[bytes, UUID]:
        head, event_id = GENESIS, stream
        for seq, event in enumerate(history, start=1):
            body, event_id = encode_payload(event), ids.event_id(stream, seq)
            digest = sha256(body).digest()
            head = chain_hash(
                head,
                stream=stream,
                seq=seq,
                event_id=event_id,
                cause=None,
                at=self.at,
                body_sha256=digest,
                type_=ev.event_type(event),
            )
            self.events.append(
                (
                    self.run.run_no,
                    stream,
                    seq,
                    event_id,
                    kind,
                    ev.event_type(event),
                    self.at,
                    question,
                    digest,
                    head,
                    body,
                )
            )
        return head, event_id

    async def write(self, connection: asyncpg.Connection) -> None:
        """Copy everything into the ledger."""
        await connection.copy_records_to_table(
            "event",
            records=self.events,
            columns=[
                "run_no",
                "stream",
                "seq",
                "id",
                "kind",
                "type",
                "at",
                "correlation",
                "body_sha",
                "hash",
                "body",
            ],
        )
        await connection.copy_records_to_table(
            "question",
            records=self.questions,
            columns=[
                "id",
                "run_no",
                "pos",
                "source",
                "row",
                "pass_no",
                "status",
                "g",
                "head",
                "opened_event",
                "accepted_at",
            ],
        )
        await connection.copy_records_to_table(
            "active",
            records=self.active,
            columns=[
                "stream",
                "run_no",
                "kind",
                "status",
                "version",
                "head",
                "pending",
                "topic",
                "parent",
                "updated_at",
            ],
        )
        await connection.executemany(
            "INSERT INTO rollout (id, question, run_no, number, phase) VALUES ($1, $2, $3, 0, 1)",
            [(row[0], row[8], row[1]) for row in self.active],
        )


__all__ = ["STEPS", "Seeded", "StubPerformer"]
