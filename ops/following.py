"""A question followed as it goes, and how its events are told to programs."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, Final
from uuid import UUID

import msgspec

from mia_events.ordering import by_time
from schemas.envelope import decode_payload
from schemas.events import QuestionAnswered
from storage.postgres.history import PostgresHistory, QuestionState, StoredEvent, place_after

__all__ = ["Seen", "follow", "in_order", "outcome_of", "told"]

LOOK_EVERY_S: Final = 0.2


class Seen(msgspec.Struct, frozen=True):
    """A look at a question: its state (None: not accepted), what is new, the place behind it."""

    state: QuestionState | None
    events: tuple[StoredEvent, ...]
    place: tuple[int, ...]


async def follow(
    history: PostgresHistory,
    question: UUID,
    place: Sequence[int] = (),
    *,
    every_s: float = LOOK_EVERY_S,
) -> AsyncIterator[Seen]:
    """Look again and again, also when nothing is new; the last look sees the question's end."""
    while True:
        state = await history.question(question)
        events = in_order(await history.steps(state.run_no, question, place)) if state else []
        place = place_after(place, events)
        yield Seen(state, tuple(events), tuple(place))
        if state is not None and state.closed:
            return
        await asyncio.sleep(every_s)


def in_order(events: Iterable[StoredEvent]) -> list[StoredEvent]:
    """Return a question's events by time, those of a stream by number."""
    return by_time(events, lambda event: (event.slot, event.at, event.seq))


def told(event: StoredEvent) -> dict[str, Any]:
    """Return an event as JSON has it; `data` is its payload, None once that was erased."""
    return {
        "id": event.id,
        "type": event.type,
        "at": event.at,
        "question": event.correlation,
        "rollout": event.slot - 1 if event.slot > 0 else None,
        "stream": event.stream,
        "seq": event.seq,
        "cause": event.cause,
        "data": msgspec.json.decode(event.body) if event.body is not None else None,
    }


async def outcome_of(history: PostgresHistory, state: QuestionState) -> dict[str, Any]:
    """Return what became of a question, with the texts of the memories that its answer rests on."""
    payload = decode_payload(state.answered) if state.answered is not None else None
    answered = payload if isinstance(payload, QuestionAnswered) else None
    memories = await history.memories(answered.memories) if answered else []
    return {
        "id": state.id,
        "run": state.run,
        "question": state.text,
        "status": state.status,
        "ended": state.closed,
        "answer": state.answer,
        "reason": state.reason,
        "grade": state.grade,
        "rollout": state.official,
        "policy": answered.policy if answered else None,
        "memories": [
            {"id": m.id, "outcome": m.outcome, "question": m.question, "text": m.text}
            for m in memories
        ],
        "sources": list(answered.sources) if answered else [],
        "accepted_at": state.accepted_at,
        "answered_at": state.answered_at,
        "ended_at": state.ended_at,
    }
